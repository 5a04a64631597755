"""Images of simulated patients with their lesions, in batches, before any coil: what training draws by the thousand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from pass_recon.anatomies import ANATOMIES, CONTRASTS, anatomy_named
from pass_recon.phantom.acquisition import shading, smooth_phase, texture
from pass_recon.phantom.draws import Streams, mixed_seed
from pass_recon.phantom.lesions import Findings, LesionPlan
from pass_recon.phantom.shapes import SliceGrid, slice_grid
from pass_recon.types import Box, InputError

# Larger batches are computed in parts of this many slices, so that memory stays bounded and, on a CPU, caches are used.
_SLICES_AT_ONCE = {"cpu": 4, "cuda": 64}


@dataclass(frozen=True)
class SimulatedSlices:
    """Slices of as many different patients, without coils and noise.

    Attributes
    ----------
    image
        ``(count, ro, pe)`` complex64, each of peak 1.
    lesion_masks
        ``(count, ro, pe)`` bool.
    boxes
        One tuple a slice, each box labelled in fastMRI+'s words.
    captions
        One sentence a slice.
    level_mm
        ``(count,)`` position along the slice axis.
    pixel_mm
        Size of a pixel along readout and phase encoding.
    """

    image: Tensor
    lesion_masks: Tensor
    boxes: tuple[tuple[Box, ...], ...]
    captions: tuple[str, ...]
    level_mm: Tensor
    pixel_mm: tuple[float, float]

    @property
    def labels(self) -> tuple[tuple[str, ...], ...]:
        """The labels of each slice's boxes."""
        return tuple(tuple(box.label for box in boxes) for boxes in self.boxes)


@dataclass(frozen=True)
class Scene:
    """The painted slices of a batch of patients, each patient's peak at 1."""

    image: Tensor
    findings: Findings
    captions: tuple[str, ...]
    grid: SliceGrid


def check_contrast(anatomy: str, contrast: str) -> None:
    """Raise InputError unless this anatomy can be simulated in this contrast."""
    offered = anatomy_named(anatomy).contrasts
    if contrast not in offered:
        raise InputError(f"no simulated {anatomy!r} in {contrast!r} contrast: it has {' and '.join(offered)}")


def _painter(anatomy: str) -> Any:
    """The module that paints an anatomy."""
    return import_module(ANATOMIES[anatomy].phantom)


def paint_scene(
    streams: Streams,
    anatomy: str,
    contrast: str,
    counts: Sequence[int],
    slices: int,
    shape: tuple[int, int],
    labels: Sequence[str] | None = None,
) -> Scene:
    """Paint ``slices`` neighbouring slices of each patient.

    Parameters
    ----------
    streams
        The patients' random numbers.
    anatomy, contrast
        As in :func:`simulate_slices`.
    counts
        Number of lesions of each patient.
    slices, shape
        Per patient, and of each.
    labels
        Kinds of lesions to choose from; None for all.
    """
    grid = _patient_grid(streams, anatomy, slices, shape)
    plan = LesionPlan(streams("lesions"), anatomy, counts, grid, labels)
    canvas = _painter(anatomy).paint(streams, grid, contrast, plan.enlarged_ventricles)
    receiver = streams("shading")
    factor = shading(receiver, grid) * texture(streams("texture"), grid)
    # The scale comes from the anatomy: the same patient without lesions has the same.
    peak = (canvas.signal * factor).reshape(len(counts), -1).amax(1).repeat_interleave(slices)[:, None, None]
    findings = plan.paint(canvas)
    magnitude = torch.minimum(canvas.signal * factor / peak, torch.ones_like(peak))
    # The far tails of soft edges are nothing, slow to compute with, and rounded differently by vector and scalar code.
    magnitude = torch.where(magnitude > 1e-6, magnitude, 0.0)
    image = torch.polar(magnitude, smooth_phase(streams("phase"), grid))
    return Scene(image, findings, captions_of(findings, anatomy, contrast, shape), grid)


