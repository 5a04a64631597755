"""A coronal knee: bones with their marrow, cartilage, menisci, ligaments, muscle and fat, for any patient and level."""

from __future__ import annotations

import torch
from torch import Tensor

from pass_recon.phantom.draws import Draws, Streams
from pass_recon.phantom.shapes import (
    Frame,
    SliceGrid,
    WaveField,
    inside,
    patient_frame,
    soft_maximum,
    tube_distance,
    turned_ellipsoid,
)
from pass_recon.phantom.tissues import Canvas, tissue_signals

FIELD_OF_VIEW_MM = (162.0, 160.0)
LEVELS_MM = (-15.0, 13.0)
SLICE_MM = 3.3


def paint(streams: Streams, grid: SliceGrid, contrast: str, enlarged: Tensor) -> Canvas:
    """Paint the knees of a batch of slices.

    Parameters
    ----------
    streams
        The patients' random numbers.
    grid
        The slices; the joint is at readout 0, the femur before it, level 0 is the middle of the condyles and higher
        levels are further to the front.
    contrast
        ``"pd"``.
    enlarged
        Not used: knees have no ventricles.
    """
    canvas, draws = Canvas(tissue_signals(streams("tissues"), contrast), grid), streams("anatomy")
    frame = patient_frame(draws, grid, stretch=0.04, tilt=0.05, shift_mm=2.5)
    # Left and right knees; the medial side is at negative phase.
    frame = Frame(frame.readout, frame.phase * grid.spread(draws.sign()), frame.level)
    outer, frame = frame.bent(draws, grid, 2.0, 60.0), frame.bent(draws, grid, 0.9, 26.0)
    _paint_soft_tissue(canvas, outer, draws)
    femur, tibia = _femur_distance(frame), _tibia_distance(frame)
    fibula = tube_distance(
        frame.axes, ((17.0, 33.0, -16.0), (30.0, 33.0, -16.0), (110.0, 31.0, -12.0)), (8.5, 7.0, 6.0)
    )
    _paint_joint(canvas, frame, draws, femur, tibia)
    _paint_bones(canvas, frame, draws, femur, tibia, fibula)
    _paint_ligaments(canvas, frame, draws, femur, tibia)
    # The coil is shorter than the leg: the signal fades towards the ends of the field of view.
    reach = grid.spread(draws.uniform(60.0, 70.0))
    canvas.signal = canvas.signal * (0.04 + 0.96 * inside(reach - grid.readout.abs()[:, None], 45.0))
    return canvas


def place_of(row: float, column: float) -> str:
    """Where a place is, told in a sentence; ``row`` and ``column`` as shares of the image."""
    side = "in the midline" if abs(column - 0.5) < 0.04 else f"on the image's {'left' if column < 0.5 else 'right'}"
    return f"{side}, {'above' if row < 0.46 else 'below' if row > 0.54 else 'at'} the joint line"


def _femur_distance(frame: Frame) -> Tensor:
    """Signed distance below the surface of the femur, positive inside."""
    axes = frame.axes
    shaft = tube_distance(axes, ((-130.0, 0.0, 8.0), (-62.0, 0.0, 6.0), (-34.0, 0.0, 3.0)), (13.5, 15.5, 28.0))
    medial = turned_ellipsoid(axes, (-20.0, -22.5, -5.0), (17.8, 19.0, 29.0), 8.0)
    lateral = turned_ellipsoid(axes, (-20.0, 22.5, -4.0), (17.6, 18.5, 28.0), -8.0)
    condyles = soft_maximum(medial, lateral, 3.0)
    block = turned_ellipsoid(axes, (-34.0, 0.0, 2.0), (20.0, 38.0, 22.0))
    bone = soft_maximum(soft_maximum(shaft, block, 10.0), condyles, 8.0)
    notch = turned_ellipsoid(axes, (-4.0, 0.5, -14.0), (17.0, 9.0, 26.0))
    behind = turned_ellipsoid(axes, (-20.0, 0.0, -34.0), (26.0, 12.0, 19.0))
    return -soft_maximum(-bone, soft_maximum(notch, behind, 4.0), 3.0)


def _tibia_distance(frame: Frame) -> Tensor:
    """Signed distance below the surface of the tibia, positive inside."""
    axes = frame.axes
    shaft = tube_distance(axes, ((20.0, 0.0, -2.0), (44.0, 1.0, 2.0), (130.0, 2.0, 4.0)), (27.0, 17.0, 13.0))
    block = turned_ellipsoid(axes, (16.0, 0.0, -3.0), (17.0, 40.5, 27.0))
    bowl = 1.6 * torch.exp(-(((frame.side - 21.0) / 11.0) ** 2))
    plateau = frame.readout - 2.6 - bowl + 1.2 * inside(frame.side - 33.0, 12.0)
    head = -soft_maximum(-soft_maximum(shaft, block, 9.0), -plateau, 4.0)
    spines = turned_ellipsoid(frame.mirrored, (4.0, 5.5, -3.0), (7.0, 3.6, 9.0), -20.0)
    return soft_maximum(head, spines, 3.0)


