"""What lies below the cerebrum: eyes and orbits, nose and sinuses, petrous bone, brainstem and cerebellum."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pass_recon.phantom.draws import Draws
from pass_recon.phantom.shapes import (
    Frame,
    WaveField,
    ellipsoid_distance,
    inside,
    tube_distance,
    turned_ellipsoid,
)
from pass_recon.phantom.tissues import Canvas


def anterior_floor(frame: Frame) -> Tensor:
    """Signed distance above the floor of the front part of the skull, positive where there is brain.

    The frontal lobes rest on the roof of the orbits; behind it the temporal lobes reach further down.
    """
    above = frame.level + 15.0 - 0.12 * frame.side
    # In the midline, between the temporal poles, is the body of the sphenoid with its sinus.
    behind = frame.readout + 30.0 + 0.010 * (frame.side - 34.0) ** 2 - 28.0 * torch.exp(-((frame.side / 15.0) ** 2))
    return torch.maximum(0.8 * above, 0.9 * behind)


def face_distance(frame: Frame) -> Tensor:
    """Signed distance to the skin of the face, positive inside."""
    face = ellipsoid_distance((frame.readout + 44.0, frame.phase, frame.level + 44.0), (49.0, 62.0, 40.0))
    nose = ellipsoid_distance((frame.readout + 84.0, frame.phase, frame.level + 38.0), (16.0, 11.0, 18.0))
    return torch.maximum(face, nose)


def paint_face(canvas: Canvas, frame: Frame, draws: Draws, floor: Tensor, skin: Tensor) -> None:
    """Orbits with eyes, nerves and muscles, nasal cavity and sinuses, in front of and below the brain."""
    grid = canvas.grid
    soft = 1.3 * grid.pixel_mm
    below = inside(-floor - 3.0, 2.0) * inside(skin - 5.0, 3.0)
    mottle = WaveField(draws, 9.0, 22.0).on(grid)
    canvas.paint("muscle", below * inside(mottle + 0.6, 1.2))
    canvas.paint("fat", below * inside(-mottle - 0.6, 1.2))
    orbit = turned_ellipsoid(frame.mirrored, (-60.0, 30.0, -31.0), (31.0, 18.0, 17.0), -24.0)
    canvas.paint("bone", inside(orbit + 2.0, soft) * below)
    canvas.paint("fat", inside(orbit, soft))
    for course in (((-72.0, 19.0, -31.0), (-36.0, 15.0, -30.0)), ((-72.0, 43.0, -31.0), (-38.0, 19.0, -30.0))):
        canvas.paint("muscle", inside(tube_distance(frame.mirrored, course, (2.0, 1.6)), soft))
    canvas.paint(
        "white", inside(tube_distance(frame.mirrored, ((-64.0, 30.0, -31.0), (-34.0, 14.0, -28.0)), (2.0, 2.0)), soft)
    )
    eye = ellipsoid_distance((frame.readout + 73.0, frame.side - 31.0, frame.level + 31.0), (12.2, 12.2, 12.2))
    canvas.paint("ligament", inside(eye + 0.8, soft))
    canvas.paint("fluid", inside(eye - 0.6, soft))
    lens = ellipsoid_distance((frame.readout + 81.5, frame.side - 31.0, frame.level + 31.0), (2.2, 4.6, 4.6))
    canvas.paint("muscle", inside(lens, soft), 0.8)
    _paint_sinuses(canvas, frame, draws, below, soft)


def _paint_sinuses(canvas: Canvas, frame: Frame, draws: Draws, below: Tensor, soft: float) -> None:
    grid = canvas.grid
    cells = WaveField(draws, 9.0, 16.0).on(grid)
    nasal = ellipsoid_distance((frame.readout + 58.0, frame.phase, frame.level + 40.0), (30.0, 12.0, 26.0))
    canvas.paint("mucosa", 0.8 * inside(nasal, soft) * below)
    canvas.paint("air", inside(torch.minimum(nasal - 1.5, 4.0 * (cells.abs() - 0.22)), soft) * below)
    sphenoid = ellipsoid_distance((frame.readout + 24.0, frame.phase, frame.level + 33.0), (13.0, 13.0, 12.0))
    canvas.paint("bone", inside(sphenoid + 2.0, soft))
    canvas.paint("air", inside(torch.minimum(sphenoid, frame.side - 0.8), soft))


def paint_posterior_fossa(canvas: Canvas, frame: Frame, draws: Draws, depth: Tensor) -> Tensor:
    """Petrous bone, brainstem with its cisterns, cerebellum with its folia; returns where the cerebrum is covered."""
    grid = canvas.grid
    soft = 1.3 * grid.pixel_mm
    petrous = tube_distance(
        frame.mirrored, ((-8.0, 20.0, -40.0), (8.0, 36.0, -40.0), (22.0, 62.0, -38.0)), (7.0, 9.0, 12.0)
    )
    cerebellum = _cerebellum_distance(frame, depth)
    stem = ellipsoid_distance((frame.readout - 12.0, frame.phase, frame.level + 34.0), (13.5, 15.5, 31.0))
    ripple = 2.0 * WaveField(draws, 12.0, 30.0).on(grid)
    around = ellipsoid_distance((frame.readout - 10.5, frame.phase, frame.level + 28.0), (16.0, 17.5, 23.0))
    suprasellar = ellipsoid_distance((frame.readout + 12.0, frame.phase, frame.level + 20.0), (9.0, 14.0, 9.0))
    cistern = torch.maximum(around, suprasellar) + ripple
    gap = grid.spread(draws.uniform(1.0, 2.5))
    canvas.paint("fluid", inside(torch.maximum(cerebellum + gap, cistern), 2.0 * soft))
    canvas.paint("bone", inside(petrous, soft))
    canvas.paint("muscle", 0.35 * inside(petrous - 3.0, soft) * inside(WaveField(draws, 7.0, 14.0).on(grid), 0.8))
    canvas.paint("cerebellum", inside(cerebellum, soft))
    _paint_folia(canvas, frame, draws, cerebellum)
    stem_white = inside(stem, soft)
    canvas.paint("white", stem_white, 1.0 + 0.04 * WaveField(draws, 8.0, 20.0).on(grid))
    peduncle = tube_distance(frame.mirrored, ((14.0, 10.0, -36.0), (32.0, 22.0, -38.0)), (7.0, 6.0))
    canvas.paint("white", 0.9 * inside(peduncle, 3.0 * soft))
    fourth = ellipsoid_distance((frame.readout - 27.0, frame.phase, frame.level + 36.0), (4.5, 6.5, 13.0))
    canvas.paint("fluid", inside(fourth, soft))
    return torch.maximum(torch.maximum(cerebellum + gap, cistern), torch.maximum(petrous, stem))


def _cerebellum_distance(frame: Frame, depth: Tensor) -> Tensor:
    lobes = ellipsoid_distance((frame.readout - 47.0, frame.side - 20.0, frame.level + 41.0), (29.0, 34.0, 26.0))
    vermis = ellipsoid_distance((frame.readout - 42.0, frame.phase, frame.level + 38.0), (24.0, 13.0, 26.0))
    return torch.minimum(torch.maximum(lobes, vermis), depth - 2.0)


def _paint_folia(canvas: Canvas, frame: Frame, draws: Draws, cerebellum: Tensor) -> None:
    """Folia run along the surface every few millimetres; the white matter inside branches."""
    grid = canvas.grid
    turns = 2.0 * math.pi * (cerebellum + 2.5 * WaveField(draws, 14.0, 40.0).on(grid)) / 3.8
    leaf = inside(cerebellum - 0.5, 1.0) * inside(14.0 - cerebellum, 6.0)
    strength = 0.5 + 0.5 * torch.sin(turns)
    canvas.paint("fluid", 0.28 * leaf * strength**3)
    canvas.paint("white", 0.35 * leaf * (1.0 - strength) ** 2)
    core = cerebellum - 11.0 + 3.0 * WaveField(draws, 12.0, 30.0).on(grid)
    canvas.paint("white", 0.85 * inside(core, 3.0))
