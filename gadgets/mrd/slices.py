"""Sorting lines into slices: which image a line belongs to, when its ACS is there, and when it is over.

Scanners and converters mark the ends of slices in different ways, or not at all. All that is known about this is here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from ismrmrd import constants as flags
from ismrmrd.acquisition import Acquisition, AcquisitionHeader

from gadgets.mrd.header import Encoding, ScanContext, fitting_grid
from gadgets.mrd.lines import Line, LineSet, PlacedLines
from gadgets.mrd.readout import is_for_images
from pass_recon.common.memory import refuse_slice
from pass_recon.sampling.budget import acs_range
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


# How far from the centre of a whole grid the strongest line may lie.
_BESIDE = 3


class Late(InputError):
    """A line came after its slice was over: once more than the header tells, or another scan under the same name."""


def only_calibrates(acquisition: Acquisition | AcquisitionHeader) -> bool:
    """Whether a line is marked as calibration and not as one of the image too."""
    return acquisition.flags & _CALIBRATION == _bit(flags.ACQ_IS_PARALLEL_CALIBRATION)


class Slice:
    """The lines of one slice as they come.

    Attributes
    ----------
    key
        What tells this slice from others.
    acs
        Lines of the grid that a plan is made from.
    lines
        Those of the image by encoding step.
    reference
        Those of a calibration scan of its own, shared with whoever collects it.
    centre_step
        The step through the centre of k-space, as far as can be told by now.
    received
        Number of acquisitions that came, dropped ones included.
    only_calibration
        Whether every line so far is marked as calibration alone.
    """

    def __init__(self, key: SliceKey, encoding: Encoding, acs: range, reference: LineSet) -> None:
        self.key, self.encoding, self.acs = key, encoding, acs
        self.lines, self.reference = LineSet(), reference
        self.centre_step = encoding.centre_step
        self.received = 0
        self.only_calibration = True
        self._acs_told = False

    @property
    def image(self) -> PlacedLines:
        """The lines of the image on the grid."""
        return PlacedLines(self.lines, self.centre_step, self.encoding.pe)

    def add(self, acquisition: Acquisition, line: Line) -> None:
        """Put a line in its place."""
        self.lines.add(acquisition.idx.kspace_encode_step_1, line, acquisition.getHead())
        self.only_calibration = self.only_calibration and only_calibrates(acquisition)

    def settle_centre(self) -> None:
        """Look where the centre of k-space is, of the lines that came."""
        pe, (first, last) = self.encoding.pe, self.encoding.steps
        found = self.lines.centre(self.encoding.centre_step, pe)
        # Of a grid that is acquired as a whole only one line can be the centre; the strongest may be beside it.
        whole = first + pe // 2 if last - first + 1 == pe else found
        self.centre_step = whole if abs(found - whole) <= _BESIDE else found

    def settle_grid(self) -> int:
        """Take the lines that came for the grid where the header tells of one many times as large.

        Returns
        -------
        Lines of the grid that the header tells of, where it is taken for wrong, else 0.
        """
        told = self.encoding.pe
        pe = fitting_grid(self.centre_step, min(self.lines.first), max(self.lines.first), told)
        if pe == told:
            return 0
        first, last = self.centre_step - pe // 2, self.centre_step - pe // 2 + pe - 1
        self.encoding = replace(self.encoding, pe=pe, centre_step=self.centre_step, steps=(first, last))
        self.acs = acs_range(pe, max(1, round(len(self.acs) * pe / told)))
        return told

    def acs_just_completed(self) -> bool:
        """True once, when the last ACS line has come, and lies where the centre of k-space is."""
        if self._acs_told or not self._has_acs():
            return False
        self.settle_centre()
        self._acs_told = self._has_acs()
        return self._acs_told

    def acs_untold(self) -> bool:
        """True once, at the end of a slice of which no ACS was told, or one from another place."""
        before, told = self.centre_step, self._acs_told
        self.settle_centre()
        self._acs_told = True
        return not told or before != self.centre_step

    def has_all_of(self, acquisition: Acquisition) -> bool:
        """Whether this line has come as often as the header says."""
        return self.lines.counts.get(acquisition.idx.kspace_encode_step_1, 0) >= self.encoding.averages

    def is_full(self) -> bool:
        """Whether every line has come as often as the header says."""
        counts, wanted = self.lines.counts, self.encoding.averages
        if len(counts) < self.encoding.pe or min(counts.values()) < wanted:
            return False
        return len(self.image.indices()) == self.encoding.pe

    def _has_acs(self) -> bool:
        return all(index in self.image for index in self.acs)


class SliceSorter:
    """Hands out the slice of each acquisition and tells which slices are over."""

    def __init__(self, scan: ScanContext) -> None:
        self._scan = scan
        self._open: dict[SliceKey, Slice] = {}
        self._over: set[SliceKey] = set()
        self._kept: dict[SliceKey, Slice] = {}  # over, unless a second look brings more lines
        self._flags = 0
        self._ended_repetitions: set[int] = set()
        self._references: dict[SliceKey, LineSet] = {}

    def is_reference(self, acquisition: Acquisition) -> bool:
        """Whether a line belongs to a calibration scan of its own, and to no image."""
        return only_calibrates(acquisition) and self._scan.separate_calibration(acquisition.encoding_space_ref)

    def is_of_image(self, acquisition: Acquisition) -> bool:
        """Whether a line belongs to an image."""
        return is_for_images(acquisition) and not self.is_reference(acquisition)

    def reference_of(self, acquisition: Acquisition) -> LineSet:
        """Where the lines of this acquisition's calibration scan are collected."""
        return self._references.setdefault(SliceKey.of(acquisition), LineSet())

    @property
    def references(self) -> dict[SliceKey, LineSet]:
        """The calibration scans that came."""
        return self._references

    def slice_of(self, acquisition: Acquisition) -> Slice:
        """The slice that an acquisition belongs to, begun if it is the first.

        Raises
        ------
        Late
            If the slice is over.
        InputError
            If its encoding space is not supported, or it needs more memory than there may be.
        """
        key = SliceKey.of(acquisition)
        encoding = self._scan.encoding(key.encoding)
        again = self._open.get(key) or self._kept.get(key)
        if key in self._over and (again is None or again.has_all_of(acquisition)):
            raise Late(
                f"the line came after the slice was over (average {acquisition.idx.average}; the header speaks of "
                f"{encoding.averages})"
            )
        if key in self._kept:
            self._open[key] = self._kept.pop(key)
        if key not in self._open:
            self._refuse_too_large(key, encoding, acquisition.active_channels)
            reference = self._references.setdefault(key, LineSet())
            self._open[key] = Slice(key, encoding, self._scan.acs_lines(encoding), reference)
        self._open[key].received += 1
        return self._open[key]

    def _refuse_too_large(self, key: SliceKey, encoding: Encoding, coils: int) -> None:
        lines = [line for part in self._open.values() for line in part.lines.first.values()]
        refuse_slice(str(key), coils, encoding.ro, encoding.pe, held=sum(line.nbytes for line in lines))

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
            part = self._open.pop(other)
            if self._scan.properties.looks_again and other not in self._over:
                self._keep(part)
            self._over.add(other)
            yield part

    def _keep(self, part: Slice) -> None:
        """Until its second round; of a series of repetitions the last two, or it would grow without end."""
        self._kept[part.key] = part
        for key in [key for key in self._kept if _is_earlier_repetition(key, part.key)]:
            if key.repetition < part.key.repetition - 1:
                del self._kept[key]

    def rest(self) -> Iterator[tuple[Slice, bool]]:
        """What is left at the end of the stream, each with whether its last lines are plainly missing."""
        marked, ended = self._flags & _ENDS_OR_BEGINS, self._flags & _LAST_IN_MEASUREMENT
        for key in list(self._open):
            self._over.add(key)
            yield self._open.pop(key), bool(marked and not ended and key.repetition not in self._ended_repetitions)

    def _is_over(self, other: SliceKey, key: SliceKey, acquisition: Acquisition) -> bool:
        if self._open[other].only_calibration:
            return False  # the image, if this is not one itself, is yet to come
        mine, received = self._open.get(key), self._open[other].received
        # Lines may come again, untold: only a scanner that waits needs the end of a slice that nothing marks.
        if self._open[other].is_full() and (other != key or self._scan.properties.mode == "closed_loop"):
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


_CALIBRATION = _bit(flags.ACQ_IS_PARALLEL_CALIBRATION) | _bit(flags.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
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
