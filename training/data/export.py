"""A case as a scanner would have acquired it: what is needed to write it as a raw-data file, the truth beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pass_recon.phantom import SimulatedPatient
from pass_recon.phantom.draws import mixed_seed
from pass_recon.physics.fourier import fft2c
from pass_recon.types import InputError
from training.data.case_file import CaseFile
from training.data.noise import corner_samples

_NOISE_SAMPLES = 4096


@dataclass(frozen=True)
class AcquiredCase(SimulatedPatient):
    """A fully sampled scan of a case and its truth: the record of a simulated patient, and what else a case tells.

    Without noise ``noise_scan`` holds zeros; of a measured case it holds the corners of its k-space, where there is
    hardly anything but noise.

    Attributes
    ----------
    labels
        One a slice: 1 abnormal, 0 normal, −1 unknown.
    name
        Of the case.
    measured
        Whether the k-space was measured rather than simulated.
    """

    labels: tuple[int, ...]
    name: str
    measured: bool


def acquired(
    case: CaseFile, *, noise: float | None = None, seed: int = 0, slices: Sequence[int] | None = None
) -> AcquiredCase:
    """Acquire a case.

    Parameters
    ----------
    case
        The case.
    noise
        Standard deviation of a sample of one coil, E|n|² = noise², for cases that were not measured; the case's own
        suggestion by default.
    seed
        Of the noise.
    slices
        Which; all by default.

    Raises
    ------
    InputError
        If a slice does not exist, or noise is asked for on top of a measured case's own.
    """
    info, chosen = case.info, list(range(len(case)) if slices is None else slices)
    wrong = [index for index in chosen if not 0 <= index < len(case)]
    if wrong or not chosen:
        raise InputError(f"{info.name} has slices 0 to {len(case) - 1}, asked for {wrong or 'none'}")
    if info.measured and noise is not None:
        raise InputError(f"{info.name} was measured and has noise of its own; noise cannot be chosen")
    kspace = torch.stack([fft2c(case.coil_images(index)) for index in chosen])
    if info.measured:
        first, last = info.line_range
        noise_scan = torch.cat([corner_samples(part[..., first:last]) for part in kspace], dim=1)
    else:
        sigma = info.noise if noise is None else noise
        generator = torch.Generator().manual_seed(mixed_seed(seed, info.name))
        kspace += sigma * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)
        samples = (case.shape.coils, _NOISE_SAMPLES)
        noise_scan = sigma * torch.randn(samples, dtype=kspace.dtype, generator=generator)
    records = [case.records[index] for index in chosen]
    return AcquiredCase(
        image=torch.stack([case.image(index) for index in chosen]),
        coil_maps=torch.stack([case.coil_maps(index) for index in chosen]),
        kspace=kspace,
        noise_scan=noise_scan,
        lesion_masks=torch.stack([case.anomaly_mask(index) for index in chosen]),
        boxes=tuple(record.boxes for record in records),
        captions=tuple(record.caption for record in records),
        pixel_mm=info.pixel_mm,
        slice_mm=info.slice_mm,
        anatomy=info.anatomy,
        contrast=info.contrast,
        seed=seed,
        labels=tuple(record.label for record in records),
        name=info.name,
        measured=info.measured,
    )
