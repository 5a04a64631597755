"""What comes back from a server while a scan is running: images to the output file, plans to whoever waits for them."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass

import ismrmrd

from gadgets import protocol
from gadgets.converters.image_file import ImageFile
from gadgets.mrd import bundle_of, is_plan, remarks
from gadgets.mrd.images import Remark
from pass_recon.types import InputError, PassError, printable

_log = logging.getLogger(__name__)
# (slice, contrast, phase, repetition, set): what an Image says of the acquisitions that it came from.
ImageKey = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class PlannedLines:
    """The lines to send for one slice.

    Attributes
    ----------
    order
        Indices of the lines in the encoded grid, in order of acquisition, ACS included.
    pe
        Number of lines of that grid.
    source
        ``"personal"`` or ``"population"`` as the server says; ``"variable density"`` where the scanner had to choose.
    fallback
        Why it is not the plan that was asked for; empty if nothing failed.
    second_look
        What kind of second look is to follow, ``"slice"`` or ``"scan"``; empty if none is.
    round
        2 for the additional lines of a second look.
    """

    order: tuple[int, ...]
    pe: int
    source: str
    fallback: str = ""
    second_look: str = ""
    round: int = 1


@dataclass(frozen=True)
class Arrival:
    """An image came: its series, its (slice, contrast, phase, repetition, set), seconds since the scan began."""

    series: int
    key: ImageKey
    seconds: float


def read_plan(image: ismrmrd.Image) -> PlannedLines | None:
    """The plan that an image carries; None if it carries none.

    Raises
    ------
    InputError
        If it claims to be a plan and is not one.
    """
    if not is_plan(image):
        return None
    mask = image.data.ravel() != 0
    order = image.meta.get("PASS_lines", [])
    try:
        lines = tuple(int(line) for line in ([order] if isinstance(order, str) else order))
    except ValueError as error:
        raise InputError(f"the plan for slice {image.slice} names lines that are no numbers: {error}") from error
    if sorted(lines) != mask.nonzero()[0].tolist():
        raise InputError(f"the plan for slice {image.slice} contradicts itself: its lines are not those of its mask")
    source, fallback, second_look = (
        str(image.meta.get(name, "")) for name in ("PASS_source", "PASS_fallback", "PASS_second_look")
    )
    number = 2 if str(image.meta.get("PASS_round", "")) == "2" else 1
    return PlannedLines(lines, len(mask), source, fallback, second_look, number)


class Receiver:
    """Reads from a server on its own thread until the server has said CLOSE, so that sending never has to wait.

    Parameters
    ----------
    channel
        The connection.
    output
        Takes each image as it comes.

    Attributes
    ----------
    errors, warnings
        What the server reported.
    remarks
        What images say of themselves.
    bundle
        Which bundle they were made with, and why.
    lost
        How the connection ended if not with CLOSE; empty otherwise.
    arrivals
        What came when.
    """

    def __init__(self, channel: protocol.Channel, output: ImageFile) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.remarks: list[Remark] = []
        self.bundle = ""
        self.lost = ""
        self.arrivals: list[Arrival] = []
        self._channel, self._output = channel, output
        self._began = time.perf_counter()
        self._heard = 0.0  # when the last message came
        self._plans: dict[tuple[ImageKey, int], tuple[PlannedLines, float]] = {}
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether the server will send nothing more."""
        return self._ended

    def elapsed(self) -> float:
        """Seconds since the scan began."""
        return time.perf_counter() - self._began

    def wait_for_plan(
        self, key: ImageKey, timeout: float, *, number: int = 1, after_error: float = math.inf
    ) -> tuple[PlannedLines, float] | None:
        """The plan of a slice for a round and when it came; None if it does not come in time, or never will.

        Where the server has reported an error and sent no plan yet, it is waited for no longer than ``after_error``.
        """
        wanted = key, number
        with self._changed:
            self._changed.wait_for(lambda: wanted in self._plans or self._ended or self._fails(), timeout)
            if wanted not in self._plans and self._fails():
                self._changed.wait_for(lambda: wanted in self._plans or self._ended, min(timeout, after_error))
            return self._plans.get(wanted)

    def _fails(self) -> bool:
        return bool(self.errors) and not self._plans

    def wait(self, timeout: float | None = None) -> None:
        """Until the server has sent everything."""
        self._thread.join(timeout)

    def wait_while_it_speaks(self, silence: float) -> bool:
        """Until the server has sent everything, and True; False once it has been silent for so many seconds."""
        began = self.elapsed()
        while self._thread.is_alive():
            left = max(began, self._heard) + silence - self.elapsed()
            if left <= 0:
                return False
            self._thread.join(left)
        return True

    def _run(self) -> None:
        try:
            while (message := self._channel.read_message()).id != protocol.MessageId.CLOSE:
                self._take(message)
        except (protocol.PeerLost, PassError, OSError) as error:
            self._lose(str(error))
        except Exception as error:  # noqa: BLE001, whatever ends this thread is a failure that is said
            self._lose(f"{type(error).__name__}: {error}")
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _lose(self, reason: str) -> None:
        self.lost = reason
        self._channel.close()  # or a sender could wait for ever for a server that waits for us to read

    def _take(self, message: protocol.Message) -> None:
        now = self._heard = self.elapsed()
        said = _lines(message.item) if message.id in (protocol.MessageId.TEXT, protocol.MessageId.ERROR) else ""
        if message.id == protocol.MessageId.IMAGE:
            self._image(message, now)
        elif message.id == protocol.MessageId.ERROR or (
            message.id == protocol.MessageId.TEXT and protocol.is_error_text(message.item)
        ):
            # The embedded server says everything twice: at once as Text, like a real one, and at the end as Error.
            if said not in self.errors:
                with self._changed:
                    self.errors.append(said)
                    self._changed.notify_all()
        elif message.id == protocol.MessageId.TEXT and protocol.is_warning_text(message.item):
            self.warnings.append(said)
        elif message.id == protocol.MessageId.TEXT:
            _log.info("%s", said)

    def _image(self, message: protocol.Message, now: float) -> None:
        image, plan = self._readable(message), None
        key = (image.slice, image.contrast, image.phase, image.repetition, image.set)
        self.arrivals.append(Arrival(image.image_series_index, key, now))
        try:
            plan = read_plan(image)
        except InputError as error:  # it is an image all the same
            self.errors.append(str(error))
        if plan is not None and plan.source != "acquired":
            with self._changed:
                self._plans.setdefault((key, plan.round), (plan, now))
                self._changed.notify_all()
        self.remarks += remarks(image)
        self.bundle = self.bundle or printable(bundle_of(image))
        try:
            self._output.append(image)
        except InputError as error:  # a full disk is said once; plans go on to be followed, and smaller images may fit
            if str(error) not in self.errors:
                self.errors.append(str(error))

    def _readable(self, message: protocol.Message) -> ismrmrd.Image:
        try:
            return message.item
        except protocol.ProtocolError as error:
            image = protocol.image_without_meta(message.body)
            self.errors.append(f"{error}; image {image.image_index} of series {image.image_series_index} has no meta")
            return image


def _lines(text: str) -> str:
    """What a server said, for a terminal: no escape codes, its lines as they are."""
    return "\n".join(printable(line.expandtabs()) for line in text.rstrip().split("\n"))
