"""From the patient to k-space: shading and phase of the image, encoding, motion, noise of the receivers."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pass_recon.phantom.draws import Draws
from pass_recon.phantom.shapes import SliceGrid, WaveField
from pass_recon.physics.fourier import fft2c


def smooth_phase(draws: Draws, grid: SliceGrid) -> Tensor:
    """``(batch, ro, pe)`` radians: a constant, a gradient and a smooth random part."""
    field = WaveField(draws, 90.0, 300.0, waves=12).on(grid)
    constant, along_readout, along_phase = (grid.spread(draws.normal(0.0, d)) for d in (2.0, 0.004, 0.004))
    return constant + along_readout * grid.readout[:, None] + along_phase * grid.phase[None, :] + 0.7 * field


def shading(draws: Draws, grid: SliceGrid) -> Tensor:
    """``(batch, ro, pe)`` bias field around 1: brighter towards the coils at the rim, and smoothly uneven."""
    field = WaveField(draws, 120.0, 400.0, waves=12).on(grid)
    rim = grid.spread(draws.uniform(0.0, 0.45)) / 80.0**2
    return (1.0 + 0.08 * field) * (0.85 + rim * (grid.readout[:, None] ** 2 + grid.phase[None, :] ** 2)).clamp(max=1.6)


def texture(draws: Draws, grid: SliceGrid) -> Tensor:
    """``(batch, ro, pe)`` factor around 1: what tissue shows below the scale of the anatomy that is drawn."""
    grain = WaveField(draws, 1.5, 3.5, waves=160).on(grid)
    strands = WaveField(draws, 3.5, 14.0, waves=64).on(grid)
    depth = grid.spread(draws.uniform(0.02, 0.042))
    return 1.0 + depth * grain + 0.02 * strands


def encode(image: Tensor, coil_maps: Tensor) -> Tensor:
    """k-space F(S x), ``(..., coils, ro, pe)``, centre at index n // 2, orthonormal."""
    return fft2c(coil_maps * image.unsqueeze(-3))


def noise_mixing(draws: Draws, coils: int, correlation: float) -> Tensor:
    """``(patients, coils, coils)`` matrix that gives white noise its correlation; each coil keeps variance 1."""
    angles = torch.complex(draws.normal(0.0, 1.0, coils, coils), draws.normal(0.0, 1.0, coils, coils))
    covariance = angles @ angles.mH / coils
    scale = covariance.diagonal(dim1=-2, dim2=-1).real.sqrt()
    covariance = covariance / (scale[:, :, None] * scale[:, None, :])
    identity = torch.eye(coils, device=draws.device)
    return torch.linalg.cholesky(correlation * covariance + (1.0 - correlation) * identity)


def receiver_noise(mixing: Tensor, sigma: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """``(batch, coils, *shape)`` complex noise with E|n|² = sigma² in each coil; mixing ``(batch, coils, coils)``."""
    size = (*mixing.shape[:2], *shape)
    white = torch.randn(size, dtype=torch.complex64, device=mixing.device, generator=generator)
    return sigma * (mixing @ white.flatten(2)).reshape(size)


@dataclass(frozen=True)
class Motion:
    """In-plane rigid motion of a patient between groups of lines; the group with the centre of k-space is unmoved.

    Attributes
    ----------
    edges
        First line of every group but the first, sorted.
    shifts_mm
        ``(groups, 2)`` along readout and phase encoding.
    turns
        ``(groups,)`` rad.
    """

    edges: tuple[int, ...]
    shifts_mm: Tensor
    turns: Tensor

    @classmethod
    def draw(cls, draws: Draws, lines: int, extent_mm: float, groups: int = 6) -> Motion:
        """Motion of about ``extent_mm`` and as many degrees, at random times, of the first patient of the draws."""
        edges = sorted(int(lines * fraction) for fraction in draws.uniform(0.05, 0.95, groups - 1)[0].tolist())
        shifts = draws.normal(0.0, extent_mm, groups, 2)[0]
        turns = draws.normal(0.0, math.radians(extent_mm), groups)[0]
        centre = sum(edge <= lines // 2 for edge in edges)
        return cls(tuple(edges), shifts - shifts[centre], turns - turns[centre])

    def encode(self, image: Tensor, coil_maps: Tensor, pixel_mm: float) -> Tensor:
        """k-space of the moving patient in resting coils; shapes as in :func:`encode`."""
        kspace = encode(image, coil_maps)
        bounds = (0, *self.edges, image.shape[-1])
        for group, (first, stop) in enumerate(itertools.pairwise(bounds)):
            moved = rigidly_moved(image, self.shifts_mm[group] / pixel_mm, self.turns[group])
            if first < stop and bool(self.shifts_mm[group].any() or self.turns[group]):
                kspace[..., first:stop] = encode(moved, coil_maps)[..., first:stop]
        return kspace


def rigidly_moved(image: Tensor, shift: Tensor, turn: Tensor) -> Tensor:
    """``(batch, ro, pe)`` complex image moved by ``(ro, pe)`` pixels after a turn (rad) about its centre."""
    rows, columns = image.shape[-2:]
    readout = torch.arange(rows, device=image.device)[:, None] - rows // 2 - shift[0]
    phase = torch.arange(columns, device=image.device)[None, :] - columns // 2 - shift[1]
    cosine, sine = torch.cos(turn), torch.sin(turn)
    at_phase = (cosine * phase - sine * readout + columns // 2) * 2.0 / (columns - 1) - 1.0
    at_readout = (cosine * readout + sine * phase + rows // 2) * 2.0 / (rows - 1) - 1.0
    points = torch.stack((at_phase, at_readout), -1).expand(image.shape[0], -1, -1, -1)
    parts = torch.nn.functional.grid_sample(
        torch.view_as_real(image).permute(0, 3, 1, 2), points, mode="bicubic", align_corners=True
    )
    return torch.complex(parts[:, 0], parts[:, 1])
