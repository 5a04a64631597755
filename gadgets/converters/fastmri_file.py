"""A fastMRI volume as an MRD file: the scanner's own header, brought in line with the k-space that fastMRI kept.

fastMRI says nothing about orientation. Its arrays are known to hold axial heads and coronal knees upside down,
columns from the patient's right to left; directions and positions follow from that, with slices one thickness apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
from ismrmrd import xsd
from numpy.typing import NDArray

from gadgets.mrd.dataset import line_bytes, mark_channels_active
from gadgets.mrd.header_xml import read_header
from gadgets.mrd.scan_file import without_version
from pass_recon.anatomies import anatomy_named
from pass_recon.common.files import written_aside
from pass_recon.common.hdf5 import make_room
from pass_recon.types import InputError

# Lines around the centre that are marked as calibration too.
_MOST_CALIBRATION = 32


@dataclass(frozen=True)
class FastMriKspace:
    """What a fastMRI file holds.

    Attributes
    ----------
    header_xml
        Its ``ismrmrd_header``.
    shape
        ``(slices, coils, ro, pe)`` of the k-space.
    anatomy
        ``brain`` or ``knee``.
    slices
        ``(coils, ro, pe)`` complex64, one after the other.
    mask
        ``(pe,)`` bool, the columns that were sampled; None for all that the header tells of.
    """

    header_xml: bytes
    shape: tuple[int, int, int, int]
    anatomy: str
    slices: Iterable[NDArray[np.complex64]]
    mask: NDArray[np.bool_] | None = None

    def lines(self, limit: xsd.limitType) -> list[int]:
        """Columns that were measured, of those within the limits of the header."""
        offset = self.shape[3] // 2 - limit.center
        columns = range(limit.minimum + offset, limit.maximum + offset + 1)
        return [column for column in columns if self.mask is None or self.mask[column]]


def write_fastmri(path: str | Path, scan: FastMriKspace) -> int:
    """Write the MRD file, one slice in memory at a time; it appears under its name only when it is complete.

    Columns that the scanner did not measure, which fastMRI fills with zeros, are no acquisitions.

    Returns
    -------
    int
        How many acquisitions it holds.

    Raises
    ------
    InputError
        If the header is not MRD, or there is no room for the file.
    OSError
        If its folder cannot be written to.
    """
    header = fastmri_header(scan)
    slices, coils, readout, phase = scan.shape
    with written_aside(path, private=True) as aside:
        make_room(aside, slices * phase * line_bytes(coils, readout))
        with ismrmrd.File(str(aside), "a") as file:
            dataset = file["dataset"]
            dataset.header = header
            dataset.acquisitions = []
            acquisitions = dataset.acquisitions
            for index, kspace in enumerate(scan.slices):
                # A slice at a time: HDF5 takes four times as long for single acquisitions.
                lines = list(_slice_acquisitions(scan, header, index, kspace))
                acquisitions.data.resize(len(acquisitions) + len(lines), axis=0)
                acquisitions[-len(lines) :] = lines
            return len(acquisitions)


def fastmri_header(scan: FastMriKspace) -> xsd.ismrmrdHeader:
    """The scanner's header without a version, with matrix, field of view and limits as the k-space has them.

    A k-space of another matrix than the header's is sampled at the same distance, so that its field of view stands.
    fastMRI averaged what was repeated and kept one contrast, so that every limit but lines and slices is 0.

    Raises
    ------
    InputError
        If the header is not MRD.
    """
    slices, coils, readout, phase = scan.shape
    try:
        header = read_header(without_version(scan.header_xml))
    except InputError as error:
        raise InputError(f"the ismrmrd_header cannot be read: {error}") from error
    if len(header.encoding) != 1:
        raise InputError(f"the ismrmrd_header describes {len(header.encoding)} encodings instead of 1")
    encoding = header.encoding[0]
    encoding.encodedSpace.matrixSize = xsd.matrixSizeType(x=readout, y=phase, z=1)
    encoding.reconSpace.matrixSize.z = 1
    none = xsd.limitType(minimum=0, maximum=0, center=0)
    others = ("kspace_encoding_step_2", "average", "contrast", "phase", "repetition", "set", "segment")
    encoding.encodingLimits = xsd.encodingLimitsType(
        kspace_encoding_step_1=_line_limit(encoding.encodingLimits.kspace_encoding_step_1, phase),
        slice=xsd.limitType(minimum=0, maximum=slices - 1, center=slices // 2),
        **dict.fromkeys(others, none),
    )
    encoding.trajectory = xsd.trajectoryType.CARTESIAN
    lines = scan.lines(encoding.encodingLimits.kspace_encoding_step_1)
    if not lines:
        raise InputError("the mask leaves no column that the header tells of")
    encoding.parallelImaging = embedded_calibration(_acceleration(lines, phase))
    if header.acquisitionSystemInformation is None:
        header.acquisitionSystemInformation = xsd.acquisitionSystemInformationType()
    header.acquisitionSystemInformation.receiverChannels = coils
    header.acquisitionSystemInformation.coilLabel = []
    return header


def embedded_calibration(acceleration: int) -> xsd.parallelImagingType:
    """Calibration lines are among the image's: without being told so, Gadgetron's own chains make nothing of a scan."""
    return xsd.parallelImagingType(
        accelerationFactor=xsd.accelerationFactorType(kspace_encoding_step_1=acceleration, kspace_encoding_step_2=1),
        calibrationMode=xsd.calibrationModeType.EMBEDDED,
    )


def _line_limit(limit: xsd.limitType | None, phase: int) -> xsd.limitType:
    if limit is not None:
        first, last = limit.minimum - limit.center + phase // 2, limit.maximum - limit.center + phase // 2
        if 0 <= first < last < phase:
            return limit
    return xsd.limitType(minimum=0, maximum=phase - 1, center=phase // 2)


def _slice_acquisitions(
    scan: FastMriKspace, header: xsd.ismrmrdHeader, index: int, kspace: NDArray[np.complex64]
) -> Iterator[ismrmrd.Acquisition]:
    slices, _, _, phase = scan.shape
    limit = header.encoding[0].encodingLimits.kspace_encoding_step_1
    read, along = (np.array(direction) for direction in anatomy_named(scan.anatomy).fastmri_directions)
    normal = np.cross(read, along)
    thickness = header.encoding[0].reconSpace.fieldOfView_mm.z
    position = normal * (index - (slices - 1) / 2) * thickness
    # Zeros are what fastMRI puts where nothing was measured; of a slice that holds nothing else they are the data.
    lines = [column for column in scan.lines(limit) if kspace[:, :, column].any()] or scan.lines(limit)
    acs = _calibration_lines(lines, phase)
    for number, column in enumerate(lines):
        line = np.ascontiguousarray(kspace[:, :, column])
        acquisition = ismrmrd.Acquisition.from_array(
            line, scan_counter=index * phase + number + 1, center_sample=line.shape[1] // 2,
            position=tuple(position), read_dir=tuple(read), phase_dir=tuple(along), slice_dir=tuple(normal),
        )  # fmt: skip
        acquisition.idx.slice, acquisition.idx.kspace_encode_step_1 = index, column - phase // 2 + limit.center
        mark_channels_active(acquisition)
        if column in acs:
            acquisition.setFlag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
        _set_flags(acquisition, first=number == 0, last=number == len(lines) - 1, last_slice=index == slices - 1)
        yield acquisition


def _acceleration(lines: list[int], phase: int) -> int:
    """How many columns there are from one that was measured to the next, outside the calibration lines."""
    acs = _calibration_lines(lines, phase)
    outside = np.array([line for line in lines if line not in acs])
    return max(round(float(np.median(np.diff(outside)))), 1) if len(outside) > 1 else 1


def _calibration_lines(lines: list[int], phase: int) -> range:
    """The unbroken columns around the centre of k-space, of a full volume no more than coil maps need."""
    first = last = phase // 2
    while first - 1 in lines and phase // 2 - first < _MOST_CALIBRATION // 2:
        first -= 1
    while last in lines and last - phase // 2 < _MOST_CALIBRATION // 2:
        last += 1
    return range(first, last)


def _set_flags(acquisition: Any, *, first: bool, last: bool, last_slice: bool) -> None:
    if first:
        acquisition.setFlag(ismrmrd.ACQ_FIRST_IN_SLICE)
    if last:
        acquisition.setFlag(ismrmrd.ACQ_LAST_IN_SLICE)
        if last_slice:
            acquisition.setFlag(ismrmrd.ACQ_LAST_IN_REPETITION)
            acquisition.setFlag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
