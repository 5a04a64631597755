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

    def only(self, slices: Tensor) -> SliceGrid:
        """The grid of some slices of the batch, by index."""
        return SliceGrid(
            self.readout, self.phase, self.level[slices], self.patient[slices], self.pixel_mm, self.slice_mm
        )

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
    elongation
        By which factor features are longer along readout than across, as muscle fibres are.
    """

    def __init__(self, draws: Draws, shortest: float, longest: float, waves: int = 24, elongation: float = 1.0) -> None:
        wavenumber = 2.0 * math.pi * draws.uniform(1.0 / longest, 1.0 / shortest, waves)
        cosine = draws.uniform(-1.0, 1.0, waves)
        azimuth = draws.uniform(0.0, 2.0 * math.pi, waves)
        sine = torch.sqrt(1.0 - cosine**2)
        self.readout = wavenumber * sine * torch.cos(azimuth) / elongation
        self.phase = wavenumber * sine * torch.sin(azimuth)
        self.level = wavenumber * cosine
        self.offset = draws.uniform(0.0, 2.0 * math.pi, waves)

    def on(self, grid: SliceGrid) -> Tensor:
        """``(batch, ro, pe)`` values."""
        readout, phase = self._factors(grid)
        return torch.cat(readout, -1) @ torch.cat((phase[0], -phase[1]), -1).transpose(-1, -2)

    def at(self, grid: SliceGrid, readout: Tensor, phase: Tensor, level: Tensor) -> Tensor:
        """Values at any points ``(batch, ...)`` of the slices' patients; dearer than :meth:`on`, so use few points."""
        points = torch.stack((readout, phase, level), -1)
        waves = torch.stack((self.readout, self.phase, self.level), -1)[grid.patient]
        angle = points.flatten(1, -2) @ waves.transpose(-1, -2) + self.offset[grid.patient][:, None, :]
        return math.sqrt(2.0 / self.offset.shape[1]) * torch.cos(angle).sum(-1).reshape(readout.shape)

    def _factors(self, grid: SliceGrid) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        # cos(a + b) = cos a cos b − sin a sin b, with a along readout and level, b along phase encoding.
        along_phase = grid.phase[:, None] * self.phase[grid.patient][:, None, :]
        along_readout = grid.readout[:, None] * self.readout[grid.patient][:, None, :]
        rest = grid.level[:, None] * self.level[grid.patient] + self.offset[grid.patient]
        along_readout = along_readout + rest[:, None, :]
        scale = math.sqrt(2.0 / self.offset.shape[1])
        return (
            (scale * torch.cos(along_readout), scale * torch.sin(along_readout)),
            (torch.cos(along_phase), torch.sin(along_phase)),
        )


Axes = tuple[Tensor, Tensor, Tensor]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Frame:
    """Coordinates of every pixel in a patient's own frame, ``(batch, ro, pe)`` each, in millimetres.

    Shapes are written down once, for the average patient; the frame is what turns, stretches and bends them into this
    one. ``side`` is the distance from the midplane, by which paired structures are written once.
    """

    readout: Tensor
    phase: Tensor
    level: Tensor

    @property
    def side(self) -> Tensor:
        """Distance from the midplane."""
        return self.phase.abs()

    @property
    def axes(self) -> Axes:
        """(readout, phase, level)."""
        return self.readout, self.phase, self.level

    @property
    def mirrored(self) -> Axes:
        """(readout, side, level): shapes on these come in pairs."""
        return self.readout, self.side, self.level

    def bent(self, draws: Draws, grid: SliceGrid, amplitude: float, wavelength: float) -> Frame:
        """The frame bent by up to about ``amplitude`` mm over ``wavelength`` to twice that."""
        fields = [amplitude * WaveField(draws, wavelength, 2.0 * wavelength, waves=16).on(grid) for _ in range(3)]
        return Frame(self.readout + fields[0], self.phase + fields[1], self.level + fields[2])


def patient_frame(draws: Draws, grid: SliceGrid, *, stretch: float, tilt: float, shift_mm: float) -> Frame:
    """Draw a patient's frame: stretched by about the fraction ``stretch``, turned by about ``tilt`` rad and moved.

    Parameters
    ----------
    draws
        The patients' random numbers.
    grid
        The slices.
    stretch, tilt, shift_mm
        Standard deviations.
    """
    turn, pitch, roll = (grid.spread(draws.normal(0.0, tilt)) for _ in range(3))
    scales = [grid.spread(1.0 + draws.normal(0.0, stretch)) for _ in range(3)]
    moves = [grid.spread(draws.normal(0.0, shift_mm)) for _ in range(2)]
    readout = grid.readout[:, None] + moves[0]
    phase = grid.phase[None, :] + moves[1]
    level = grid.level[:, None, None]
    return Frame(
        (readout + turn * phase - pitch * level) / scales[0],
        (phase - turn * readout - roll * level) / scales[1],
        (level + pitch * readout + roll * phase) / scales[2],
    )


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


def turned_ellipsoid(axes: Axes, centre: Point, radii: tuple[float | Tensor, ...], degrees: float = 0.0) -> Tensor:
    """Signed distance, positive inside, to an ellipsoid at a centre, turned in the plane of the slice."""
    offset = [axis - at for axis, at in zip(axes, centre, strict=True)]
    if degrees:
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        offset[:2] = [cosine * offset[0] + sine * offset[1], cosine * offset[1] - sine * offset[0]]
    return ellipsoid_distance(tuple(offset), radii)


def tube_distance(axes: Axes, points: tuple[Point, ...], radii: tuple[float, ...], flatten: float = 1.0) -> Tensor:
    """Signed distance, positive inside, to a tube along points, with a radius at each.

    ``flatten`` > 1 makes the tube narrower along the second axis than along the others by that factor.
    """
    best = torch.full((1, 1, 1), -1e6, device=axes[2].device)
    for start, stop, first, last in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
        edge = (stop[0] - start[0], (stop[1] - start[1]) * flatten, stop[2] - start[2])
        offset = (axes[0] - start[0], (axes[1] - start[1]) * flatten, axes[2] - start[2])
        length = edge[0] ** 2 + edge[1] ** 2 + edge[2] ** 2
        along = ((offset[0] * edge[0] + offset[1] * edge[1] + offset[2] * edge[2]) / length).clamp(0.0, 1.0)
        away = [o - along * e for o, e in zip(offset, edge, strict=True)]
        distance = torch.sqrt(away[0] ** 2 + away[1] ** 2 + away[2] ** 2 + 1e-6)
        best = torch.maximum(best, first + along * (last - first) - distance)
    return best / flatten


def soft_minimum(first: Tensor, second: Tensor, width: float) -> Tensor:
    """The smaller of two distances with the edge between them rounded over ``width`` mm."""
    blend = (0.5 + 0.5 * (second - first) / width).clamp(0.0, 1.0)
    return second + (first - second) * blend - width * blend * (1.0 - blend)


def soft_maximum(first: Tensor, second: Tensor, width: float) -> Tensor:
    """The larger of two distances with the edge between them rounded over ``width`` mm."""
    return -soft_minimum(-first, -second, width)


def grown(masks: Tensor, pixels: int) -> Tensor:
    """``(batch, ro, pe)`` bool masks grown by a square of so many pixels to each side."""
    wide = masks.to(torch.float32)
    for kernel, padding in (((2 * pixels + 1, 1), (pixels, 0)), ((1, 2 * pixels + 1), (0, pixels))):
        wide = torch.nn.functional.max_pool2d(wide, kernel, 1, padding)
    return wide > 0.0
