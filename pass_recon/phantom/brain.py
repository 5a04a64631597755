"""The brain inside its hull: folded cortex, fissures, ventricles, deep nuclei, callosum, brainstem and cerebellum."""

from __future__ import annotations

import torch
from torch import Tensor

from pass_recon.phantom.draws import Draws
from pass_recon.phantom.shapes import (
    Frame,
    SliceGrid,
    WaveField,
    ellipsoid_distance,
    inside,
    soft_minimum,
    tube_distance,
    turned_ellipsoid,
)
from pass_recon.phantom.tissues import Canvas

# Lateral ventricle from the frontal horn over the body to the occipital horn, (readout, side, level) in mm.
_BODY = (
    (-37.0, 17.0, 4.0),
    (-26.0, 9.0, 9.0),
    (-8.0, 6.8, 15.0),
    (12.0, 9.5, 18.0),
    (28.0, 17.0, 15.0),
    (40.0, 24.5, 6.0),
    (57.0, 24.0, 2.0),
)
_BODY_RADII = (2.8, 6.0, 6.5, 6.5, 7.0, 7.0, 2.5)
_TEMPORAL_HORN = ((36.0, 23.0, 9.0), (24.0, 30.0, -8.0), (4.0, 33.0, -18.0))


def paint_cerebrum(canvas: Canvas, frame: Frame, draws: Draws, depth: Tensor, enlarged: Tensor) -> None:
    """Cortex, white matter, ventricles and nuclei.

    Parameters
    ----------
    canvas
        Is painted on; gets the landmarks ``pia``, ``white`` and ``ventricle``.
    frame
        The patients' coordinates.
    draws
        The patients' random numbers.
    depth
        ``(batch, ro, pe)`` distance below the surface of the brain, positive inside.
    enlarged
        ``(patients,)`` mm by which disease widens the ventricles.
    """
    grid = canvas.grid
    atrophy = grid.spread(draws.uniform(0.0, 1.0))
    pia, normal_level = _pial_distance(frame, draws, grid, depth, atrophy)
    thickness = 3.3 + 0.5 * WaveField(draws, 25.0, 60.0).on(grid)
    # A surface cut obliquely by a thick slice has a wide edge.
    softness = torch.sqrt((1.1 * grid.pixel_mm) ** 2 + (0.4 * grid.slice_mm * normal_level) ** 2)
    canvas.paint("fluid", inside(depth + 1.5, 1.5 * grid.pixel_mm))
    canvas.paint("grey", inside(pia, softness))
    white = pia - thickness
    canvas.paint("white", inside(white, softness + 2.0))
    _paint_nuclei(canvas, frame, draws)
    ventricle = _ventricles(frame, draws, grid, atrophy, grid.spread(enlarged))
    canvas.paint("fluid", inside(ventricle, 1.6 * grid.pixel_mm))
    canvas.landmarks |= {"pia": pia, "white": torch.minimum(white, -ventricle - 1.0), "ventricle": ventricle}


def _pial_distance(
    frame: Frame, draws: Draws, grid: SliceGrid, depth: Tensor, atrophy: Tensor
) -> tuple[Tensor, Tensor]:
    """Distance below the nearest pial surface, and how much that surface's normal leans out of the slice."""
    fissure = _fissure_distance(frame)
    surface = torch.minimum(depth, fissure)
    sheet, leaning = _sulcal_sheets(frame, draws, grid, surface)
    reach = 16.0 + 5.0 * WaveField(draws, 25.0, 60.0).on(grid)
    # Less deep on the inner side of the hemisphere.
    reach = torch.where(fissure < depth, 0.5 * reach, reach)
    beyond = (surface - reach).clamp(min=0.0)
    # Sulci are wide open at the surface, and closed here and there: grey matter touching grey matter.
    opening = 0.55 + 0.55 * WaveField(draws, 16.0, 45.0).on(grid)
    width = (0.25 + 0.65 * atrophy) * (opening + 1.6 * torch.exp(-depth.clamp(min=0.0) / 4.0))
    sulcus = torch.sqrt(sheet**2 + beyond**2) - width
    sylvian = _sylvian_distance(frame, draws, grid) - 0.8 - 1.2 * atrophy
    pia = torch.minimum(soft_minimum(sulcus, depth - 0.8 * atrophy, 2.5), torch.minimum(fissure - 0.7, sylvian))
    return pia, torch.where(sulcus < depth, leaning, 0.3)


