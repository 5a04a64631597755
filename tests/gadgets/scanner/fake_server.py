"""A server as small as can be: a plan once the ACS is there, an image when the slice is, and a diary."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import ismrmrd
import numpy as np

from gadgets import protocol


def plan_image(index: int, pe: int, lines: list[int], **meta: str) -> ismrmrd.Image:
    """A sampling plan as the chain sends it."""
    mask = np.zeros((1, 1, 1, pe), dtype=np.uint16)
    mask[..., lines] = 1
    image = ismrmrd.Image.from_array(mask, transpose=False, slice=index, image_series_index=1000)
    image.meta = {
        "DataRole": "SamplingPlan",
        **({"PASS_lines": [str(line) for line in lines]} if lines else {}),
        "PASS_slice": str(index),
        "PASS_source": "personal",
    } | meta
    return image


class FakeServer:
    """Takes one scan.

    Parameters
    ----------
    planner
        Slice and number of lines → the lines of the plan, or None to stay silent.
    acs
        Number of flagged lines after which a slice is planned.
    delay
        Seconds that a plan takes.
    second
        Slice → the additional lines of its second plan, sent once the slice is over, or None to stay silent.
    misbehave
        Called after each acquisition with the channel and their number; may raise ConnectionAbortedError to hang up.
    """

    def __init__(
        self,
        planner: Callable[[int, int], list[int] | None] = lambda index, pe: None,
        *,
        acs: int = 0,
        delay: float = 0.0,
        second: Callable[[int], list[int] | None] | None = None,
        misbehave: Callable[[protocol.Channel, int], None] = lambda channel, count: None,
    ) -> None:
        self.acquisitions: list[ismrmrd.Acquisition] = []
        self.waveforms: list[ismrmrd.Waveform] = []
        self.config: protocol.Message | None = None
        self.header = b""
        self.events: list[tuple[str, int]] = []
        self._planner, self._acs, self._delay, self._misbehave = planner, acs, delay, misbehave
        self._second = second
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(timeout=30)
        self._listener.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        connected, _ = self._listener.accept()
        channel = protocol.Channel(connected)
        try:
            self.config = channel.read_message()
            self.header = channel.read_message().item
            self._pe = ismrmrd.xsd.CreateFromDocument(self.header).encoding[0].encodedSpace.matrixSize.y
            while (message := channel.read_message()).id != protocol.MessageId.CLOSE:
                self._take(channel, message)
            channel.send(protocol.close())
        except (protocol.PeerLost, ConnectionAbortedError):
            pass
        finally:
            channel.close()

    def _take(self, channel: protocol.Channel, message: protocol.Message) -> None:
        if message.id == protocol.MessageId.WAVEFORM:
            self.waveforms.append(message.item)
            return
        acquisition = message.item
        self.acquisitions.append(acquisition)
        index = acquisition.idx.slice
        pe = self._pe
        if acquisition.isFlagSet(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING):
            self.events.append(("acs", index))
            if self.events.count(("acs", index)) == self._acs and (lines := self._planner(index, pe)) is not None:
                time.sleep(self._delay)
                self.events.append(("plan", index))
                more = {"PASS_second_look": "slice"} if self._second else {}
                channel.send(protocol.encode(plan_image(index, pe, lines, **more)))
        elif not acquisition.isFlagSet(ismrmrd.ACQ_IS_NOISE_MEASUREMENT):
            self.events.append(("line", index))
        if acquisition.isFlagSet(ismrmrd.ACQ_LAST_IN_SLICE):
            self.events.append(("image", index))
            pixels = np.full((8, 6), index, dtype=np.uint16)
            channel.send(
                protocol.encode(ismrmrd.Image.from_array(pixels, transpose=False, slice=index, image_series_index=1))
            )
            again = self.events.count(("image", index)) > 1
            if self._second and not again and (lines := self._second(index)) is not None:
                self.events.append(("second plan", index))
                channel.send(protocol.encode(plan_image(index, pe, lines, PASS_round="2")))
        self._misbehave(channel, len(self.acquisitions))
