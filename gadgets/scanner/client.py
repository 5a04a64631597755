"""A client with the stock client's habits, and a simulated scanner that closes the loop.

Plain: the whole file is sent, as the stock client would. Closed loop: for each slice the ACS lines are sent, the plan
is awaited, and the lines of the plan are sent and no others; while one slice waits for its plan, or is being
reconstructed, the ACS of the next goes out. Where the chain takes a second look, the additional lines of a slice go out
once the slice that is under way is over; at the end the answers that are missing are awaited.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import ismrmrd

from gadgets import protocol
from gadgets.converters.image_file import ImageFile
from gadgets.mrd import SliceKey, sentences
from gadgets.mrd.scan_file import ScanFile
from gadgets.scanner.receiver import Arrival, PlannedLines, Receiver
from gadgets.scanner.scan_order import ScanOrder, SliceLines, mark, scan_order
from pass_recon.sampling.budget import line_budget
from pass_recon.types import InputError

FIRST_PLAN_TIMEOUT = 60.0  # a server that has only just been asked still starts its gadgets
PLAN_TIMEOUT = 5.0
SECOND_PLAN_TIMEOUT = 60.0  # the chain answers by its own deadline, unless it is gone
_AFTER_ERROR = 1.0  # that the server has reported before it sent any plan: there will hardly be one
SILENCE_TIMEOUT = 300.0  # one large slice on a slow machine may take minutes
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ScanSettings:
    """How to scan.

    Attributes
    ----------
    address, port
        The server.
    config
        Name of a configuration on the server.
    config_script
        A configuration to send instead.
    group
        HDF5 group of the output; the local time by default, as the stock client does.
    closed_loop
        Send the ACS, wait for the plan, send its lines.
    acceleration
        R of a closed loop.
    plan_timeout
        Seconds to wait for a plan before lines of variable density are taken; by default `PLAN_TIMEOUT`, and
        `FIRST_PLAN_TIMEOUT` for the first plan.
    second_plan_timeout
        Seconds to wait, once all slices have been sent, for an answer to a slice that is to be looked at; 0 scans
        without a second round.
    repetition_time
        Seconds between lines; 0 sends as fast as the server takes them.
    timeout
        Seconds without a sign of life after which the server is given up: while it takes no more lines, or when all
        have been sent and nothing comes.
    """

    address: str = "localhost"
    port: int = 9002
    config: str = "default.xml"
    config_script: bytes | None = None
    group: str | None = None
    closed_loop: bool = False
    acceleration: float = 4.0
    plan_timeout: float | None = None
    second_plan_timeout: float = SECOND_PLAN_TIMEOUT
    repetition_time: float = 0.0
    timeout: float = SILENCE_TIMEOUT


@dataclass
class SliceReport:
    """What happened to one slice of a closed-loop scan; times in seconds since the scan began.

    Attributes
    ----------
    key
        Which slice.
    plan
        The plan that was followed.
    acs
        Its ACS lines.
    lines
        The lines that were sent, in order, ACS included.
    asked
        When the last ACS line was sent.
    answered
        When the plan arrived; None if none came in time.
    first_planned, last_planned
        When the first line after the ACS was about to be sent, and when the last one had been sent.
    missing
        Planned lines that the file does not hold.
    second
        The second plan; None if there was no second look, or no answer.
    additional
        The lines of the second plan that were sent.
    """

    key: SliceKey
    acs: range
    plan: PlannedLines | None = None
    lines: list[int] = field(default_factory=list)
    asked: float = 0.0
    answered: float | None = None
    first_planned: float = 0.0
    last_planned: float = 0.0
    missing: int = 0
    second: PlannedLines | None = None
    additional: list[int] = field(default_factory=list)

    @property
    def seconds_to_plan(self) -> float:
        """From the last ACS line sent to the plan received, as the scanner saw it; NaN without a plan."""
        return math.nan if self.answered is None else self.answered - self.asked


@dataclass
class ScanReport:
    """What a scan did.

    Attributes
    ----------
    sent
        Acquisitions sent, noise scans included.
    file, group
        Where the images are.
    images
        Images received and stored, plans included.
    errors
        What the server reported, and how the connection ended if it did not end well.
    warnings
        What is odd but does not stop the scan.
    slices
        One record a slice, in closed loop.
    arrivals
        What came when.
    seconds
        From the connection to the end of the answer.
    bundle
        Which bundle the images were made with, and why.
    """

    file: Path = Path()
    group: str = ""
    sent: int = 0
    images: int = 0
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    slices: list[SliceReport] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    seconds: float = 0.0
    bundle: str = ""


def run_scan(
    source: ScanFile, outfile: str | Path, settings: ScanSettings, *, progress: Progress | None = None
) -> ScanReport:
    """Send a scan to a server and store the images that come back.

    Parameters
    ----------
    source
        The scan.
    outfile
        HDF5 file for the images; not touched if none comes.
    settings
        Where to, and how.
    progress
        Called with the number of lines sent and their total.

    Returns
    -------
    ScanReport
        What happened; ``errors`` is empty if all went well.

    Raises
    ------
    InputError
        If the file is not fit for the scan, or the output cannot be written to.
    ConnectionError
        If there is no server.
    """
    order = scan_order(source, settings.acceleration) if settings.closed_loop else None
    budget = line_budget(order.pe, settings.acceleration) if order else 0
    output = ImageFile(outfile, settings.group, source.header_xml)
    try:
        channel = _connect(settings)
    except BaseException:
        output.discard()
        raise
    channel.give_up_after(sending=settings.timeout)
    receiver, report, lost = Receiver(channel, output), ScanReport(), ""
    try:
        channel.send(_configuration(settings))
        channel.send(protocol.header(source.header_xml))
        sender = _Sender(channel, receiver, settings, report, progress)
        if order is None:
            sender.everything(source)
        else:
            sender.closed_loop(source, order, budget)
        channel.send(protocol.close())
        if not receiver.wait_while_it_speaks(settings.timeout):
            lost = f"is given up: {settings.timeout:g} s without a word, while its images or its CLOSE were awaited"
    except protocol.PeerStalled:
        lost = f"is given up: it took no line for {settings.timeout:g} s"
    except protocol.PeerLost as error:
        # What the server said before it went is in the socket still, and says why.
        receiver.wait(timeout=2.0)
        if not receiver.errors:
            lost = f"went away: {receiver.lost or error}"
    finally:
        if receiver.lost and not lost:
            lost = f"went away: {receiver.lost}"
        channel.close()
        receiver.wait()
        report.seconds = receiver.elapsed()
        output.describe(source.path, _told_of(settings), [*receiver.errors, *receiver.warnings, *report.warnings])
        output.keep()
        report.file, report.group = output.path, output.group
        report.images, report.arrivals, report.bundle = output.images, receiver.arrivals, receiver.bundle
        report.errors, report.warnings = [*receiver.errors, *output.trouble], receiver.warnings + report.warnings
        report.warnings += sentences(receiver.remarks, _told(report))
    if lost:
        report.errors.append(f"with {report.sent} acquisitions sent, the server {lost}")
    return report


def _told_of(settings: ScanSettings) -> dict[str, str]:
    """The settings that the images depend on, as text."""
    name = "sent by the client" if settings.config_script is not None else settings.config
    if not settings.closed_loop:
        return {"configuration": name}
    return {"configuration": name, "mode": "closed_loop", "acceleration": f"{settings.acceleration:g}"}


def _told(report: ScanReport) -> list[str]:
    """What errors, warnings or the records of slices say."""
    plans = [record.plan.fallback for record in report.slices if record.plan is not None]
    return [*report.errors, *report.warnings, *plans]


def _connect(settings: ScanSettings) -> protocol.Channel:
    try:
        return protocol.Channel.connect(settings.address, settings.port)
    except OSError as error:
        where = f"{settings.address}:{settings.port}"
        raise ConnectionError(f"no server answers at {where} ({error.strerror or error})") from error


def _configuration(settings: ScanSettings) -> bytes:
    if settings.config_script is not None:
        return protocol.config_script(settings.config_script)
    return protocol.config_file(settings.config)


def _same_but_for_repetition(one: SliceKey, other: SliceKey) -> bool:
    # The first line of the next repetition of a slice says that the one before is over.
    return one == other._replace(repetition=one.repetition)


def variable_density_plan(order: ScanOrder, acceleration: float) -> PlannedLines:
    """The plan that a scanner falls back on by itself: the ACS and lines that thin out towards high frequencies."""
    from pass_recon.sampling.lines import acquisition_order, acs_mask, reachable_lines, variable_density_lines

    acs = acs_mask(order.pe, len(order.acs))
    lines = variable_density_lines(order.pe, acceleration, acs, reachable_lines(order.pe, *order.reachable))
    return PlannedLines(acquisition_order(lines, acs), order.pe, "variable density", "no plan came in time")


class _Sender:
    """Sends acquisitions at the pace of the sequence."""

    def __init__(
        self,
        channel: protocol.Channel,
        receiver: Receiver,
        settings: ScanSettings,
        report: ScanReport,
        progress: Progress | None,
    ) -> None:
        self._channel, self._receiver, self._settings, self._report = channel, receiver, settings, report
        self._progress = progress or (lambda done, total: None)
        self._due = time.perf_counter()
        self._total = 0

    def everything(self, source: ScanFile) -> None:
        self._total = len(source)
        for message in source.messages():
            if isinstance(message, ismrmrd.Acquisition):
                self._line(message)
            else:
                self._channel.send(protocol.encode(message))

    def closed_loop(self, source: ScanFile, order: ScanOrder, budget: int) -> None:
        """The ACS of the next slice goes out before the plan of this one is awaited: waiting costs no scan time."""
        self._total = len(order.preparation) + budget * len(order.slices)
        for waveform in source.waveforms():
            self._channel.send(protocol.encode(waveform))
        for number in order.preparation:
            self._line(source.acquisition(number))
        begun: tuple[SliceLines, SliceReport] | None = None
        unanswered: list[tuple[SliceLines, SliceReport]] = []
        for current, following in zip(order.slices, [*order.slices[1:], None], strict=True):
            lines, record = begun or self._begin(source, order, current)
            ahead = following is not None and not _same_but_for_repetition(current.key, following.key)
            begun = self._begin(source, order, following) if following and ahead else None
            self._finish(source, order, lines, record, end=following is None)
            if record.plan is not None and record.plan.second_look and self._settings.second_plan_timeout > 0:
                unanswered.append((lines, record))
            unanswered = [one for one in unanswered if not self._look_again(source, order, *one, patience=0.0)]
        self._await_answers(source, order, unanswered)

    def _await_answers(
        self, source: ScanFile, order: ScanOrder, unanswered: list[tuple[SliceLines, SliceReport]]
    ) -> None:
        seconds = self._settings.second_plan_timeout
        due = time.perf_counter() + seconds
        for lines, record in unanswered:
            if self._look_again(source, order, lines, record, patience=max(due - time.perf_counter(), 0.0)):
                due = time.perf_counter() + seconds
            elif self._receiver.ended:
                raise protocol.PeerLost("it ended the conversation")
            else:
                self._report.warnings.append(
                    f"{record.key}: no second plan came within {seconds:g} s; the image of the first round stands"
                )

    def _look_again(
        self, source: ScanFile, order: ScanOrder, lines: SliceLines, record: SliceReport, *, patience: float
    ) -> bool:
        """Send the additional lines of a slice; False if there is no second plan yet."""
        received = self._receiver.wait_for_plan(record.key[1:], patience, number=2)
        if received is None:
            return False
        plan = received[0]
        if plan.pe != order.pe:
            self._report.warnings.append(
                f"{record.key}: the second plan is for {plan.pe} lines, the scan has {order.pe}: it is not followed"
            )
            return True
        record.second = plan
        wanted = [line for line in plan.order if line not in record.lines]
        record.missing += sum(line not in lines.numbers for line in wanted)
        numbers = lines.acquisitions(wanted)
        self._total += len(numbers)
        for number in numbers:
            acquisition = source.acquisition(number)
            mark(acquisition, acs=False, first=False, last=number == numbers[-1], end=False)
            self._line(acquisition)
        record.additional = [line for line in wanted if line in lines.numbers]
        return True

    def _begin(self, source: ScanFile, order: ScanOrder, lines: SliceLines) -> tuple[SliceLines, SliceReport]:
        record = SliceReport(lines.key, order.acs)
        self._report.slices.append(record)
        for i, number in enumerate(lines.acquisitions(order.acs)):
            acquisition = source.acquisition(number)
            mark(acquisition, acs=True, first=i == 0, last=False, end=False)
            record.asked = self._line(acquisition)
        record.lines.extend(order.acs)
        return lines, record

    def _finish(self, source: ScanFile, order: ScanOrder, lines: SliceLines, record: SliceReport, *, end: bool) -> None:
        record.plan = plan = self._plan(order, record)
        wanted = [line for line in plan.order if line not in order.acs]
        numbers = lines.acquisitions(wanted)
        record.missing = sum(line not in lines.numbers for line in wanted)
        record.first_planned = self._receiver.elapsed()
        end = end and not plan.second_look  # a second round may follow
        for number in numbers:
            acquisition = source.acquisition(number)
            last = number == numbers[-1]
            mark(acquisition, acs=False, first=False, last=last, end=last and end)
            self._line(acquisition)
        record.lines.extend(line for line in wanted if line in lines.numbers)
        record.last_planned = self._receiver.elapsed()

    def _plan(self, order: ScanOrder, record: SliceReport) -> PlannedLines:
        patience = FIRST_PLAN_TIMEOUT if record is self._report.slices[0] else PLAN_TIMEOUT
        if self._settings.plan_timeout is not None:
            patience = self._settings.plan_timeout
        received = self._receiver.wait_for_plan(record.key[1:], patience, after_error=_AFTER_ERROR)
        if received is None:
            return variable_density_plan(order, self._settings.acceleration)
        plan, record.answered = received
        if plan.pe != order.pe:
            raise InputError(f"the server's plan is for {plan.pe} lines, the scan has {order.pe}")
        if len(plan.order) != (budget := line_budget(order.pe, self._settings.acceleration)):
            self._report.warnings.append(
                f"the plan of {record.key} has {len(plan.order)} lines, not {budget}: "
                "has the server another acceleration than the scanner?"
            )
        return plan

    def _line(self, acquisition: ismrmrd.Acquisition) -> float:
        """Send when it is due; returns when that was."""
        if self._receiver.ended:
            raise protocol.PeerLost("it ended the conversation")
        frame = protocol.encode(acquisition)
        start = max(self._due, time.perf_counter())
        time.sleep(max(0.0, start - time.perf_counter()))
        self._due = start + self._settings.repetition_time
        sent = self._receiver.elapsed()
        self._channel.send(frame)
        self._report.sent += 1
        self._progress(self._report.sent, self._total)
        return sent
