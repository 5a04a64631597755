"""An anatomy that the package does not know, painted as a user would paint one: a ball of fluid."""

from __future__ import annotations

from torch import Tensor

from pass_recon.phantom.draws import Streams
from pass_recon.phantom.shapes import SliceGrid, inside, patient_frame
from pass_recon.phantom.tissues import Canvas, tissue_signals

FIELD_OF_VIEW_MM = (120.0, 120.0)
LEVELS_MM = (-10.0, 10.0)
SLICE_MM = 5.0


def paint(streams: Streams, grid: SliceGrid, contrast: str, enlarged: Tensor) -> Canvas:
    """Paint the balls of a batch of slices."""
    canvas = Canvas(tissue_signals(streams("tissues"), contrast), grid)
    frame = patient_frame(streams("anatomy"), grid, stretch=0.03, tilt=0.0, shift_mm=1.0)
    depth = 40.0 - (frame.readout**2 + frame.phase**2 + frame.level**2).sqrt()
    canvas.paint("white", inside(depth, 1.0))
    canvas.landmarks = {"white": depth}
    return canvas


def place_of(row: float, column: float) -> str:
    """Where a place is."""
    return "above the middle" if row < 0.5 else "below the middle"