def _paint_soft_tissue(canvas: Canvas, frame: Frame, draws: Draws) -> None:
    """Skin, subcutaneous fat with its septa, and muscles above and below the joint."""
    grid = canvas.grid
    soft = 1.3 * grid.pixel_mm
    width = grid.spread(draws.uniform(53.0, 60.0)) + 0.0016 * (frame.readout + 5.0).clamp(-75.0, 75.0) ** 2
    width = width - 0.03 * frame.readout.clamp(-75.0, 75.0)
    ring = torch.sqrt(frame.phase**2 + (1.05 * frame.level) ** 2)
    skin = width - ring + 1.2 * WaveField(draws, 50.0, 120.0).on(grid)
    fat = grid.spread(draws.uniform(4.5, 11.0)) + 1.5 * WaveField(draws, 35.0, 90.0).on(grid)
    canvas.landmarks["skin"] = skin
    canvas.paint("skin", inside(skin, soft))
    septa = WaveField(draws, 10.0, 18.0, waves=48).on(grid)
    canvas.paint("fat", inside(skin - 1.5, soft), 1.0 + 0.05 * septa)
    canvas.paint("ligament", 0.45 * inside(0.35 - 5.0 * septa.abs(), 0.8) * inside(skin - 3.0, 2.0))
    # Muscle keeps away from the joint line, where there is fat, capsule and tendon.
    away = frame.readout.abs() - 24.0 - 0.22 * (46.0 - frame.side).clamp(min=0.0)
    flesh = torch.minimum(skin - fat - 2.0, away + 3.0 * septa)
    bellies = WaveField(draws, 24.0, 44.0, elongation=2.5).on(grid)
    grain = WaveField(draws, 2.5, 7.0, waves=64, elongation=6.0).on(grid)
    canvas.paint("ligament", 0.7 * inside(flesh + 1.0, soft) * inside(1.6 - flesh, soft))
    canvas.paint("muscle", inside(flesh, soft), 1.0 + 0.07 * grain)
    canvas.paint("fat", 0.75 * inside(0.8 - 9.0 * bellies.abs(), 1.5) * inside(flesh, soft))
    canvas.paint("fat", 0.22 * inside(flesh, soft) * inside(grain - 1.2, 0.8))
    capsule = torch.minimum(45.0 - frame.side, 22.0 - frame.readout.abs())
    synovium = WaveField(draws, 6.0, 14.0, waves=48).on(grid)
    canvas.paint("muscle", (0.45 + 0.2 * synovium).clamp(0.0, 1.0) * inside(capsule, 5.0), 1.15)


def _paint_joint(canvas: Canvas, frame: Frame, draws: Draws, femur: Tensor, tibia: Tensor) -> None:
    """Fluid film, cartilage on both bones, and the C-shaped menisci between them."""
    grid = canvas.grid
    soft = 1.2 * grid.pixel_mm
    line = torch.minimum(7.0 - (frame.readout - 0.5).abs(), 42.0 - frame.side)
    canvas.paint("cartilage", 0.5 * inside(line, 2.0))
    thickness = grid.spread(draws.uniform(2.1, 3.0)) + 0.3 * WaveField(draws, 15.0, 40.0).on(grid)
    bearing = torch.minimum(frame.readout + 15.0, 39.0 - frame.side)
    femoral = torch.minimum(femur + thickness, bearing)
    tibial = torch.minimum(torch.minimum(tibia + 0.9 * thickness, 9.0 - frame.readout), 36.5 - frame.side)
    tibial = torch.minimum(tibial, frame.side - 7.0)
    gap = torch.minimum(-femur - thickness, -tibia - 0.9 * thickness)
    canvas.paint("effusion", 0.85 * inside(torch.minimum(gap + 0.6, line - 2.0), soft))
    for cover in (femoral, tibial):
        canvas.paint("cartilage", inside(cover, soft), 1.0 + 0.03 * WaveField(draws, 4.0, 10.0).on(grid))
    ring = torch.sqrt((frame.side - 19.0) ** 2 + ((frame.level + 4.0) / 1.25) ** 2)
    inner = grid.spread(draws.uniform(8.5, 11.5))
    # In cross-section a wedge, thin at its inner edge.
    wedge = 0.4 + 0.4 * (ring - inner) - (frame.readout - 0.3).abs()
    meniscus = torch.minimum(torch.minimum(wedge, 20.5 - ring), torch.minimum(frame.side - 8.0, gap + 0.4))
    canvas.paint("meniscus", inside(meniscus, soft))
    cartilage = torch.maximum(torch.minimum(femoral, -femur), torch.minimum(tibial, -tibia))
    canvas.landmarks |= {"meniscus": meniscus, "cartilage": cartilage, "line": 8.0 - frame.readout.abs()}