def _sulcal_sheets(frame: Frame, draws: Draws, grid: SliceGrid, surface: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the sheets in the middle of the sulci, and how much their normals lean out of the slice.

    Sulci are where a band-limited random function g is zero: its zero sets are sheets that meander at half its
    wavelength, as sulci do, and |g| / |∇g| is the distance to them. g is evaluated where each point would be if the
    hemisphere were nearly a shell: pushed outwards by most of its depth, so that the sheets run down from the surface.
    """
    waves = WaveField(draws, 17.0, 25.0, waves=64)
    rows, columns = (max(8, round(len(axis) * grid.pixel_mm / 2.6)) for axis in (grid.readout, grid.phase))
    coarse = torch.nn.functional.interpolate(
        torch.stack((frame.readout, frame.phase, frame.level, surface), 1),
        size=(rows, columns),
        mode="bilinear",
        align_corners=True,
    )
    readout, phase, level, below = coarse.unbind(1)
    # Outwards is away from a rod in the middle of each hemisphere.
    away = (readout - readout.clamp(-42.0, 42.0), phase - 30.0 * torch.sign(phase), level - 8.0)
    push = 0.62 * below.clamp(0.0, 30.0) / torch.sqrt(away[0] ** 2 + away[1] ** 2 + away[2] ** 2 + 25.0)
    at = [axis + push * offset for axis, offset in zip((readout, phase, level), away, strict=True)]
    sampled = torch.stack((waves.at(grid, *at), waves.at(grid, at[0], at[1], at[2] + 1.5)), 1)
    fine = torch.nn.functional.interpolate(sampled, size=grid.shape[1:], mode="bicubic", align_corners=True)
    value, above = fine.unbind(1)
    by_readout, by_phase = torch.gradient(value, spacing=grid.pixel_mm, dim=(-2, -1))
    by_level = (above - value) / 1.5
    steepness = torch.sqrt(by_readout**2 + by_phase**2 + by_level**2 + 0.08**2)
    return value.abs() / steepness, by_level.abs() / steepness


def _fissure_distance(frame: Frame) -> Tensor:
    """Distance to the interhemispheric fissure, which stops at the callosum."""
    callosum = ellipsoid_distance((frame.readout - 2.0, frame.level - 5.0), (42.0, 26.0)).clamp(min=0.0)
    return torch.sqrt(frame.phase**2 + callosum**2)


def _sylvian_distance(frame: Frame, draws: Draws, grid: SliceGrid) -> Tensor:
    """Distance to the Sylvian fissure: in from the side, then back along the insula."""
    bent = frame.bent(draws, grid, 1.8, 17.0)
    flat = Frame(bent.readout, bent.phase, torch.zeros_like(bent.level))
    course = ((-14.0, 75.0, 0.0), (-18.0, 52.0, 0.0), (-18.0, 43.0, 0.0), (-4.0, 38.5, 0.0), (12.0, 41.0, 0.0))
    above = ((frame.level - 3.0).abs() - 13.0).clamp(min=0.0)
    distance = -tube_distance(flat.mirrored, course, (0.5, 0.0, 1.3, 0.4, 0.0))
    return torch.sqrt(distance.clamp(min=0.0) ** 2 + above**2)


def _ventricles(frame: Frame, draws: Draws, grid: SliceGrid, atrophy: Tensor, enlarged: Tensor) -> Tensor:
    """Signed distance to the ventricles, positive inside."""
    swelling = 1.7 * atrophy - 1.1 + grid.spread(draws.normal(0.0, 0.4)) + enlarged
    lateral = tube_distance(frame.mirrored, _BODY, _BODY_RADII, flatten=1.5)
    horn = tube_distance(frame.mirrored, _TEMPORAL_HORN, (3.0, 2.0, 1.5))
    third = ellipsoid_distance((frame.readout - 3.0, frame.phase, frame.level + 2.0), (15.0, 2.6, 11.0))
    # The septum keeps the two sides apart.
    sides = torch.minimum(torch.maximum(lateral, horn) + swelling, frame.side - 0.9)
    return torch.maximum(sides, third + 0.4 * swelling)


def _paint_nuclei(canvas: Canvas, frame: Frame, draws: Draws) -> None:
    grid = canvas.grid
    soft = 2.2 * grid.pixel_mm
    size = grid.spread(draws.normal(1.0, 0.05))
    nuclei: tuple[tuple[str, tuple[float, float, float], tuple[float, float, float], float], ...] = (
        ("nucleus", (-21.0, 15.5, 7.0), (9.5, 5.5, 13.0), 20.0),
        ("nucleus", (0.0, 15.0, 23.0), (20.0, 3.0, 5.0), 8.0),
        ("nucleus", (-4.0, 26.0, 3.0), (15.5, 4.8, 12.0), 14.0),
        ("pallidum", (0.0, 20.0, 1.0), (8.5, 3.6, 7.5), 22.0),
        ("nucleus", (15.0, 10.5, 6.0), (13.5, 8.0, 11.0), 22.0),
    )
    for tissue, centre, radii, degrees in nuclei:
        distance = turned_ellipsoid(frame.mirrored, centre, tuple(size * radius for radius in radii), degrees)
        canvas.paint(tissue, 0.7 * inside(distance, soft))
