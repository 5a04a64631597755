"""Simulated lesions in real magnitude images, for anatomy that no simulation reaches with lesions that are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from pass_recon.phantom.draws import Streams
from pass_recon.phantom.lesions import KINDS, VENTRICLES, LesionPlan
from pass_recon.phantom.scene import captions_of, check_contrast
from pass_recon.phantom.shapes import SliceGrid
from pass_recon.phantom.tissues import Canvas, signal_of, tissue_signals
from pass_recon.types import Box, InputError

# Which lesions need no more of the anatomy than intensities show.
PAINTABLE = {
    "brain": tuple(kind.label for kind in KINDS["brain"] if kind.label != VENTRICLES),
    "knee": ("Bone- Subchondral edema", "Bone-Fracture/Contusion/dislocation"),
}
# Scalp, skull and cortex of a head; skin, fat and capsule of a knee.
_SHELL_MM = {"brain": 24.0, "knee": 22.0}
_STRIPPED_MM = 7.0
_LEAST_ROOM_MM2 = 400.0


@dataclass(frozen=True)
class PaintedLesions:
    """A volume with lesions painted in.

    Attributes
    ----------
    image
        ``(slices, ro, pe)`` float32, unchanged outside the lesions and their halos.
    lesion_masks
        ``(slices, ro, pe)`` bool.
    boxes
        One tuple a slice, labelled in fastMRI+'s words.
    captions
        One sentence a slice.
    """

    image: Tensor
    lesion_masks: Tensor
    boxes: tuple[tuple[Box, ...], ...]
    captions: tuple[str, ...]


def paint_lesions(
    image: Tensor,
    *,
    anatomy: str,
    contrast: str,
    pixel_mm: float,
    slice_mm: float,
    lesions: int = 1,
    seed: int = 0,
    labels: Sequence[str] | None = None,
    skull_stripped: bool = False,
) -> PaintedLesions:
    """Paint lesions into a real magnitude volume.

    White matter (or marrow) is taken to be what, deep enough inside the body, has about the median signal there;
    lesions get the signal that their tissue would have beside it. The fine structure of the image stays.

    Parameters
    ----------
    image
        ``(slices, ro, pe)`` magnitude, axial head or coronal knee, in any unit.
    anatomy, contrast
        ``"brain"`` in ``"t1"`` or ``"flair"``, ``"knee"`` in ``"pd"``.
    pixel_mm, slice_mm
        Size of the square pixels, and distance between slices.
    lesions
        How many in the volume.
    seed
        Another seed, other lesions.
    labels
        Kinds of lesions to choose from, of those in ``PAINTABLE``; None for all.
    skull_stripped
        Whether the image ends at the brain's surface.

    Raises
    ------
    InputError
        If the image has no region to grow a lesion in, or a label cannot be painted into images.
    """
    check_contrast(anatomy, contrast)
    if image.ndim != 3 or image.is_complex() or not bool(torch.isfinite(image).all()):
        raise InputError(f"need a finite magnitude volume (slices, ro, pe), got {image.dtype} {tuple(image.shape)}")
    offered = PAINTABLE[anatomy] if labels is None else tuple(labels)
    if not set(offered) <= set(PAINTABLE[anatomy]):
        raise InputError(f"lesions to paint into {anatomy} images are {PAINTABLE[anatomy]}, got {offered}")
    image = image.to(torch.float32)
    streams = Streams([seed], image.device)
    grid = _image_grid(image, pixel_mm, slice_mm)
    smooth = torch.from_numpy(ndimage.gaussian_filter(image.cpu().numpy(), (0.0, 1.2, 1.2))).to(image.device)
    shell = _STRIPPED_MM if skull_stripped else _SHELL_MM[anatomy]
    reference, landmarks, room = _landmarks(smooth, anatomy, pixel_mm, shell)
    if not room:
        raise InputError(f"no slice shows {_LEAST_ROOM_MM2:.0f} mm² of tissue {shell:.0f} mm inside the body")
    signals = tissue_signals(streams("tissues"), contrast)
    unit = reference / signal_of(signals, "white" if anatomy == "brain" else "marrow")
    canvas = Canvas(signals * unit[:, None], grid)
    canvas.signal, canvas.landmarks = smooth.clone(), landmarks
    plan = LesionPlan(streams("lesions"), anatomy, [lesions], grid, offered, allowed=room)
    findings = plan.paint(canvas)
    painted = (image + (canvas.signal - smooth)).clamp(min=0.0)
    changed = (canvas.signal - smooth).abs() > 1e-3 * reference
    shape = (image.shape[1], image.shape[2])
    return PaintedLesions(
        image=torch.where(changed, painted, image),
        lesion_masks=findings.masks,
        boxes=tuple(tuple(boxes) for boxes in findings.boxes),
        captions=captions_of(findings, anatomy, contrast, shape),
    )


def _image_grid(image: Tensor, pixel_mm: float, slice_mm: float) -> SliceGrid:
    slices, rows, columns = image.shape
    readout, phase, level = (
        (torch.arange(size, device=image.device) - size // 2) * step
        for size, step in ((rows, pixel_mm), (columns, pixel_mm), (slices, slice_mm))
    )
    patient = torch.zeros(slices, dtype=torch.long, device=image.device)
    return SliceGrid(readout, phase, level.float(), patient, pixel_mm, slice_mm)


def _landmarks(
    smooth: Tensor, anatomy: str, pixel_mm: float, shell_mm: float
) -> tuple[Tensor, dict[str, Tensor], list[int]]:
    """Signal of white matter or marrow, the distances lesions are placed by, and the slices with room for them."""
    volume = smooth.cpu().numpy()
    body = volume > 0.12 * np.percentile(volume[volume > 0.0], 98.0)
    body = np.stack([ndimage.binary_fill_holes(part) for part in body])
    depth = np.stack([ndimage.distance_transform_edt(part, sampling=pixel_mm) for part in body])
    deep = depth > shell_mm
    reference = float(np.median(volume[deep])) if deep.any() else 1.0
    alike = deep & (np.abs(volume / reference - 1.0) < (0.14 if anatomy == "brain" else 0.3))
    alike = np.stack(
        [ndimage.binary_closing(ndimage.binary_opening(part, iterations=2), iterations=2) for part in alike]
    )
    inner = [
        ndimage.distance_transform_edt(part, sampling=pixel_mm)
        - ndimage.distance_transform_edt(~part, sampling=pixel_mm)
        for part in alike
    ]
    tissue = torch.from_numpy(np.stack(inner).astype(np.float32)).to(smooth.device)
    inside = torch.from_numpy((depth - shell_mm).astype(np.float32)).to(smooth.device)
    room = np.flatnonzero(alike.sum((1, 2)) * pixel_mm**2 > _LEAST_ROOM_MM2).tolist()
    # Of what images do not show plainly, depth has to do: ventricles and joint lines are somewhere in the middle.
    landmarks = {"pia": inside, "hull": inside + 4.0, "ventricle": inside - 40.0, "line": tissue}
    return torch.tensor([reference], device=smooth.device), landmarks | {"white": tissue, "bone": tissue}, room
