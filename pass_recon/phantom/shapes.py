"""Geometry on slices: the pixel grid in millimetres, soft level sets, smooth random functions of space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pass_recon.phantom.draws import Draws


@dataclass(frozen=True)
class SliceGrid:
    """Where the pixels of a batch of slices are, in millimetres from the middle of the anatomy.

    Attributes
    ----------
    readout, phase
        ``(ro,)`` and ``(pe,)`` pixel centres; index n // 2 is at 0.
    level
        ``(batch,)`` position of each slice along its normal.
    patient
        ``(batch,)`` which patient each slice belongs to.
    pixel_mm
        Size of the square pixels.
    slice_mm
        Distance between neighbouring slices.
    """

    readout: Tensor
    phase: Tensor
    level: Tensor
    patient: Tensor
    pixel_mm: float
    slice_mm: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """(batch, ro, pe)."""
        return len(self.level), len(self.readout), len(self.phase)

    @property
    def device(self) -> torch.device:
        """Where the coordinates live."""
        return self.level.device

    def spread(self, of_patients: Tensor) -> Tensor:
        """``(patients, ...)`` values as ``(batch, ..., 1, 1)``, ready to multiply slices."""
        return of_patients[self.patient][..., None, None]


def slice_grid(
    shape: tuple[int, int], level: Tensor, patient: Tensor, *, field_of_view_mm: tuple[float, float], slice_mm: float
) -> SliceGrid:
    """The grid with the smallest square pixels that still shows the whole field of view along both axes."""
    pixel = max(extent / size for extent, size in zip(field_of_view_mm, shape, strict=True))
    readout, phase = ((torch.arange(size, device=level.device) - size // 2) * pixel for size in shape)
    return SliceGrid(readout, phase, level, patient, pixel, slice_mm)


class WaveField:
    """A smooth random function of space: a sum of plane waves, of mean 0 and standard deviation 1.

    f(r) = sqrt(2 / n) Σ cos(k_n · r + φ_n), with directions uniform on the sphere. It has no grid, is smooth from slice
    to slice, and on the pixels of a slice it is one product of two thin matrices.

    Parameters
    ----------
    draws
        The patients' random numbers.
    shortest, longest
        Wavelengths in millimetres; 1 / wavelength is uniform between them.
    waves
        How many; a handful for a bias field, a hundred for texture.
    """

    def __init__(self, draws: Draws, shortest: float, longest: float, waves: int = 24) -> None:
        wavenumber = 2.0 * math.pi * draws.uniform(1.0 / longest, 1.0 / shortest, waves)
        cosine = draws.uniform(-1.0, 1.0, waves)
        azimuth = draws.uniform(0.0, 2.0 * math.pi, waves)
        sine = torch.sqrt(1.0 - cosine**2)
        self.readout = wavenumber * sine * torch.cos(azimuth)
        self.phase = wavenumber * sine * torch.sin(azimuth)
        self.level = wavenumber * cosine
        self.offset = draws.uniform(0.0, 2.0 * math.pi, waves)

    def on(self, grid: SliceGrid) -> Tensor:
        """``(batch, ro, pe)`` values."""
        along_phase = grid.phase[:, None] * self.phase[grid.patient][:, None, :]
        along_readout = grid.readout[:, None] * self.readout[grid.patient][:, None, :]
        rest = grid.level[:, None] * self.level[grid.patient] + self.offset[grid.patient]
        along_readout = along_readout + rest[:, None, :]
        left = torch.cat((torch.cos(along_readout), torch.sin(along_readout)), -1)
        right = torch.cat((torch.cos(along_phase), -torch.sin(along_phase)), -1)
        return math.sqrt(2.0 / self.offset.shape[1]) * (left @ right.transpose(-1, -2))


def inside(distance: Tensor, softness: float | Tensor) -> Tensor:
    """Fraction of a pixel within a surface whose signed distance (positive inside) and edge width are given."""
    return torch.sigmoid(distance * (4.0 / softness))


def ellipsoid_distance(offsets: tuple[Tensor, ...], radii: tuple[float | Tensor, ...]) -> Tensor:
    """Approximate signed distance to an ellipse or ellipsoid, positive inside, exact to first order at its surface."""
    squares = [(offset / radius) ** 2 for offset, radius in zip(offsets, radii, strict=True)]
    slopes = [square / radius**2 for square, radius in zip(squares, radii, strict=True)]
    level = torch.sqrt(sum(squares[1:], squares[0]) + 1e-12)
    gradient = torch.sqrt(sum(slopes[1:], slopes[0]) + 1e-12) / level
    return (1.0 - level) / gradient
