"""What becomes of slices that are over and of lines that could not be used, and what is said of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import ismrmrd
from gadgetron.types.recon_data import ReconData

from gadgets import mrd
from gadgets.mrd.calibration import ENOUGH
from gadgets.protocol.connection import Failure
from pass_recon.types import InputError


class Warnings:
    """Says each thing once a scan."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def one(self, sentence: str) -> Iterator[Failure]:
        """Say it, unless it was said."""
        if sentence not in self._said:
            self._said.add(sentence)
            yield Failure(sentence, "warning")

    def new(self, sentences: Iterable[str]) -> Iterator[Failure]:
        """Say those that were not."""
        for sentence in sentences:
            yield from self.one(sentence)


class FinishedSlices:
    """Sends slices that are over, once there is something to make their coil maps from."""

    def __init__(self, scan: mrd.ScanContext, sorter: mrd.SliceSorter, warnings: Warnings) -> None:
        self._scan, self._warnings = scan, warnings
        self._calibrations = mrd.Calibrations(scan, sorter)
        self._waiting: list[mrd.Slice] = []
        self._flagged: list[mrd.Slice] = []
        self._images: set[int] = set()

    def over(self, part: mrd.Slice) -> Iterator[ReconData | Failure]:
        """A slice is over; those that waited for a calibration may have one with it."""
        if not part.lines.first:
            yield Failure(f"{part.key} has no line that can be used, so there is no image of it", "input")
            return
        part.settle_centre()
        self._images.add(part.key.slice)
        if told := part.settle_grid():
            yield from self._warnings.one(mrd.grid_remark(told, part.encoding.pe, len(part.lines.first)))
        yield from self._repeats(part)
        self._calibrations.note(part)
        waiting, self._waiting = [*self._waiting, part], []
        for one in waiting:
            calibration = self._calibrations.of(one)
            if calibration is None:
                self._waiting.append(one)
            else:
                yield from self._send(one, calibration)

    def left(self, part: mrd.Slice, *, truncated: bool) -> Iterator[ReconData | Failure]:
        """A slice that was not over when the stream was."""
        if part.only_calibration and part.lines.first:
            self._calibrations.note(part)
            self._flagged.append(part)
            return
        if truncated:
            yield Failure(f"{part.key} is truncated: {part.received} lines came, none marked as its last", "input")
        yield from self.over(part)

    def rest(self) -> Iterator[ReconData | Failure]:
        """What has waited in vain."""
        for part in self._flagged:
            if part.key.slice not in self._images:  # otherwise it was a calibration scan
                yield from self.over(part)
        for part in self._waiting:
            calibration = self._calibrations.of(part)
            if calibration is None:
                yield _incomplete(part)
            yield from self._send(part, calibration)

    def _send(self, part: mrd.Slice, calibration: mrd.Calibration | None) -> Iterator[ReconData | Failure]:
        yield from self._centre(part)
        if not part.image.indices():
            yield Failure(f"{part.key} has no line on the grid, so there is no image of it", "input")
            return
        if calibration is not None:
            yield from self._short(part, calibration)
            # A scanner that waits for the plan has its lines by now.
            if part.acs_untold() and self._scan.properties.mode == "retrospective":
                yield mrd.late_acs_message(part, calibration)
        yield mrd.slice_message(part, calibration)

    def _repeats(self, part: mrd.Slice) -> Iterator[Failure]:
        """A word on lines that came more often than the header tells, or not as the same."""
        often, told = max(part.lines.counts.values()), part.encoding.averages
        about = part.lines.about_repeats() if often > 1 else ""
        if often > told or about:
            yield from self._warnings.one(
                f"lines of {part.key} came {often} times, the header tells of {told}: they are averaged"
                + (f", but {about}" if about else "")
            )

    def _centre(self, part: mrd.Slice) -> Iterator[Failure]:
        told, found, pe = part.encoding.centre_step, part.centre_step, part.encoding.pe
        if told != found:
            yield from self._warnings.one(
                f"the header puts the centre of k-space at encoding step {told}, the lines have it at {found}: "
                f"{found} is taken"
            )
        off = part.image.off_grid()
        if off:
            line = off[0] - found + pe // 2
            yield Failure(
                f"{part.key}, encoding step {off[0]} dropped: encoding step {off[0]} is line {line} of a grid of {pe} "
                f"(its centre is at step {found})" + (f", and {len(off) - 1} more like it" if off[1:] else ""),
                "warning",
            )

    def _short(self, part: mrd.Slice, calibration: mrd.Calibration) -> Iterator[Failure]:
        yield from self._warnings.new(self._calibrations.remarks)
        if not calibration.own and not part.encoding.separate_calibration:
            yield from self._warnings.one(
                f"{part.key} has too few lines around the centre: calibrated by {calibration.source}"
            )
        elif len(calibration.lines) < len(part.acs):
            yield from self._warnings.one(
                f"{part.key} is calibrated by {len(calibration.lines)} lines around the centre, "
                f"{len(part.acs)} were wanted"
            )


class DroppedLines:
    """Says which line was dropped and why, but only once for each slice and reason."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[mrd.SliceKey, str]] = Counter()
        self._late: Counter[mrd.SliceKey] = Counter()

    def line(self, acquisition: ismrmrd.Acquisition, error: InputError) -> Iterator[Failure]:
        """A line was dropped."""
        key = mrd.SliceKey.of(acquisition)
        if isinstance(error, mrd.Late):
            self._late[key] += 1
            return
        # The numbers in the sentence differ from line to line, the reason does not.
        reason = "".join(character for character in str(error) if not character.isdigit())
        self._counts[key, reason] += 1
        if self._counts[key, reason] == 1:
            step = acquisition.idx.kspace_encode_step_1
            yield Failure(f"{key}, encoding step {step} dropped: {error}", "input")

    def summary(self, key: mrd.SliceKey) -> Iterator[Failure]:
        """A slice is over."""
        total = sum(count for (slice_key, _), count in self._counts.items() if slice_key == key)
        if total > 1:
            yield Failure(f"{key}: {total} acquisitions dropped in all", "input")

    def rest(self) -> Iterator[Failure]:
        """The scan is over."""
        for key, count in self._late.items():
            yield Failure(
                f"{count} lines of {key} came again after it was over, of another average or scan that the header does "
                "not tell of: left out",
                "warning",
            )


def _incomplete(part: mrd.Slice) -> Failure:
    """A word on the lines of an ACS that did not come: a warning where coil maps can be made of those around them."""
    missing = [index for index in part.acs if index not in part.image]
    came = len(part.acs) - len(missing)
    beside = any(
        all(index in part.image for index in range(first, first + ENOUGH))
        for first in range(part.acs.start - ENOUGH, part.acs.stop + 1)
    )
    told = (
        f"{part.key} has no complete ACS: {came} of {len(part.acs)} came (lines {part.acs.start} to {part.acs.stop - 1}"
    )
    if not beside:
        return Failure(f"{told})", "input")
    shown = ", ".join(map(str, missing[:8])) + (" and others" if missing[8:] else "")
    return Failure(f"{told}, without {shown}): coil maps are made of the lines around them that came", "warning")
