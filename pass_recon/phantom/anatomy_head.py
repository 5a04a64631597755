"""An axial head: scalp, skull and what is inside, for any patient and level."""

from __future__ import annotations

import torch
from torch import Tensor

from pass_recon.phantom.brain import paint_cerebrum
from pass_recon.phantom.draws import Draws, Streams
from pass_recon.phantom.shapes import Frame, SliceGrid, WaveField, inside, patient_frame, soft_minimum
from pass_recon.phantom.skull_base import anterior_floor, face_distance, paint_face, paint_posterior_fossa
from pass_recon.phantom.tissues import Canvas, tissue_signals

FIELD_OF_VIEW_MM = (222.0, 186.0)
LEVELS_MM = (-30.0, 62.0)
SLICE_MM = 5.0
_BASE_MM = 15.0


def paint(streams: Streams, grid: SliceGrid, contrast: str, enlarged: Tensor) -> Canvas:
    """Paint the heads of a batch of slices.

    Parameters
    ----------
    streams
        The patients' random numbers.
    grid
        The slices; level 0 is at the basal ganglia, readout runs backwards, phase to the patient's left.
    contrast
        ``"t1"`` or ``"flair"``.
    enlarged
        ``(patients,)`` mm by which disease widens the ventricles.
    """
    canvas, draws = Canvas(tissue_signals(streams("tissues"), contrast), grid), streams("anatomy")
    frame = patient_frame(draws, grid, stretch=0.03, tilt=0.06, shift_mm=2.0)
    outer = frame.bent(draws, grid, 1.2, 90.0)
    inner = frame.bent(draws, grid, 1.6, 32.0)
    depth, leaning = _brain_depth(outer)
    floor = anterior_floor(inner)
    cerebral = soft_minimum(depth, floor, 4.0)
    _paint_shell(canvas, outer, draws, depth, leaning)
    # Cheap where it is not needed: nothing of the skull base reaches above this level.
    low = bool((grid.level < _BASE_MM).any())
    if low:
        paint_face(canvas, inner, streams("face"), floor, canvas.landmarks["skin"])
    paint_cerebrum(canvas, inner, streams("cerebrum"), cerebral, enlarged)
    if low:
        covered = paint_posterior_fossa(canvas, inner, streams("posterior fossa"), depth)
        for name in ("white", "pia"):
            canvas.landmarks[name] = torch.minimum(canvas.landmarks[name], -covered)
    return canvas


def place_of(row: float, column: float) -> str:
    """Where a place is, told in a sentence; ``row`` and ``column`` as shares of the image."""
    # Radiological view: the patient's right is on the image's left.
    side = "in the midline" if abs(column - 0.5) < 0.04 else "on the right" if column < 0.5 else "on the left"
    return f"{side}, {'anterior' if row < 0.42 else 'posterior' if row > 0.58 else 'central'}"


def _brain_depth(frame: Frame) -> tuple[Tensor, Tensor]:
    """Signed distance below the surface of the brain, and how much that surface leans out of the slice."""
    width = 66.0 * (1.0 + 0.04 * torch.tanh(frame.readout / 40.0))
    radii = (torch.tensor(85.0), width, torch.where(frame.level > 0.0, 79.0, 88.0))
    axes = (frame.readout, frame.phase, frame.level)
    # Exponent 2.3: heads are a little squarer than ellipsoids.
    fractions = [(axis / radius).abs() + 1e-6 for axis, radius in zip(axes, radii, strict=True)]
    steep = [fraction**1.3 for fraction in fractions]
    total = sum((s * f for s, f in zip(steep, fractions, strict=True)), torch.tensor(0.0))
    level = total ** (1.0 / 2.3)
    slopes = [s / radius for s, radius in zip(steep, radii, strict=True)]
    gradient = torch.sqrt(slopes[0] ** 2 + slopes[1] ** 2 + slopes[2] ** 2)
    return (1.0 - level) * level**1.3 / gradient, slopes[2] / gradient


def _paint_shell(canvas: Canvas, frame: Frame, draws: Draws, depth: Tensor, leaning: Tensor) -> None:
    """Skin, scalp fat, temporal muscle and the skull with its marrow, from the outside in."""
    grid = canvas.grid
    soft = torch.sqrt((1.2 * grid.pixel_mm) ** 2 + (0.6 * grid.slice_mm * leaning) ** 2)
    bone = grid.spread(draws.uniform(4.5, 7.5)) + 0.5 * WaveField(draws, 40.0, 90.0).on(grid)
    scalp = grid.spread(draws.uniform(4.0, 8.0)) + 0.6 * WaveField(draws, 60.0, 140.0).on(grid)
    temple = 6.0 * torch.exp(-(((frame.readout + 22.0) / 24.0) ** 2) - ((frame.level + 12.0) / 26.0) ** 2)
    temple = temple * inside(frame.side - 40.0, 10.0)
    skull, outer = depth + 1.5 + bone, depth + 1.5 + bone + temple
    skin = torch.maximum(outer + scalp, face_distance(frame))
    canvas.landmarks |= {"skin": skin, "hull": depth}
    canvas.paint("skin", inside(skin, soft))
    canvas.paint("fat", inside(skin - 1.6, soft))
    vessels = WaveField(draws, 7.0, 13.0, waves=48).on(grid) - 2.1
    canvas.paint("blood", inside(vessels, 0.5) * inside(torch.minimum(skin - 2.5, 1.0 - outer), 1.5), 1.3)
    canvas.paint("muscle", inside(outer, soft) * inside(temple - 0.8, 1.0))
    canvas.paint("bone", inside(skull, soft))
    canvas.paint("marrow", 0.8 * inside(torch.minimum(skull - 1.8, 0.75 * bone - skull - 0.2 * bone + 0.4), soft))
