"""From the patient to k-space: phase of the image, encoding, noise of the receivers."""

from __future__ import annotations

import torch
from torch import Tensor

from pass_recon.phantom.draws import Draws
from pass_recon.phantom.shapes import SliceGrid, WaveField

_AXES = (-2, -1)


def smooth_phase(draws: Draws, grid: SliceGrid) -> Tensor:
    """``(batch, ro, pe)`` radians: a constant, a gradient and a smooth random part."""
    field = WaveField(draws, 90.0, 300.0, waves=12).on(grid)
    constant, along_readout, along_phase = (grid.spread(draws.normal(0.0, d)) for d in (2.0, 0.004, 0.004))
    return constant + along_readout * grid.readout[:, None] + along_phase * grid.phase[None, :] + 0.7 * field


def encode(image: Tensor, coil_maps: Tensor) -> Tensor:
    """k-space F(S x), ``(..., coils, ro, pe)``, centre at index n // 2, orthonormal."""
    coil_images = torch.fft.ifftshift(coil_maps * image.unsqueeze(-3), dim=_AXES)
    return torch.fft.fftshift(torch.fft.fft2(coil_images, norm="ortho"), dim=_AXES)


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
