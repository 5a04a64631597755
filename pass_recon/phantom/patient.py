"""A simulated patient: anatomy, lesions, receiver array and k-space with the truth beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pass_recon.phantom.acquisition import encode, noise_mixing, receiver_noise, smooth_phase
from pass_recon.phantom.coils import simulate_coils
from pass_recon.phantom.draws import Draws, device_generator
from pass_recon.phantom.shapes import SliceGrid, WaveField, ellipsoid_distance, inside, slice_grid
from pass_recon.types import Box, InputError

Anatomy = Literal["brain", "knee"]
Contrast = Literal["t1", "flair", "pd"]

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
    anatomy: Anatomy = "brain",
    contrast: Contrast = "t1",
    lesions: int = 2,
    coils: int = 12,
    slices: int = 3,
    shape: tuple[int, int] = (320, 320),
    noise: float = 0.01,
    seed: int = 0,
    device: str | torch.device = "cpu",
    noise_correlation: float = 0.0,
) -> SimulatedPatient:
    """Simulate a patient and a fully sampled scan.

    The same seed gives the same patient; ``lesions=0`` gives the same patient without its lesions.

    Parameters
    ----------
    anatomy, contrast
        ``"brain"`` in ``"t1"`` or ``"flair"``, ``"knee"`` in ``"pd"``.
    lesions
        Number of lesions in the imaged slices.
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

    Raises
    ------
    InputError
        If a setting is outside its range.
    """
    if (anatomy, contrast) not in (("brain", "t1"), ("brain", "flair"), ("knee", "pd")):
        raise InputError(f"no simulated {anatomy!r} in {contrast!r} contrast: brain has t1 and flair, knee has pd")
    if slices < 1 or lesions < 0 or min(shape) < 16 or noise < 0:
        raise InputError(
            f"need slices ≥ 1, lesions ≥ 0, at least 16 × 16 pixels and noise ≥ 0, "
            f"got {slices}, {lesions}, {shape}, {noise}"
        )
    draws = Draws([seed], "anatomy", device)
    level = (torch.arange(slices, device=device) - (slices - 1) / 2) * 5.0
    patient = torch.zeros(slices, dtype=torch.long, device=device)
    grid = slice_grid(shape, level, patient, field_of_view_mm=(220.0, 190.0), slice_mm=5.0)
    magnitude = _plain_head(draws, grid, contrast)
    masks, boxes, labels = _plain_lesions(Draws([seed], "lesions", device), grid, lesions, anatomy)
    magnitude = torch.where(masks, 0.75 if contrast == "flair" else 0.2, magnitude)
    image = magnitude / magnitude.amax() * torch.exp(1j * smooth_phase(Draws([seed], "phase", device), grid))
    coil_draws = Draws([seed], "coils", device)
    coil_maps, _ = simulate_coils(coil_draws, coils, grid, (125.0, 105.0))
    mixing = noise_mixing(coil_draws, coils, noise_correlation)
    generator = device_generator(device, seed, "noise")
    kspace = encode(image, coil_maps) + receiver_noise(mixing[patient], noise, shape, generator)
    noise_scan = receiver_noise(mixing, noise, (_NOISE_SAMPLES,), generator)[0]
    name = "Axial head" if anatomy == "brain" else "Coronal knee"
    captions = tuple(f"{name}, {contrast}: {', '.join(found) or 'no lesion'}." for found in labels)
    return SimulatedPatient(
        image, coil_maps, kspace, noise_scan, masks, boxes, captions, (grid.pixel_mm, grid.pixel_mm), 5.0,
        anatomy, contrast, seed,
    )  # fmt: skip


def _plain_head(draws: Draws, grid: SliceGrid, contrast: str) -> Tensor:
    y, x = grid.readout[:, None], grid.phase[None, :]
    z = grid.level[:, None, None]
    wobble = 2.0 * WaveField(draws, 30.0, 90.0).on(grid)
    folds = WaveField(draws, 14.0, 24.0, waves=48).on(grid)
    skin = ellipsoid_distance((y, x, z), (98.0, 78.0, 100.0)) + wobble
    values = {"fat": 0.95, "skull": 0.05, "csf": 0.1, "grey": 0.4, "white": 0.6}
    if contrast == "flair":
        values |= {"fat": 0.7, "csf": 0.05, "grey": 0.55, "white": 0.42}
    depth = {"fat": 0.0, "skull": 6.0, "csf": 13.0, "grey": 15.0, "white": 20.0}
    signal = torch.zeros(grid.shape, device=grid.device)
    for tissue, below in depth.items():
        bend = 3.0 * folds if tissue == "white" else 0.0
        cover = inside(skin - below + bend, 1.5 * grid.pixel_mm)
        signal = signal * (1.0 - cover) + values[tissue] * cover
    for side in (-1.0, 1.0):
        ventricle = ellipsoid_distance((y + 5.0, x - side * 10.0, z), (30.0, 6.0, 30.0)) + 0.5 * wobble
        cover = inside(ventricle, 1.5 * grid.pixel_mm)
        signal = signal * (1.0 - cover) + values["csf"] * cover
    return signal * (1.0 + 0.05 * WaveField(draws, 3.0, 12.0, waves=96).on(grid))


def _plain_lesions(
    draws: Draws, grid: SliceGrid, lesions: int, anatomy: str
) -> tuple[Tensor, tuple[tuple[Box, ...], ...], list[list[str]]]:
    label = "Nonspecific white matter lesion" if anatomy == "brain" else "Bone- Subchondral edema"
    masks = torch.zeros(grid.shape, dtype=torch.bool, device=grid.device)
    boxes: list[list[Box]] = [[] for _ in grid.level]
    labels: list[list[str]] = [[] for _ in grid.level]
    for _ in range(lesions):
        angle, distance = draws.uniform(0.0, 6.28), draws.uniform(25.0, 45.0)
        radius = draws.uniform(5.0, 9.0)
        chosen = int(draws.uniform(0.0, len(grid.level) - 1e-3))
        offset = (
            grid.readout[:, None] - distance * torch.sin(angle),
            grid.phase[None, :] - distance * torch.cos(angle),
            (grid.level - grid.level[chosen])[:, None, None],
        )
        mask = ellipsoid_distance(offset, (radius, radius, radius)) > 0
        masks |= mask
        for index in mask.flatten(1).any(1).nonzero().flatten().tolist():
            rows, columns = mask[index].any(1).nonzero().flatten(), mask[index].any(0).nonzero().flatten()
            first, corner = int(rows[0]), int(columns[0])
            boxes[index].append(
                Box(first, corner, int(rows[-1]) + 1 - first, int(columns[-1]) + 1 - corner, 1.0, label)
            )
            labels[index].append(label)
    return masks, tuple(tuple(found) for found in boxes), labels
