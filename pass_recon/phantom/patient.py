"""A simulated patient: anatomy, lesions, receiver array and k-space with the truth beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pass_recon.anatomies import ANATOMIES
from pass_recon.phantom.acquisition import Motion, encode, noise_mixing, receiver_noise
from pass_recon.phantom.coils import simulate_coils
from pass_recon.phantom.draws import Streams, device_generator
from pass_recon.phantom.scene import check_contrast, paint_scene
from pass_recon.types import Box, InputError

_NOISE_SAMPLES = 4096


@dataclass(frozen=True)
class SimulatedPatient:
    """One scan of one simulated patient and everything that is known about it.

    Attributes
    ----------
    image
        ``(slices, ro, pe)`` complex64 without noise, peak 1. Head: readout runs from anterior to posterior, phase from
        the patient's right to left. Knee: readout runs from the femur down to the tibia.
    coil_maps
        ``(slices, coils, ro, pe)`` complex64 with Σ|S|² = 1 in every pixel.
    kspace
        ``(slices, coils, ro, pe)`` complex64: F(S x) + noise, every line sampled.
    noise_scan
        ``(coils, samples)`` complex64: noise alone, of the covariance of the noise in ``kspace``.
    lesion_masks
        ``(slices, ro, pe)`` bool.
    boxes
        One tuple a slice, each box labelled in fastMRI+'s words.
    captions
        One sentence a slice.
    pixel_mm
        Size of a pixel along readout and phase encoding.
    slice_mm
        Distance between slices.
    anatomy, contrast, seed
        What was asked for.
    """

    image: Tensor
    coil_maps: Tensor
    kspace: Tensor
    noise_scan: Tensor
    lesion_masks: Tensor
    boxes: tuple[tuple[Box, ...], ...]
    captions: tuple[str, ...]
    pixel_mm: tuple[float, float]
    slice_mm: float
    anatomy: str
    contrast: str
    seed: int


def simulate_patient(
    *,
    anatomy: str = "brain",
    contrast: str = "t1",
    lesions: int = 2,
    coils: int = 12,
    slices: int = 3,
    shape: tuple[int, int] = (320, 320),
    noise: float = 0.01,
    seed: int = 0,
    device: str | torch.device = "cpu",
    noise_correlation: float = 0.0,
    motion_mm: float = 0.0,
    lesion_labels: Sequence[str] | None = None,
) -> SimulatedPatient:
    """Simulate a patient and a fully sampled scan.

    The same seed gives the same patient, on the CPU whatever the number of threads (to rounding); a GPU draws other
    noise. The same patient without lesions has the same anatomy, coils, phase and noise.

    Parameters
    ----------
    anatomy, contrast
        ``"brain"`` in ``"t1"`` or ``"flair"``, ``"knee"`` in ``"pd"``.
    lesions
        Number of lesions, each in one or several of the imaged slices.
    coils
        1 to 32 receiver coils.
    slices
        Number of neighbouring slices.
    shape
        ``(ro, pe)`` pixels.
    noise
        Standard deviation of the noise of a pixel of a coil image as a fraction of the image's peak: E|n|² = noise².
    seed
        Names the patient.
    device
        Where to compute, and where the result lives.
    noise_correlation
        0: the coils' noise is independent; towards 1: strongly correlated. Each coil keeps its variance.
    motion_mm
        About how far (and by how many degrees) the patient moves in the plane between groups of lines; ``image`` is the
        patient at rest.
    lesion_labels
        Kinds of lesions to choose from, in fastMRI+'s words; None for all of the anatomy.

    Raises
    ------
    InputError
        If a setting is outside its range.
    """
    check_contrast(anatomy, contrast)
    if slices < 1 or lesions < 0 or min(shape) < 16 or noise < 0 or motion_mm < 0 or not 0 <= noise_correlation < 1:
        raise InputError(
            f"need slices ≥ 1, lesions ≥ 0, at least 16 × 16 pixels, noise ≥ 0, motion_mm ≥ 0 and noise_correlation "
            f"from 0 to below 1, got {slices}, {lesions}, {shape}, {noise}, {motion_mm}, {noise_correlation}"
        )
    streams = Streams([seed], device)
    scene = paint_scene(streams, anatomy, contrast, [lesions], slices, shape, lesion_labels)
    coil_maps, _ = simulate_coils(streams("coils"), coils, scene.grid, ANATOMIES[anatomy].array_mm)
    if motion_mm:
        motion = Motion.draw(streams("motion"), shape[1], motion_mm)
        kspace = motion.encode(scene.image, coil_maps, scene.grid.pixel_mm)
    else:
        kspace = encode(scene.image, coil_maps)
    mixing = noise_mixing(streams("noise correlation"), coils, noise_correlation)
    generator = device_generator(device, seed, "noise")
    noise_scan = receiver_noise(mixing, noise, (_NOISE_SAMPLES,), generator)[0]
    for index in range(slices):
        kspace[index] += receiver_noise(mixing, noise, shape, generator)[0]
    return SimulatedPatient(
        image=scene.image,
        coil_maps=coil_maps,
        kspace=kspace,
        noise_scan=noise_scan,
        lesion_masks=scene.findings.masks,
        boxes=tuple(tuple(boxes) for boxes in scene.findings.boxes),
        captions=scene.captions,
        pixel_mm=(scene.grid.pixel_mm, scene.grid.pixel_mm),
        slice_mm=scene.grid.slice_mm,
        anatomy=anatomy,
        contrast=contrast,
        seed=seed,
    )
