"""Receiver arrays: loops around the body, their complex sensitivities by Biot–Savart."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pass_recon.phantom.draws import Draws
from pass_recon.phantom.shapes import SliceGrid
from pass_recon.types import InputError

_SEGMENTS = 16
# Sensitivities are smooth: they are computed on this many points an axis and interpolated to the pixels.
_COARSE = 40


def loop_array(draws: Draws, coils: int, radii_mm: tuple[float, float], height_mm: float) -> Tensor:
    """Wire of an irregular array of loops around the body.

    Returns
    -------
    Tensor
        ``(patients, coils, segments, 3)`` corner points of each loop in mm, (readout, phase, level) order.

    Raises
    ------
    InputError
        If the number of coils is not between 1 and 32.
    """
    if not 1 <= coils <= 32:
        raise InputError(f"the simulated array has 1 to 32 coils, {coils} were asked for")
    rings = 1 if coils <= 8 else 2 if coils <= 20 else 3
    index = torch.arange(coils, device=draws.device)
    ring, place = index % rings, index // rings
    per_ring = torch.bincount(ring, minlength=rings)[ring]
    angle = 2.0 * math.pi * (place + ring / rings) / per_ring + draws.uniform(0.0, 2.0 * math.pi, 1)
    angle = angle + draws.normal(0.0, 0.25, coils) * (2.0 * math.pi / per_ring).clamp(max=1.0)
    level = height_mm * (ring - (rings - 1) / 2) + draws.normal(0.0, 0.12 * height_mm, coils)
    gap = draws.uniform(1.0, 1.25, coils)
    centre = torch.stack((radii_mm[0] * gap * torch.sin(angle), radii_mm[1] * gap * torch.cos(angle), level), dim=-1)
    size = draws.uniform(0.75, 1.3, coils) * (math.pi * sum(radii_mm) / 2 / per_ring.clamp(min=4))
    # The loop's normal looks inwards, tilted a little; two tangents span the loop.
    tilt = draws.normal(0.0, 0.2, coils, 3)
    normal = torch.nn.functional.normalize(
        torch.stack((-torch.sin(angle), -torch.cos(angle), torch.zeros_like(angle)), -1) + tilt, dim=-1
    )
    upward = torch.tensor([0.0, 0.0, 1.0], device=draws.device).expand_as(normal)
    first = torch.nn.functional.normalize(torch.linalg.cross(normal, upward), dim=-1)
    second = torch.linalg.cross(normal, first)
    turn = 2.0 * math.pi * torch.arange(_SEGMENTS, device=draws.device) / _SEGMENTS
    stretch = draws.uniform(0.8, 1.3, coils)[..., None, None]
    radius = size[..., None, None]
    ring_points = radius * (
        stretch * torch.cos(turn)[:, None] * first[..., None, :]
        + torch.sin(turn)[:, None] / stretch * second[..., None, :]
    )
    return centre[..., None, :] + ring_points


def loop_sensitivities(wires: Tensor, grid: SliceGrid, cables: Tensor) -> Tensor:
    """Receive fields B₁⁻ = B_x − i B_y of the loops by Biot–Savart, the main field along the slice axis of a head.

    Parameters
    ----------
    wires
        ``(patients, coils, segments, 3)`` corner points in mm.
    grid
        The slices.
    cables
        ``(patients, coils)`` complex factor of each coil.

    Returns
    -------
    Tensor
        ``(batch, coils, ro, pe)`` complex64, not normalised.
    """
    wires = wires[grid.patient]
    following = torch.roll(wires, -1, dims=-2)
    middle, current = 0.5 * (wires + following), following - wires
    coarse = [
        torch.linspace(float(axis[0]), float(axis[-1]), _COARSE, device=grid.device)
        for axis in (grid.readout, grid.phase)
    ]
    batch, coils = wires.shape[:2]
    readout, phase = coarse[0][:, None], coarse[1][None, :]
    x_field = torch.zeros(batch, coils, _COARSE, _COARSE, device=grid.device)
    y_field = torch.zeros_like(x_field)
    for segment in range(wires.shape[-2]):
        at, along = (part[:, :, segment, :, None, None] for part in (middle, current))
        d_readout, d_phase = readout - at[:, :, 0], phase - at[:, :, 1]
        d_level = grid.level[:, None, None, None] - at[:, :, 2]
        # 25 mm²: the wire is a strip of some width, so the field stays finite on it.
        cubed = (d_readout**2 + d_phase**2 + d_level**2 + 25.0) ** -1.5
        y_field += (along[:, :, 1] * d_level - along[:, :, 2] * d_phase) * cubed
        x_field += (along[:, :, 2] * d_readout - along[:, :, 0] * d_level) * cubed
    rows, columns = (_interpolation(size, grid.device) for size in grid.shape[1:])
    fields = torch.complex(x_field, -y_field) * cables[grid.patient][..., None, None]
    parts = torch.view_as_real(fields).movedim(-1, -3)
    return torch.view_as_complex((rows @ parts @ columns.mT).movedim(-3, -1).contiguous())


def _interpolation(size: int, device: torch.device) -> Tensor:
    """``(size, coarse)`` matrix of cubic interpolation: as a product it is many times quicker than by pixel."""
    identity = torch.eye(_COARSE, device=device)[None, None]
    return torch.nn.functional.interpolate(identity, (size, _COARSE), mode="bicubic", align_corners=True)[0, 0]


def normalise_maps(sensitivities: Tensor) -> tuple[Tensor, Tensor]:
    """Maps with Σ|S|² = 1 in every pixel, and the root sum of squares that was divided out.

    Parameters
    ----------
    sensitivities
        ``(..., coils, ro, pe)`` complex.

    Returns
    -------
    tuple of Tensor
        ``(..., coils, ro, pe)`` maps, ``(..., ro, pe)`` intensity.
    """
    parts = torch.view_as_real(sensitivities)
    intensity = parts.square().sum((-4, -1)).sqrt()
    scaled = parts * (1.0 / intensity.clamp(min=1e-12))[..., None, :, :, None]
    return torch.view_as_complex(scaled), intensity


def simulate_coils(draws: Draws, coils: int, grid: SliceGrid, radii_mm: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Maps ``(batch, coils, ro, pe)`` with Σ|S|² = 1 everywhere, and the array's intensity ``(batch, ro, pe)``."""
    wires = loop_array(draws, coils, radii_mm, height_mm=70.0)
    # Cables of different lengths: each coil has its own constant phase.
    cables = torch.polar(
        torch.ones(draws.patients, coils, device=draws.device), draws.uniform(0.0, 2.0 * math.pi, coils)
    )
    return normalise_maps(loop_sensitivities(wires, grid, cables))
