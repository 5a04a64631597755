"""Which acquisitions of a file a closed-loop scan sends: the ACS of a slice, then its planned lines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import ismrmrd
from ismrmrd import constants as flags

from gadgets.mrd import Encoding, ScanContext, SliceKey, is_for_images
from gadgets.mrd.scan_file import ScanFile
from gadgets.properties import Properties
from pass_recon.types import InputError


def _bits(*numbers: int) -> int:
    return sum(1 << (number - 1) for number in numbers)


_REFERENCE = _bits(flags.ACQ_IS_PARALLEL_CALIBRATION)
_CALIBRATION = _bits(flags.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
# Where things begin and end depends on what is sent, so these are set anew.
_BOUNDARIES = _bits(
    *range(flags.ACQ_FIRST_IN_ENCODE_STEP1, flags.ACQ_LAST_IN_SEGMENT + 1), flags.ACQ_LAST_IN_MEASUREMENT
)


@dataclass
class SliceLines:
    """The acquisitions of one slice.

    Attributes
    ----------
    key
        What tells it from others.
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
        Acquisitions to send first: noise scans, navigators and all else that holds no image.
    slices
        In the order in which they first occur in the file.
    pe
        Number of lines of the encoded grid.
    acs
        The ACS lines.
    reachable
        First and last line that can be acquired.
    """

    preparation: list[int]
    slices: list[SliceLines]
    pe: int
    acs: range
    reachable: tuple[int, int]


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
        If the scan is not one that a closed loop can run, or the acceleration is below 1.
    """
    scan = ScanContext(file.header_xml, Properties.from_text({"acceleration": str(acceleration)}))
    preparation: list[int] = []
    slices: dict[SliceKey, SliceLines] = {}
    for number, header in enumerate(file.heads()):
        if not is_for_images(header):
            preparation.append(number)
            continue
        key = SliceKey.of(header)
        encoding = scan.encoding(key.encoding)
        if encoding.separate_calibration and header.flags & _REFERENCE:
            continue  # a scan of its own takes no part: a closed loop calibrates with its ACS
        line = encoding.line_of(header.idx.kspace_encode_step_1)
        slices.setdefault(key, SliceLines(key)).numbers.setdefault(line, []).append(number)
    encoding = scan.encoding(_only_encoding(file, slices))
    acs = scan.acs_lines(encoding)
    for one in slices.values():
        _check_lines(one, encoding, acs)
    return ScanOrder(preparation, list(slices.values()), encoding.pe, acs, encoding.reachable)


def mark(acquisition: ismrmrd.Acquisition, *, acs: bool, first: bool, last: bool, end: bool) -> None:
    """Set the flags that depend on what is sent: ACS, first and last line of the slice, end of the measurement."""
    acquisition.flags &= ~(_BOUNDARIES | _CALIBRATION)
    for wanted, flag in (
        (acs, flags.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING),
        (first, flags.ACQ_FIRST_IN_SLICE),
        (last, flags.ACQ_LAST_IN_SLICE),
        (end, flags.ACQ_LAST_IN_MEASUREMENT),
    ):
        if wanted:
            acquisition.setFlag(flag)


def _only_encoding(file: ScanFile, slices: Iterable[SliceKey]) -> int:
    spaces = sorted({key.encoding for key in slices})
    if not spaces:
        raise InputError(f"{file.path} holds no imaging lines")
    if len(spaces) > 1:  # a plan does not say which of them it is for
        raise InputError(f"a closed loop needs one encoding space, {file.path} has lines of {spaces}")
    return spaces[0]


def _check_lines(one: SliceLines, encoding: Encoding, acs: range) -> None:
    outside = [line for line in one.numbers if not 0 <= line < encoding.pe]
    if outside:
        raise InputError(f"{one.key} has line {outside[0]}, outside the {encoding.pe} lines of the encoded matrix")
    missing = [line for line in acs if line not in one.numbers]
    if missing:
        raise InputError(
            f"{one.key} lacks {len(missing)} of its {len(acs)} ACS lines (lines {acs[0]} to {acs[-1]}): "
            "a closed loop starts with them"
        )
