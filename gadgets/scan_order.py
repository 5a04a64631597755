"""Which acquisitions of a file a closed-loop scan sends: the ACS of a slice, then its planned lines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import ismrmrd
import numpy as np

from gadgets.scan_file import ScanFile
from pass_recon.sampling.budget import acs_count, acs_fraction, acs_range
from pass_recon.types import InputError

SliceKey = tuple[int, int, int, int, int]
KEY_FIELDS = ("slice", "contrast", "phase", "repetition", "set")


def _bits(*flags: int) -> int:
    return sum(1 << (flag - 1) for flag in flags)


# Played before the first imaging line, whatever their place in the file.
_PREPARATION = _bits(
    ismrmrd.ACQ_IS_NOISE_MEASUREMENT,
    ismrmrd.ACQ_IS_NAVIGATION_DATA,
    ismrmrd.ACQ_IS_PHASECORR_DATA,
    ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
    ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
    ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
    ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
    ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE,
    ismrmrd.ACQ_IS_PHASE_STABILIZATION,
)
# A separate reference scan takes no part: the ACS of a closed loop is its own calibration.
_REFERENCE = _bits(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
_CALIBRATION = _bits(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
# Where things begin and end depends on what is sent, so these are set anew.
_BOUNDARIES = _bits(
    *range(ismrmrd.ACQ_FIRST_IN_ENCODE_STEP1, ismrmrd.ACQ_LAST_IN_SEGMENT + 1), ismrmrd.ACQ_LAST_IN_MEASUREMENT
)


@dataclass
class SliceLines:
    """The acquisitions of one slice of one contrast, phase, repetition and set.

    Attributes
    ----------
    key
        (slice, contrast, phase, repetition, set).
    numbers
        For each phase-encoding line of the encoded grid, the acquisitions that hold it: several if it is averaged.
    """

    key: SliceKey
    numbers: dict[int, list[int]] = field(default_factory=dict)

    def acquisitions(self, lines: Iterable[int]) -> list[int]:
        """Places in the file of these lines: in the order of ``lines``, once for each average."""
        rows = [self.numbers[line] for line in lines if line in self.numbers]
        repeats = max((len(row) for row in rows), default=0)
        return [row[i] for i in range(repeats) for row in rows if i < len(row)]


@dataclass(frozen=True)
class ScanOrder:
    """What a closed-loop scan takes from a file.

    Attributes
    ----------
    preparation
        Acquisitions to send first: noise scans, navigators and the like.
    slices
        In the order in which they first occur in the file.
    pe
        Number of lines of the encoded grid.
    acs
        The ACS lines.
    """

    preparation: list[int]
    slices: list[SliceLines]
    pe: int
    acs: range


def scan_order(file: ScanFile, acceleration: float) -> ScanOrder:
    """Sort the acquisitions of a file for a closed-loop scan.

    Parameters
    ----------
    file
        The scan: Cartesian, two-dimensional, fully sampled or at least with all ACS lines.
    acceleration
        Sets the number of ACS lines.

    Raises
    ------
    InputError
        If the scan is not one that a closed loop can run.
    """
    flags = file.heads["flags"]
    preparation = np.flatnonzero(flags & _PREPARATION).tolist()
    imaging = np.flatnonzero((flags & (_PREPARATION | _REFERENCE)) == 0)
    pe, shift = _grid(file, imaging)
    acs = acs_range(pe, acs_count(pe, acs_fraction(acceleration)))
    slices: dict[SliceKey, SliceLines] = {}
    counters = file.heads["idx"]
    for number in imaging.tolist():
        row = counters[number]
        key = _key(row)
        lines = slices.setdefault(key, SliceLines(key)).numbers
        lines.setdefault(int(row["kspace_encode_step_1"]) + shift, []).append(number)
    for one in slices.values():
        _check_lines(one, pe, acs)
    return ScanOrder(preparation, list(slices.values()), pe, acs)


def mark(acquisition: ismrmrd.Acquisition, *, acs: bool, first: bool, last: bool, end: bool) -> None:
    """Set the flags that depend on what is sent: ACS, first and last line of the slice, end of the measurement."""
    acquisition.flags &= ~(_BOUNDARIES | _CALIBRATION)
    for wanted, flag in (
        (acs, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING),
        (first, ismrmrd.ACQ_FIRST_IN_SLICE),
        (last, ismrmrd.ACQ_LAST_IN_SLICE),
        (end, ismrmrd.ACQ_LAST_IN_MEASUREMENT),
    ):
        if wanted:
            acquisition.setFlag(flag)


def _key(counters: np.void) -> SliceKey:
    first, second, third, fourth, fifth = (int(counters[name]) for name in KEY_FIELDS)
    return first, second, third, fourth, fifth


def _grid(file: ScanFile, imaging: np.ndarray) -> tuple[int, int]:
    """Number of encoded lines, and what to add to a line's counter to get its place among them."""
    if not len(imaging):
        raise InputError(f"{file.path} holds no imaging lines")
    spaces = sorted(set(file.heads["encoding_space_ref"][imaging].tolist()))
    if len(spaces) > 1 or spaces[0] >= len(file.header.encoding):
        raise InputError(f"a closed loop needs one encoding space, {file.path} has lines of {spaces}")
    encoding = file.header.encoding[spaces[0]]
    if encoding.trajectory.value != "cartesian":
        raise InputError(f"a closed loop needs a Cartesian scan, {file.path} is {encoding.trajectory.value}")
    partitions = encoding.encodedSpace.matrixSize.z
    if partitions > 1:
        raise InputError(f"a closed loop needs a 2D scan, {file.path} is 3D with {partitions} partitions")
    pe = encoding.encodedSpace.matrixSize.y
    limits = encoding.encodingLimits.kspace_encoding_step_1 if encoding.encodingLimits else None
    return pe, pe // 2 - (limits.center if limits else pe // 2)


def _check_lines(one: SliceLines, pe: int, acs: range) -> None:
    outside = [line for line in one.numbers if not 0 <= line < pe]
    if outside:
        raise InputError(f"slice {one.key[0]} has line {outside[0]}, outside the {pe} lines of the encoded matrix")
    missing = [line for line in acs if line not in one.numbers]
    if missing:
        raise InputError(
            f"slice {one.key[0]} lacks {len(missing)} of its {len(acs)} ACS lines (lines {acs[0]} to {acs[-1]}): "
            "a closed loop starts with them"
        )
