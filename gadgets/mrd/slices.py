"""Sorting lines into slices: which image a line belongs to, when its ACS is there, and when it is over.

Scanners and converters mark the ends of slices in different ways, or not at all. All that is known about this is here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from ismrmrd import constants as flags
from ismrmrd.acquisition import Acquisition, AcquisitionHeader

from gadgets.mrd.header import Encoding, ScanContext
from gadgets.mrd.readout import Line, is_for_images
from pass_recon.types import InputError


class SliceKey(NamedTuple):
    """What tells one image from another. Averages are averaged, and segments are only an order of acquisition."""

    encoding: int
    slice: int
    contrast: int
    phase: int
    repetition: int
    set: int

    @classmethod
    def of(cls, header: AcquisitionHeader | Acquisition) -> SliceKey:
        """The key of an acquisition, or of its header alone."""
        idx = header.idx
        return cls(header.encoding_space_ref, idx.slice, idx.contrast, idx.phase, idx.repetition, idx.set)

    def __str__(self) -> str:
        others = [f"{name} {getattr(self, name)}" for name in self._fields if name != "slice" and getattr(self, name)]
        return ", ".join([f"slice {self.slice}", *others])


@dataclass
class LineSet:
    """Lines of one slice by index, added up over averages."""

    sums: dict[int, Line] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    headers: dict[int, AcquisitionHeader] = field(default_factory=dict)

    def add(self, index: int, line: Line, header: AcquisitionHeader) -> None:
        """Add a line ``(coils, ro)``; the header kept is that of the first average."""
        if index in self.sums:
            self.sums[index] = self.sums[index] + line
        else:
            self.sums[index], self.headers[index] = line, header
        self.counts[index] = self.counts.get(index, 0) + 1

    def mean(self, index: int) -> Line:
        """The line ``(coils, ro)`` averaged over how often it came."""
        count = self.counts[index]
        return self.sums[index] if count == 1 else self.sums[index] / np.float32(count)

    def extent(self) -> range:
        """From the lowest to the highest line that came."""
        return range(min(self.sums), max(self.sums) + 1)


class Slice:
    """The lines of one slice as they come.

    Attributes
    ----------
    key
        What tells this slice from others.
    image
        Lines of the image.
    calibration
        Lines to find the coils from: those of the image, unless calibration is a scan of its own.
    received
        Number of acquisitions that came, dropped ones included.
    """

    def __init__(self, key: SliceKey, encoding: Encoding, acs: range) -> None:
        self.key, self.encoding, self.acs = key, encoding, acs
        self.image = LineSet()
        self.calibration = LineSet() if encoding.separate_calibration else self.image
        self.received = 0
        self._acs_told = False

    def add(self, acquisition: Acquisition, line: Line) -> None:
        """Put a line in its place.

        Raises
        ------
        InputError
            If the encoding step is not on the grid.
        """
        step = acquisition.idx.kspace_encode_step_1
        index = self.encoding.line_of(step)
        if not 0 <= index < self.encoding.pe:
            raise InputError(
                f"encoding step {step} is line {index} of a grid of {self.encoding.pe} "
                f"(the header puts its centre at step {self.encoding.centre_step})"
            )
        header = acquisition.getHead()
        calibrates = acquisition.flags & _CALIBRATION
        if self.calibration is not self.image and calibrates:
            self.calibration.add(index, line, header)
        if self.calibration is self.image or not calibrates or calibrates & _CALIBRATION_AND_IMAGING:
            self.image.add(index, line, header)

    def has_acs(self) -> bool:
        """Whether each ACS line has come at least once."""
        return all(index in self.calibration.sums for index in self.acs)

    def acs_just_completed(self) -> bool:
        """True once, when the last ACS line has come."""
        if self._acs_told or not self.has_acs():
            return False
        self._acs_told = True
        return True

    def is_full(self) -> bool:
        """Whether every line has come as often as the header says."""
        counts, averages = self.image.counts, self.encoding.averages
        return len(counts) == self.encoding.pe and min(counts.values()) >= averages and self.has_acs()


class SliceSorter:
    """Hands out the slice of each acquisition and tells which slices are over."""

    def __init__(self, scan: ScanContext) -> None:
        self._scan = scan
        self._open: dict[SliceKey, Slice] = {}
        self._over: set[SliceKey] = set()
        self._flags = 0
        self._ended_repetitions: set[int] = set()

    def slice_of(self, acquisition: Acquisition) -> Slice:
        """The slice that an acquisition belongs to, begun if it is the first.

        Raises
        ------
        InputError
            If the slice is over or its encoding space is not supported.
        """
        key = SliceKey.of(acquisition)
        encoding = self._scan.encoding(key.encoding)
        if key in self._over:
            raise InputError(
                f"the line came after the slice was over (average {acquisition.idx.average}; the header speaks of "
                f"{encoding.averages})"
            )
        if key not in self._open:
            self._open[key] = Slice(key, encoding, self._scan.acs_lines(encoding))
        self._open[key].received += 1
        return self._open[key]

    def watch(self, acquisition: Acquisition) -> None:
        """Remember which ends are marked, navigators' marks included, to know a truncated stream.

        Raises
        ------
        InputError
            If a line belongs to a 3D scan although the header says otherwise: no image of it would be right.
        """
        partition = acquisition.idx.kspace_encode_step_2
        if partition and is_for_images(acquisition):
            raise InputError(f"only 2D scans are supported; a line has kspace_encode_step_2 = {partition}")
        self._flags |= acquisition.flags
        if acquisition.flags & _LAST_IN_REPETITION:
            self._ended_repetitions.add(acquisition.idx.repetition)

    def ended_by(self, acquisition: Acquisition) -> Iterator[Slice]:
        """Slices that are over with this acquisition, whether or not its line could be used."""
        key = SliceKey.of(acquisition)
        for other in [other for other in self._open if self._is_over(other, key, acquisition)]:
            self._over.add(other)
            yield self._open.pop(other)

    def rest(self) -> Iterator[tuple[Slice, bool]]:
        """What is left at the end of the stream, each with whether its last lines are plainly missing."""
        marked, ended = self._flags & _ENDS_OR_BEGINS, self._flags & _LAST_IN_MEASUREMENT
        for key in list(self._open):
            self._over.add(key)
            yield self._open.pop(key), bool(marked and not ended and key.repetition not in self._ended_repetitions)

    def _is_over(self, other: SliceKey, key: SliceKey, acquisition: Acquisition) -> bool:
        mine, received = self._open.get(key), self._open[other].received
        if other == key and self._open[key].is_full():
            return True
        if _is_earlier_repetition(other, key):
            return True
        if acquisition.flags & _LAST_IN_SLICE and _reaches(other, key):
            return acquisition.idx.average + 1 >= self._open[other].encoding.averages
        # Some mark the end of a repetition in every slice: another slice that still lacks lines is then not over.
        level = mine is not None and received >= mine.received
        if acquisition.flags & _LAST_IN_REPETITION and other.repetition == key.repetition:
            return level
        return bool(acquisition.flags & _LAST_IN_MEASUREMENT) and level


def _bit(flag: int) -> int:
    return 1 << (flag - 1)


_CALIBRATION_AND_IMAGING = _bit(flags.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
_CALIBRATION = _bit(flags.ACQ_IS_PARALLEL_CALIBRATION) | _CALIBRATION_AND_IMAGING
_LAST_IN_SLICE = _bit(flags.ACQ_LAST_IN_SLICE)
_LAST_IN_REPETITION = _bit(flags.ACQ_LAST_IN_REPETITION)
_LAST_IN_MEASUREMENT = _bit(flags.ACQ_LAST_IN_MEASUREMENT)
_ENDS_OR_BEGINS = (
    _LAST_IN_SLICE
    | _LAST_IN_REPETITION
    | _LAST_IN_MEASUREMENT
    | _bit(flags.ACQ_FIRST_IN_SLICE)
    | _bit(flags.ACQ_FIRST_IN_REPETITION)
)


def _reaches(other: SliceKey, key: SliceKey) -> bool:
    """Whether the last line of ``key`` in its slice is also that of ``other``.

    Echoes, cardiac phases and sets of one slice are acquired in turn, and some mark only the last of them.
    """
    same = (other.encoding, other.slice, other.repetition) == (key.encoding, key.slice, key.repetition)
    return same and other.contrast <= key.contrast and other.phase <= key.phase and other.set <= key.set


def _is_earlier_repetition(other: SliceKey, key: SliceKey) -> bool:
    return other._replace(repetition=key.repetition) == key and other.repetition < key.repetition