def _patient_grid(streams: Streams, anatomy: str, slices: int, shape: tuple[int, int]) -> SliceGrid:
    module = _painter(anatomy)
    low, high = module.LEVELS_MM
    half = min(0.5 * (slices - 1) * module.SLICE_MM, 0.5 * (high - low))
    middle = streams("levels").uniform(0.0, 1.0, 1) * (high - low - 2.0 * half) + low + half
    steps = (torch.arange(slices, device=streams.device) - 0.5 * (slices - 1)) * module.SLICE_MM
    patient = torch.arange(len(streams.seeds), device=streams.device).repeat_interleave(slices)
    level = (middle + steps).flatten()
    return slice_grid(shape, level, patient, field_of_view_mm=module.FIELD_OF_VIEW_MM, slice_mm=module.SLICE_MM)


def captions_of(findings: Findings, anatomy: str, contrast: str, shape: tuple[int, int]) -> tuple[str, ...]:
    """One sentence a slice of ``shape`` pixels: contrast, view, and what was found where."""
    place_of, view = _painter(anatomy).place_of, ANATOMIES[anatomy].view
    captions = []
    for phrases in findings.phrases:
        told = " and ".join(f"{phrase} {_place(box, shape, place_of)}" for phrase, box in phrases)
        captions.append(f"{CONTRASTS[contrast].title} MRI, {view}, with {told or 'no lesion'}.")
    return tuple(captions)


def _place(box: Box, shape: tuple[int, int], place_of: Callable[[float, float], str]) -> str:
    """Where the middle of a box is, as a share of readout and phase encoding, in the anatomy's own words."""
    return place_of((box.readout + 0.5 * box.readout_size) / shape[0], (box.phase + 0.5 * box.phase_size) / shape[1])


def simulate_slices(
    anatomy: str,
    contrast: str,
    count: int,
    shape: tuple[int, int] = (320, 320),
    *,
    seed: int = 0,
    lesions: int = 1,
    healthy: float = 0.0,
    labels: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
) -> SimulatedSlices:
    """Slices of ``count`` different patients, for training.

    Slice i depends on ``seed`` and i alone, not on ``count``.

    Parameters
    ----------
    anatomy, contrast
        ``"brain"`` in ``"t1"`` or ``"flair"``, ``"knee"`` in ``"pd"``.
    count
        How many.
    shape
        ``(ro, pe)`` pixels.
    seed
        Names the group of patients.
    lesions
        Lesions a sick patient has.
    healthy
        Fraction of the patients without any.
    labels
        Kinds of lesions to choose from, in fastMRI+'s words; None for all of the anatomy.
    device
        Where to compute, and where the result lives.

    Raises
    ------
    InputError
        If a setting is outside its range.
    """
    check_contrast(anatomy, contrast)
    if count < 1 or lesions < 0 or not 0.0 <= healthy <= 1.0 or min(shape) < 16:
        raise InputError(
            f"need count ≥ 1, lesions ≥ 0, healthy in 0 to 1 and at least 16 × 16 pixels, "
            f"got {count}, {lesions}, {healthy}, {shape}"
        )
    seeds = [mixed_seed(seed, index) for index in range(count)]
    counts = [0 if mixed_seed(each, "healthy") < healthy * 2**63 else lesions for each in seeds]
    step = _SLICES_AT_ONCE.get(torch.device(device).type, 16)
    scenes = []
    for first in range(0, count, step):
        streams = Streams(seeds[first : first + step], device)
        scenes.append(paint_scene(streams, anatomy, contrast, counts[first : first + step], 1, shape, labels))
    pixel = scenes[0].grid.pixel_mm
    return SimulatedSlices(
        image=torch.cat([scene.image for scene in scenes]),
        lesion_masks=torch.cat([scene.findings.masks for scene in scenes]),
        boxes=tuple(tuple(boxes) for scene in scenes for boxes in scene.findings.boxes),
        captions=tuple(caption for scene in scenes for caption in scene.captions),
        level_mm=torch.cat([scene.grid.level for scene in scenes]),
        pixel_mm=(pixel, pixel),
    )