def _paint_bones(canvas: Canvas, frame: Frame, draws: Draws, femur: Tensor, tibia: Tensor, fibula: Tensor) -> None:
    """Cortex, marrow with trabeculae, subchondral plate and the scar of the growth plate."""
    grid = canvas.grid
    soft = 1.2 * grid.pixel_mm
    bone = torch.maximum(torch.maximum(femur, tibia), fibula)
    # The cortex is thick along the shafts and thin at the joint.
    cortex = 0.8 + 0.03 * (frame.readout.abs() - 20.0).clamp(0.0, 60.0)
    trabeculae = WaveField(draws, 1.6, 4.5, waves=128).on(grid)
    patches = WaveField(draws, 14.0, 45.0).on(grid)
    canvas.paint("bone", inside(bone, soft))
    marrow = inside(bone - cortex, soft)
    canvas.paint("marrow", marrow, 1.0 + 0.055 * trabeculae + 0.04 * patches)
    red = inside(patches - 0.9, 1.5) * inside(frame.readout.abs() - 32.0, 12.0)
    canvas.paint("muscle", 0.3 * marrow * red)
    bend = 1.3 * WaveField(draws, 20.0, 45.0).on(grid)
    scars = torch.minimum((frame.readout + 27.0 + bend).abs(), (frame.readout - 20.0 + bend).abs())
    canvas.paint("bone", 0.45 * marrow * inside(0.5 - scars, 1.2))
    recess = torch.minimum(torch.minimum(-bone - 0.5, 50.0 - frame.side), 17.0 - (frame.readout + 19.0).abs())
    canvas.landmarks |= {"bone": bone - cortex, "recess": torch.minimum(recess, frame.side - 12.0)}


def _paint_ligaments(canvas: Canvas, frame: Frame, draws: Draws, femur: Tensor, tibia: Tensor) -> None:
    """Cruciates in the notch, collaterals at the sides, iliotibial band."""
    grid = canvas.grid
    soft = 1.2 * grid.pixel_mm
    axes = frame.axes
    outside = -torch.maximum(femur, tibia)
    fibres = WaveField(draws, 2.5, 6.0, waves=48).on(grid)
    anterior = tube_distance(axes, ((-17.0, 7.5, -12.0), (-7.0, 3.0, -4.0), (2.0, -2.0, 6.0)), (3.6, 3.2, 4.2))
    posterior = tube_distance(axes, ((-14.0, -6.5, 2.0), (-11.0, -3.5, -12.0), (4.0, 0.0, -24.0)), (4.6, 4.4, 4.0))
    canvas.paint("ligament", 0.75 * inside(torch.minimum(anterior, outside), 1.5 * soft), 1.5 + 0.5 * fibres)
    canvas.paint("ligament", inside(torch.minimum(posterior, outside), soft), 1.1)
    # Bands: a tube in a frame squeezed from front to back.
    flat = (frame.readout, frame.phase, 0.16 * frame.level)
    course = ((-28.0, -40.5, 0.0), (-12.0, -43.5, 0.0), (6.0, -43.5, 0.0), (22.0, -39.5, 0.0), (54.0, -27.0, 0.0))
    medial = tube_distance(flat, course, (1.4, 1.5, 1.4, 1.2, 0.7))
    capsule = tube_distance(flat, ((-22.0, 41.5, -1.2), (-6.0, 44.0, -1.2), (8.0, 42.5, -1.2)), (0.9, 0.8, 0.9))
    lateral = tube_distance(axes, ((-24.0, 41.0, -7.0), (0.0, 44.5, -11.0), (18.0, 40.0, -16.0)), (1.5, 1.7, 1.9))
    strip = ((-95.0, 50.0, 0.6), (-30.0, 47.5, 1.0), (9.0, 40.5, 1.6))
    band = tube_distance(flat, strip, (0.8, 1.2, 1.5))
    for cord in (medial, capsule, lateral, band):
        canvas.paint("ligament", inside(torch.minimum(cord, outside + 0.6), soft))
