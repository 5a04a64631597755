"""A simulated patient as an MRD file, written as a scanner would have acquired it, with the ground truth beside it.

Acquired: a noise scan, then every phase-encoding line of every slice with twofold readout oversampling; the ACS lines
of all slices first, the slices interleaved (even, then odd). The ground truth lies in `/truth` of the same file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import ismrmrd
import numpy as np
import torch
from ismrmrd import xsd
from torch import Tensor

from gadgets.converters.fastmri_file import embedded_calibration
from gadgets.mrd.dataset import line_bytes, mark_channels_active
from pass_recon.anatomies import CONTRASTS, anatomy_named
from pass_recon.common.files import written_aside
from pass_recon.common.hdf5 import make_room, open_hdf5
from pass_recon.physics.fourier import fft1c, ifft1c, resize_centre
from pass_recon.sampling.lines import acquisition_order, acs_count, acs_fraction, acs_mask
from pass_recon.types import Box, InputError

OVERSAMPLING = 2
SAMPLE_TIME_US = 5.0
TICK_MS = 2.5  # of acquisition_time_stamp, as MRD counts it


class Patient(Protocol):
    """What a simulated patient offers; see pass_recon.phantom.SimulatedPatient for shapes and units."""

    @property
    def image(self) -> Tensor: ...

    @property
    def coil_maps(self) -> Tensor: ...

    @property
    def kspace(self) -> Tensor: ...

    @property
    def noise_scan(self) -> Tensor: ...

    @property
    def lesion_masks(self) -> Tensor: ...

    @property
    def boxes(self) -> tuple[tuple[Box, ...], ...]: ...

    @property
    def captions(self) -> tuple[str, ...]: ...

    @property
    def pixel_mm(self) -> tuple[float, float]: ...

    @property
    def slice_mm(self) -> float: ...

    @property
    def anatomy(self) -> str: ...

    @property
    def contrast(self) -> str: ...

    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Truth:
    """The ground truth of a simulated patient, as read back from its file.

    Attributes
    ----------
    image
        ``(slices, ro, pe)`` complex64 without noise, peak 1.
    coil_maps
        ``(slices, coils, ro, pe)`` complex64.
    lesion_mask
        ``(slices, ro, pe)`` bool.
    boxes
        The lesions of each slice.
    """

    image: np.ndarray
    coil_maps: np.ndarray
    lesion_mask: np.ndarray
    boxes: tuple[tuple[Box, ...], ...]


def write_patient(
    path: str | Path,
    patient: Patient,
    *,
    header: xsd.ismrmrdHeader | None = None,
    labels: Sequence[int] | None = None,
    progress: Callable[[], object] | None = None,
) -> None:
    """Write the MRD file; it appears under its name only when it is complete.

    Parameters
    ----------
    path
        The file.
    patient
        What to write.
    header
        A changed `patient_header`.
    labels
        One a slice: 1 abnormal, 0 normal, −1 unknown; by default a slice with a box is abnormal and any other normal.
    progress
        Called for each acquisition.

    Raises
    ------
    InputError
        If there is no room for the file.
    OSError
        If its folder cannot be written to.
    """
    truth = (patient.image, patient.coil_maps, patient.lesion_masks)
    slices, coils, readout, phase = patient.kspace.shape
    size = (1 + slices * phase) * line_bytes(coils, OVERSAMPLING * readout) + sum(array.nbytes for array in truth)
    with written_aside(path, private=True) as aside:
        make_room(aside, size)
        with ismrmrd.File(str(aside), "a") as file:
            dataset = file["dataset"]
            dataset.header = header or patient_header(patient)
            dataset.acquisitions = list(_counted(acquisitions(patient), progress))
        make_room(aside, size)
        with h5py.File(aside, "a") as file:
            _write_truth(file.create_group("truth"), patient, labels)


def _counted(items: Iterator[Any], progress: Callable[[], object] | None) -> Iterator[Any]:
    for item in items:
        if progress is not None:
            progress()
        yield item


def read_truth(path: str | Path) -> Truth:
    """Read the ground truth from a file that `write_patient` wrote; raises InputError for any other."""
    with open_hdf5(path, "a simulated patient") as file:
        if "truth" not in file:
            raise InputError(f"{path} holds no ground truth")
        group = file["truth"]
        boxes = tuple(tuple(Box(**box) for box in json.loads(row)) for row in group["boxes"].asstr())
        return Truth(group["image"][()], group["coil_maps"][()], group["lesion_mask"][()], boxes)


def patient_header(patient: Patient) -> xsd.ismrmrdHeader:
    """The MRD header of this patient's scan, without a version, which some servers refuse."""
    slices, coils, readout, phase = patient.kspace.shape
    width, height = readout * patient.pixel_mm[0], phase * patient.pixel_mm[1]

    def space(samples: int, read_mm: float) -> xsd.encodingSpaceType:
        return xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(x=samples, y=phase, z=1),
            fieldOfView_mm=xsd.fieldOfViewMm(x=read_mm, y=height, z=patient.slice_mm),
        )

    limits = xsd.encodingLimitsType(
        kspace_encoding_step_1=xsd.limitType(minimum=0, maximum=phase - 1, center=phase // 2),
        slice=xsd.limitType(minimum=0, maximum=slices - 1, center=slices // 2),
    )
    return xsd.ismrmrdHeader(
        measurementInformation=xsd.measurementInformationType(
            measurementID=f"simulated_{patient.anatomy}_{patient.contrast}_{patient.seed}",
            patientPosition=xsd.patientPositionType.HFS,
            protocolName=f"{patient.anatomy}_{patient.contrast}",
        ),
        acquisitionSystemInformation=xsd.acquisitionSystemInformationType(
            systemVendor="simulated",
            systemFieldStrength_T=3.0,
            # The simulated receiver is flat: noise and imaging samples have the same noise.
            relativeReceiverNoiseBandwidth=1.0,
            receiverChannels=coils,
        ),
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=123_200_000),
        encoding=[
            xsd.encodingType(
                encodedSpace=space(OVERSAMPLING * readout, OVERSAMPLING * width),
                reconSpace=space(readout, width),
                encodingLimits=limits,
                trajectory=xsd.trajectoryType.CARTESIAN,
                parallelImaging=embedded_calibration(1),
            )
        ],
        # Of other contrasts, which only prepared cases have, the times are unknown.
        sequenceParameters=xsd.sequenceParametersType(
            TR=[CONTRASTS[patient.contrast].repetition_time_ms], TE=[CONTRASTS[patient.contrast].echo_time_ms]
        )
        if patient.contrast in CONTRASTS
        else None,
    )


def acquisitions(patient: Patient) -> Iterator[ismrmrd.Acquisition]:
    """The noise scan and all lines, in the order of acquisition."""
    slices, _, _, phase = patient.kspace.shape
    if bool(patient.noise_scan.any()):  # zeros would say that the coils' gains are unknown, not that noise is absent
        yield _noise_acquisition(patient)
    acs = acs_mask(phase, acs_count(phase, acs_fraction(4)))
    order = acquisition_order(torch.ones_like(acs), acs)
    interleaved = [*range(0, slices, 2), *range(1, slices, 2)]
    kspace = oversample_readout(patient.kspace, patient.noise_scan, seed=patient.seed).numpy()
    ticks = CONTRASTS.get(patient.contrast, CONTRASTS["pd"]).repetition_time_ms / slices / TICK_MS
    counter = 1
    for line in order:
        for index in interleaved:
            acquisition = ismrmrd.Acquisition.from_array(kspace[index, :, :, line])
            _fill_header(acquisition, patient, index)
            acquisition.idx.kspace_encode_step_1 = line
            acquisition.scan_counter = counter
            acquisition.acquisition_time_stamp = round(counter * ticks)
            _set_flags(acquisition, line, order, acs=bool(acs[line]), last_slice=index == interleaved[-1])
            yield acquisition
            counter += 1


def oversample_readout(kspace: Tensor, noise_scan: Tensor, *, seed: int = 0) -> Tensor:
    """k-space of a readout sampled twice as densely, hence of twice the field of view.

    Beside the object there is nothing but noise, of the covariance that the noise scan has: without it the noise of
    neighbouring samples would be correlated, which no receiver's is.

    Parameters
    ----------
    kspace
        ``(slices, coils, ro, pe)`` complex64.
    noise_scan
        ``(coils, samples)`` complex64.

    Returns
    -------
    Tensor
        ``(slices, coils, 2 ro, pe)`` complex64; removing the oversampling gives ``kspace`` back.
    """
    slices, coils, readout, phase = kspace.shape
    generator = torch.Generator().manual_seed(seed)
    wide = (slices, coils, OVERSAMPLING * readout, phase)
    white = torch.randn(wide, dtype=torch.complex64, generator=generator)
    covariance = noise_scan @ noise_scan.mH / noise_scan.shape[-1]
    # A noiseless patient has a covariance of zero, which has no Cholesky factor.
    factor = torch.linalg.cholesky(covariance) if bool(covariance.any()) else covariance
    image = torch.einsum("cd,sdrp->scrp", factor, white)
    inside = resize_centre(torch.ones(readout, 1, dtype=torch.bool), (OVERSAMPLING * readout, 1))
    hybrid = resize_centre(ifft1c(kspace, -2), (OVERSAMPLING * readout, phase))
    return fft1c(torch.where(inside, hybrid, image), -2).to(torch.complex64)


def _noise_acquisition(patient: Patient) -> ismrmrd.Acquisition:
    acquisition = ismrmrd.Acquisition.from_array(patient.noise_scan.numpy())
    _fill_header(acquisition, patient, 0)
    acquisition.center_sample = 0
    acquisition.setFlag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    return acquisition


def _fill_header(acquisition: ismrmrd.Acquisition, patient: Patient, slice_index: int) -> None:
    slices = len(patient.kspace)
    read, phase, step = (np.array(direction) for direction in anatomy_named(patient.anatomy).patient_directions)
    acquisition.idx.slice = slice_index
    acquisition.center_sample = acquisition.number_of_samples // 2
    acquisition.sample_time_us = SAMPLE_TIME_US
    acquisition.read_dir[:] = tuple(read)
    acquisition.phase_dir[:] = tuple(phase)
    acquisition.slice_dir[:] = tuple(np.cross(read, phase))
    acquisition.position[:] = tuple(step * (slice_index - (slices - 1) / 2) * patient.slice_mm)
    mark_channels_active(acquisition)


def _set_flags(
    acquisition: ismrmrd.Acquisition, line: int, order: tuple[int, ...], *, acs: bool, last_slice: bool
) -> None:
    if acs:
        acquisition.setFlag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
    if line == order[0]:
        acquisition.setFlag(ismrmrd.ACQ_FIRST_IN_SLICE)
    if line == order[-1]:
        acquisition.setFlag(ismrmrd.ACQ_LAST_IN_SLICE)
        if last_slice:
            acquisition.setFlag(ismrmrd.ACQ_LAST_IN_REPETITION)
            acquisition.setFlag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)


def _write_truth(group: h5py.Group, patient: Patient, labels: Sequence[int] | None) -> None:
    group["image"] = patient.image.numpy()
    group["coil_maps"] = patient.coil_maps.numpy()
    group["lesion_mask"] = patient.lesion_masks.numpy()
    text = h5py.string_dtype()
    rows = [json.dumps([asdict(box) for box in boxes]) for boxes in patient.boxes]
    group.create_dataset("boxes", data=rows, dtype=text)
    group.create_dataset("captions", data=list(patient.captions), dtype=text)
    labels = [int(bool(boxes)) for boxes in patient.boxes] if labels is None else labels
    group["labels"] = np.array(labels, dtype=np.int8)
    for name in ("anatomy", "contrast", "seed"):
        group.attrs[name] = getattr(patient, name)
    group.attrs["notice"] = "for research, not for clinical use"
