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

from gadgets.mrd.scan_file import without_version
from pass_recon.anatomies import anatomy_named
from pass_recon.common.files import written_aside
from pass_recon.types import InputError


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
    """

    header_xml: bytes
    shape: tuple[int, int, int, int]
    anatomy: str
    slices: Iterable[NDArray[np.complex64]]


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
        If the header is not MRD.
    OSError
        If the file cannot be written.
    """
    header = fastmri_header(scan)
    with written_aside(path) as aside, ismrmrd.File(str(aside), "w") as file:
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
        header = xsd.CreateFromDocument(without_version(scan.header_xml))
    except (ValueError, TypeError) as error:
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
    # Fully sampled, with its calibration among its lines.
    encoding.parallelImaging = None
    if header.acquisitionSystemInformation is None:
        header.acquisitionSystemInformation = xsd.acquisitionSystemInformationType()
    header.acquisitionSystemInformation.receiverChannels = coils
    header.acquisitionSystemInformation.coilLabel = []
    return header


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
    counter = index * (limit.maximum - limit.minimum + 1)
    for step in range(limit.minimum, limit.maximum + 1):
        counter += 1
        line = np.ascontiguousarray(kspace[:, :, step - limit.center + phase // 2])
        acquisition = ismrmrd.Acquisition.from_array(
            line, scan_counter=counter, center_sample=line.shape[1] // 2, position=tuple(position),
            read_dir=tuple(read), phase_dir=tuple(along), slice_dir=tuple(normal),
        )  # fmt: skip
        acquisition.idx.slice, acquisition.idx.kspace_encode_step_1 = index, step
        for coil in range(line.shape[0]):
            acquisition.setChannelActive(coil)
        _set_flags(acquisition, step, limit, last_slice=index == slices - 1)
        yield acquisition


def _set_flags(acquisition: Any, step: int, limit: xsd.limitType, *, last_slice: bool) -> None:
    if step == limit.minimum:
        acquisition.setFlag(ismrmrd.ACQ_FIRST_IN_SLICE)
    if step == limit.maximum:
        acquisition.setFlag(ismrmrd.ACQ_LAST_IN_SLICE)
        if last_slice:
            acquisition.setFlag(ismrmrd.ACQ_LAST_IN_REPETITION)
            acquisition.setFlag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
