"""The lines that coil maps are made from, wherever in the scan they are.

They may be lines of the image itself, a scan of their own beside it, one that came before a series of repetitions, in
another set or encoding space with a matrix of its own, or spread over the repetitions (TGRAPPA). What belongs to
another slice is never used: its coils see something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gadgets.mrd.header import Encoding, ScanContext
from gadgets.mrd.lines import LineSet, PlacedLines
from gadgets.mrd.readout import resample
from gadgets.mrd.slices import Slice, SliceKey, SliceSorter

Lines = NDArray[np.complex64]

# Lines around the centre that make usable coil maps; fewer are taken only where a plan needs no more.
ENOUGH = 8
# No more lines than this around the centre are kept of slices that are over.
_KEPT = 32
# Fields of view that differ by less than this share are the same.
_SAME_FIELD = 0.01


@dataclass(frozen=True)
class Calibration:
    """Unbroken lines around the centre of k-space, on the grid of the image that they are for.

    Attributes
    ----------
    lines
        Lines of that grid, centred like an ACS.
    kspace
        ``(coils, ro, len(lines))`` complex64.
    counters
        Scan counter of each.
    own
        Whether they are lines of the image itself.
    source
        Where they are from, for people.
    """

    lines: range
    kspace: NDArray[np.complex64]
    counters: tuple[int, ...]
    own: bool
    source: str


class Calibrations:
    """Finds the calibration of each slice among all that has come.

    Parameters
    ----------
    scan
        The header.
    sorter
        Holds the calibration scans.

    Attributes
    ----------
    remarks
        What could not be used, and why; whoever reads them takes them away.
    """

    def __init__(self, scan: ScanContext, sorter: SliceSorter) -> None:
        self.remarks: list[str] = []
        self._scan, self._sorter = scan, sorter
        # Central lines of slices that are over, over all repetitions, by key with repetition 0.
        self._pools: dict[SliceKey, tuple[LineSet, int]] = {}

    def note(self, part: Slice) -> None:
        """Remember the centre of a slice that is over, for those that have less of it."""
        key = part.key._replace(repetition=0)
        pool, centre_step = self._pools.setdefault(key, (LineSet(), part.centre_step))
        pool.add_all(part.lines, range(centre_step - _KEPT // 2, centre_step + _KEPT // 2))

    def of(self, part: Slice) -> Calibration | None:
        """The calibration of a slice that is over; None while there is none."""
        wanted = len(part.acs)
        enough = min(ENOUGH, wanted)
        own = self._reference(part.reference, part.key, part)
        if own is not None and len(own.lines) >= enough:
            return own
        image = _of_image(part)
        if image is not None and len(image.lines) >= wanted:
            return image
        for found in self._elsewhere(part, enough):
            return found
        if image is not None and len(image.lines) >= enough:
            return image
        return next(self._pooled(part, enough), None)

    def _elsewhere(self, part: Slice, enough: int) -> Iterator[Calibration]:
        """Calibration scans of this slice that came under another repetition, set, contrast or encoding space."""
        others = [key for key in self._sorter.references if key.slice == part.key.slice and key != part.key]
        for key in sorted(others, key=lambda key: _distance(key, part.key)):
            found = self._reference(self._sorter.references[key], key, part)
            if found is not None and len(found.lines) >= enough:
                yield found

    def _pooled(self, part: Slice, enough: int) -> Iterator[Calibration]:
        """Lines of other images of this slice: of its repetitions together, then of its phases, then of any other."""
        group = part.key._replace(repetition=0)
        same = [key for key in self._pools if key.slice == part.key.slice]
        phases, centre_step = LineSet(), None
        for key in [key for key in same if key._replace(phase=group.phase) == group]:
            pool, centre_step = self._pools[key]
            phases.add_all(pool, list(pool.first))
        candidates = [(*self._pools[group], group)] if group in self._pools else []
        if centre_step is not None:
            candidates.append((phases, centre_step, group))
        candidates += [(*self._pools[key], key) for key in sorted(same, key=lambda key: _distance(key, group))]
        for pool, centre, key in candidates:
            found = self._fitted(pool, centre, self._scan.encoding(key.encoding), part, f"other images of {key}")
            if found is not None and len(found.lines) >= enough:
                yield found

    def _reference(self, lines: LineSet, key: SliceKey, part: Slice) -> Calibration | None:
        if not lines.first:
            return None
        encoding = self._scan.encoding(key.encoding)
        centre = _centre_of_reference(lines, encoding, part)
        return self._fitted(lines, centre, encoding, part, f"the calibration scan of {key}")

    def _fitted(
        self, lines: LineSet, centre_step: int, encoding: Encoding, part: Slice, source: str
    ) -> Calibration | None:
        """Lines of another encoding on the grid of an image: another distance of samples, other sizes."""
        placed = PlacedLines(lines, centre_step, encoding.pe)
        run = placed.around_centre(encoding.pe)
        coils, ro = part.lines.shape
        if not run:
            return None
        if lines.shape[0] != coils:
            self.remarks.append(f"{source} has {lines.shape[0]} coils, the image {coils}: it is not used")
            return None
        steps = [placed.step_of(index) for index in run]
        kspace = np.stack([lines.mean(step) for step in steps], axis=-1)
        target = part.encoding
        kspace = _to_field(kspace, 1, encoding.encoded_fov_mm[0] / encoding.oversampling, target, 0)
        kspace = _to_field(kspace, 2, encoding.encoded_fov_mm[1], target, 1)
        kspace = _centre_lines(kspace, 1, ro)
        count = min(kspace.shape[2], target.pe)
        kspace = _centre_lines(kspace, 2, count)
        first = target.pe // 2 - count // 2
        counters = tuple(lines.headers[step].scan_counter for step in steps)
        counters = (counters + counters[-1:] * count)[:count]
        return Calibration(range(first, first + count), np.ascontiguousarray(kspace), counters, False, source)


def _of_image(part: Slice) -> Calibration | None:
    image = part.image
    lines = image.around_centre(max(len(part.acs), _KEPT))
    if not lines:
        return None
    steps = [image.step_of(index) for index in lines]
    kspace = np.stack([part.lines.mean(step) for step in steps], axis=-1)
    return Calibration(
        lines, kspace, tuple(part.lines.headers[step].scan_counter for step in steps), True, f"the lines of {part.key}"
    )


def _centre_of_reference(lines: LineSet, encoding: Encoding, part: Slice) -> int:
    """The step through the centre of a calibration scan, which may be numbered like the image or from 0."""
    first, last = min(lines.first), max(lines.first)
    told = part.centre_step if encoding is part.encoding else encoding.centre_step
    if not first < told < last:
        told = (first + last + 1) // 2
    return lines.centre(told, encoding.pe)


def _distance(key: SliceKey, other: SliceKey) -> tuple[bool, int, int]:
    differing = sum(one != two for one, two in zip(key, other, strict=True))
    return key.encoding != other.encoding, differing, abs(key.repetition - other.repetition)


def _to_field(kspace: Lines, axis: int, field: float, target: Encoding, along: int) -> Lines:
    """K-space sampled as densely as the target's: its image cropped or padded to the target's field of view."""
    wanted = target.encoded_fov_mm[along] / (target.oversampling if along == 0 else 1)
    if abs(field / wanted - 1) < _SAME_FIELD:
        return kspace
    pixels = max(round(kspace.shape[axis] * wanted / field), 1)
    return np.moveaxis(resample(np.moveaxis(kspace, axis, -1), pixels), -1, axis)


def _centre_lines(kspace: Lines, axis: int, size: int) -> Lines:
    """Cropped or padded with zeros around index ``n // 2`` of an axis."""
    before = size // 2 - kspace.shape[axis] // 2
    first = max(-before, 0)
    cut = np.take(kspace, range(first, min(first + size, kspace.shape[axis])), axis=axis)
    pads = [(0, 0)] * kspace.ndim
    pads[axis] = (max(before, 0), size - cut.shape[axis] - max(before, 0))
    return np.pad(cut, pads)
