"""Real heads as ground for painted lesions: slices with their brain, and the fat that another sequence would show.

A volume in FLAIR gives slices, and a mask of the brain by its signal; T1w of the same session lies in the same space
and gives T1w slices, and where fat is: protocols without fat suppression show it bright in FLAIR too. One head with its
face, in T1w, is cut obliquely, and also shown in an invented FLAIR: its signal sent through curves, one inside the
brain, one outside.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor

from pass_recon.anomaly.prompts import diagnoses
from pass_recon.types import Box, InputError
from training.data.augmentation import randomly_degraded
from training.data.images import UNNAMED, ImageSlice, joined, stacked, written_caption
from training.data.nifti import refuse_volume
from training.data.painted_lesions import LABELS, NONE, Painted, painted, white_level
from training.data.scanner_variation import (
    blurred,
    bright_end,
    chance,
    each,
    log_uniform,
    moved,
    scanned,
    uniform,
)

SIDE = 240
"""Pixels of a canvas, of 1 mm each."""
_PARTS = ("image", "brain", "fat", "sure")
_FAT_UNIT, _WHITE_TO_FAT, _MOST_FAT = 60.0, 1.2, 4.0
_LEAST_PIXELS = 12


def prepare_heads(
    folder: Path, output: Path, unsure: Mapping[str, Sequence[int]], *, full_head: Path | None, full_brain: Path | None
) -> int:
    """Read ``<scan>_FLAIR.nii.gz`` and, where it is, ``<scan>_T1W.nii.gz``, and write what `Heads` reads.

    Parameters
    ----------
    folder
        Of the volumes.
    output
        File to write (safetensors).
    unsure
        By scan, the FLAIR slices that show or may show a lesion of the patient's own; scans not named are not read.
    full_head, full_brain
        One head in T1w, 1 mm, with its face, and the same with all but the brain removed.

    Returns
    -------
        How many slices of the volumes there are.

    Raises
    ------
    InputError
        If there is nothing to read.
    """
    found: dict[str, list[Tensor]] = {f"{contrast}.{part}": [] for contrast in ("flair", "t1") for part in _PARTS}
    for scan, doubted in unsure.items():
        path = folder / f"{scan}_FLAIR.nii.gz"
        if not path.exists():
            raise InputError(f"there is no {path}")
        flair = _Volume.read(path)
        t1_path = folder / f"{scan}_T1W.nii.gz"
        t1 = _Volume.read(t1_path) if t1_path.exists() else None
        for contrast, parts in _of_scan(flair, t1, doubted).items():
            for part, value in zip(_PARTS, parts, strict=True):
                found[f"{contrast}.{part}"].append(torch.from_numpy(value))
    tensors = {name: torch.cat(values) for name, values in found.items()}
    if full_head is not None and full_brain is not None:
        head = _Volume.read(full_head)
        brain = head.canvas_of(_Volume.read(full_brain), step_mm=1.0, order=0) > 0
        tensors["full.image"] = torch.from_numpy(_as_bytes(head.canvas_of(head, step_mm=1.0)))
        tensors["full.brain"] = torch.from_numpy(ndimage.binary_closing(brain, np.ones((3, 5, 5))).astype(np.uint8))
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, output)
    return sum(len(tensors[f"{contrast}.sure"]) for contrast in ("flair", "t1"))


@dataclass(frozen=True)
class _Volume:
    """Values ``(left, posterior, superior)`` with their affine."""

    values: NDArray[np.float32]
    affine: NDArray[np.float64]
    sizes: tuple[float, float, float]

    @classmethod
    def read(cls, path: Path) -> _Volume:
        import nibabel
        from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

        file: Any = nibabel.load(path)
        refuse_volume(path.name, file.shape)
        file = file.as_reoriented(ornt_transform(io_orientation(file.affine), axcodes2ornt(("L", "P", "S"))))
        x, y, z = (float(size) for size in file.header.get_zooms()[:3])
        return cls(np.asarray(file.dataobj).astype(np.float32), np.asarray(file.affine), (x, y, z))

    def canvas_of(self, other: _Volume, *, step_mm: float | None = None, order: int = 1) -> NDArray[np.float32]:
        """Another volume on the canvas of this one's slices, ``(slices, ro, pe)``, slices as they are or resampled."""
        step = 1.0 if step_mm is None else step_mm / self.sizes[2]
        levels = np.arange(0.0, self.values.shape[2], step)
        middle = [(count - 1) / 2 for count in self.values.shape[:2]]
        across, along = (middle[n] + (np.arange(SIDE) - SIDE / 2) / self.sizes[n] for n in (0, 1))
        grid = np.meshgrid(levels, along, across, indexing="ij")
        points = np.stack([*grid[::-1], np.ones_like(grid[0])], -1) @ self.affine.T @ np.linalg.inv(other.affine).T
        level, last = points[..., 2], other.values.shape[2] - 1
        # The first and last slice are there, whatever rounding makes of their number.
        points[..., 2] = np.where((level > -0.6) & (level < last + 0.6), level.clip(0, last), level)
        smooth = [0.35 * max(1.0 / size - 1.0, 0.0) for size in other.sizes[:2]]
        values = ndimage.gaussian_filter(other.values, [*smooth, 0.0]) if order else other.values
        found: NDArray[np.float32] = ndimage.map_coordinates(values, np.moveaxis(points[..., :3], -1, 0), order=order)
        return found

    def on_canvas(self, canvas: NDArray) -> _Volume:
        """What lies on the canvas of this volume's slices, as a volume."""
        middle = [(count - 1) / 2 for count in self.values.shape[:2]]
        scale = np.diag([1.0 / self.sizes[0], 1.0 / self.sizes[1], 1.0, 1.0])
        scale[:2, 3] = [middle[n] - SIDE / 2 / self.sizes[n] for n in (0, 1)]
        return _Volume(canvas.transpose(2, 1, 0).astype(np.float32), self.affine @ scale, (1.0, 1.0, self.sizes[2]))


def _of_scan(flair: _Volume, t1: _Volume | None, doubted: Sequence[int]) -> dict[str, tuple[NDArray, ...]]:
    """Image, brain, fat and whether it is sure that there is no lesion, of the slices of each contrast."""
    image = flair.canvas_of(flair)
    brain = brain_of_flair(image)
    sure = np.array([number not in doubted for number in range(len(image))])
    fat = np.zeros_like(image)
    found: dict[str, tuple[NDArray, ...]] = {}
    if t1 is not None:
        beside = flair.canvas_of(t1)
        fat = np.clip(beside / np.median(beside[brain]) - _WHITE_TO_FAT, 0.0, _MOST_FAT)
        fat = fat * ~ndimage.binary_dilation(brain, np.ones((1, 3, 3)))
        own = t1.canvas_of(t1)
        there = t1.canvas_of(flair.on_canvas(brain)) > 0.5
        places = np.array([[*(np.array(own.shape[1:]) / 2), number, 1.0] for number in range(len(own))])
        level = np.linalg.inv(flair.affine) @ t1.on_canvas(own).affine @ places.T
        near = np.array([any(abs(place - number) < 1 for number in doubted) for place in level[2]], dtype=bool)
        found["t1"] = (_as_bytes(own), there.astype(np.uint8), np.zeros_like(there, dtype=np.uint8), ~near)
    found["flair"] = (_as_bytes(image), brain.astype(np.uint8), (_FAT_UNIT * fat).astype(np.uint8), sure)
    return found


def brain_of_flair(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The brain in ``(slices, ro, pe)`` FLAIR with suppressed fat: the largest connected bright part, holes filled."""
    shown = image[image > 0.1 * image.max()]
    bright = ndimage.binary_opening(image > 0.5 * np.percentile(shown, 70), np.ones((1, 5, 5)))
    labelled, _ = ndimage.label(bright)
    sizes = np.bincount(labelled.ravel())
    sizes[0] = 0
    closed = ndimage.binary_closing(labelled == sizes.argmax(), np.ones((1, 9, 9)))
    filled = np.stack([ndimage.binary_fill_holes(part) for part in closed])
    grown: NDArray[np.bool_] = ndimage.binary_dilation(filled, np.ones((1, 3, 3)))
    return grown


def _as_bytes(image: NDArray) -> NDArray[np.uint8]:
    return np.clip(255 * image / np.percentile(image, 99.95), 0, 255).round().astype(np.uint8)


class Heads:
    """Slices that `prepare_heads` wrote, on a device.

    Parameters
    ----------
    path
        The file.
    device
        Where slices are drawn and lesions painted.
    cuts
        Oblique slices through the full head in each contrast.
    seed
        Of those.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "cpu", *, cuts: int = 400, seed: int = 0) -> None:
        tensors = load_file(str(path), device=str(device))
        self.device = torch.device(device)
        self._slices = {
            contrast: [tensors[f"{contrast}.{part}"] for part in _PARTS] for contrast in ("flair", "t1")
        }  # fmt: skip
        if "full.image" in tensors:
            draw = torch.Generator(self.device).manual_seed(seed)
            volume, brain = tensors["full.image"].float() / 255, tensors["full.brain"].float()
            for contrast in ("flair", "t1"):
                self._slices[f"full {contrast}"] = _cut(volume, brain, contrast, cuts, draw)

    def draw(self, contrasts: Sequence[str], draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Image, brain and fat ``(b, side, side)``, and ``(b,)`` bool: sure to be healthy, T1w.

        One slice in three is of the full head where there is one.
        """
        found = []
        for place, contrast in enumerate(contrasts):
            full = f"full {contrast}"
            group = full if place % 3 == 0 and full in self._slices else contrast
            parts = self._slices[group]
            number = int(torch.randint(len(parts[0]), (), generator=draw, device=self.device))
            found.append([part[number] for part in parts])
        image, brain, fat, sure = (torch.stack(parts) for parts in zip(*found, strict=True))
        t1 = torch.tensor([contrast == "t1" for contrast in contrasts], device=self.device)
        return image.float() / 255, brain.float(), fat.float() / _FAT_UNIT, sure.bool(), t1

    def batch(self, contrasts: Sequence[str], draw: torch.Generator) -> ImageSlice:
        """Heads in these contrasts moved about, with painted lesions, other scalps, scanned otherwise; of phase 0."""
        image, brain, fat, sure, t1 = self.draw(contrasts, draw)
        image, brain, fat = moved(torch.stack([image, brain, fat], 1), draw).unbind(1)
        lesions = painted(image, brain, fat, t1, draw)
        numbers = {finding.label: 1 + number for number, finding in enumerate(diagnoses("brain"))}
        table = torch.tensor([0, *(numbers.get(LABELS[kind], UNNAMED) for kind in LABELS)], dtype=torch.uint8)
        image = scanned(_other_scalp(lesions, t1, draw), draw)
        pixels = (lesions.kinds > 0).flatten(1).sum(1)
        healthy = (lesions.wanted == NONE) & sure
        label = torch.where(pixels >= _LEAST_PIXELS, 1, torch.where(healthy, 0, -1))
        return ImageSlice(
            image=image.to(torch.complex64),
            classes=table.to(self.device)[lesions.kinds.long()],
            label=label,
            reviewed=sure,
            caption=tuple(
                written_caption("brain", contrast, [Box(0, 0, 1, 1, label=LABELS[kind])] if sick == 1 else [], sick)
                for contrast, kind, sick in zip(contrasts, lesions.wanted.tolist(), label.tolist(), strict=True)
            ),
            examination=tuple(f"brain-{contrast}" for contrast in contrasts),
        )


def _other_scalp(heads: Painted, t1: Tensor, draw: torch.Generator) -> Tensor:
    """Scalp, skull and face brighter or darker against the brain, and fat as bright as without its suppression."""
    count = len(heads.image)
    level = white_level(heads.image, heads.brain).clamp(min=0.05, max=1.0)
    soft = blurred(heads.brain, torch.ones_like(level)).clamp(0.0, 1.0)
    outside = each(log_uniform(draw, 0.35, 2.2, count))
    fatty = torch.where(chance(draw, 0.65, count) & ~t1, uniform(draw, 0.0, 2.5, count), 0.0)
    return heads.image * (soft + (1.0 - soft) * outside) + each(fatty * level) * heads.fat * (1.0 - soft)


def _cut(volume: Tensor, brain: Tensor, contrast: str, count: int, draw: torch.Generator) -> list[Tensor]:
    """Slices of 3 to 6 mm through ``(levels, side, side)`` of 1 mm, tilted as patients lie; parts as in the file."""
    white = float(volume[brain > 0][::7].quantile(0.8))
    images, brains = [], []
    for _ in range(count):
        image, inside = _oblique(volume, brain, draw)
        if contrast == "flair":
            image = _invented_flair(image / white, inside, draw)
        images.append((255 * (image / each(bright_end(image))).clamp(0.0, 1.0)).to(torch.uint8))
        brains.append((inside > 0.5).to(torch.uint8))
    image, inside = torch.cat(images), torch.cat(brains)
    return [image, inside, torch.zeros_like(inside), torch.ones(count, dtype=torch.bool, device=image.device)]


def _oblique(volume: Tensor, brain: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    depth, side = volume.shape[0], volume.shape[1]
    pitch, roll = (float(uniform(draw, -most, most)) for most in (0.3, 0.1))
    middle, thick = float(uniform(draw, 3.0, depth - 21.0)), float(uniform(draw, 3.0, 6.0))
    place = torch.arange(side, device=volume.device) - side / 2
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    within = thick * (torch.arange(5, device=volume.device) - 2)[:, None, None] / 5
    levels = middle + within + pitch * rows + roll * columns
    upright = rows * (1.0 - pitch**2) ** 0.5 + side / 2
    points = torch.stack([(columns + side / 2).expand_as(levels), upright.expand_as(levels), levels], -1)
    sizes = torch.tensor([side - 1, side - 1, depth - 1], device=volume.device)
    both = F.grid_sample(torch.stack([volume, brain])[None], (2 * points / sizes - 1)[None], align_corners=True)[0]
    return both[0].mean(0, keepdim=True), both[1].mean(0, keepdim=True)


def _invented_flair(image: Tensor, brain: Tensor, draw: torch.Generator) -> Tensor:
    """Curves of T1w signal in units of white matter: fluid dark, grey matter brightest; the rest as it comes."""

    def number(low: float, high: float) -> float:
        return float(uniform(draw, low, high))

    inside = _curve(
        image,
        (0.0, 0.38, 0.52, number(0.68, 0.78), 0.98, 1.4),
        (0.0, number(0.02, 0.2), number(0.3, 0.7), number(0.9, 1.1), number(0.68, 0.9), number(0.6, 0.9)),
    )
    outside = _curve(
        image,
        (0.0, 0.25, 0.6, 1.0, 1.6),
        (0.0, number(0.0, 0.15), number(0.15, 0.7), number(0.3, 1.3), number(0.3, 3.0)),
    )
    soft = blurred(brain, torch.full((len(brain),), 0.7, device=brain.device)).clamp(0.0, 1.0)
    return inside * soft + outside * (1.0 - soft)


def _curve(values: Tensor, at: Sequence[float], heights: Sequence[float]) -> Tensor:
    """Linear between the points, and as steep as at the end beyond the last."""
    out = torch.zeros_like(values)
    for number, (first, last) in enumerate(itertools.pairwise(at)):
        share = ((values - first) / (last - first)).clamp(min=0.0)
        if number + 2 < len(at):
            share = share.clamp(max=1.0)
        out = out + share * (heights[number + 1] - heights[number])
    return out


def with_heads(
    items: Sequence[ImageSlice], heads: Heads | None, share: float, examinations: Sequence[str], draw: torch.Generator
) -> ImageSlice:
    """A batch of these slices, the first of them replaced by heads.

    Parameters
    ----------
    items
        Slices of ``SIDE`` pixels, degraded or not as training wants them.
    heads
        None for none.
    share
        Of the batch.
    examinations
        Those that are trained: contrasts of brains among them take turns; without any, nothing is replaced.
    draw
        Generator, on the CPU.
    """
    contrasts = sorted(name.removeprefix("brain-") for name in examinations if name in ("brain-t1", "brain-flair"))
    count = round(share * len(items)) if heads is not None and contrasts else 0
    if not count or heads is None:
        return stacked(items)
    drawn = heads.batch([contrasts[place % len(contrasts)] for place in range(count)], draw)
    image = torch.stack([randomly_degraded(each_image, draw) for each_image in drawn.image])
    return joined([replace(drawn, image=image), *([stacked(items[count:])] if items[count:] else [])])


def read_heads(path: str, size: int) -> Heads | None:
    """Heads for training on images of this size; None without a path.

    Raises
    ------
    InputError
        If the size is another than theirs.
    """
    if not path:
        return None
    if size != SIDE:
        raise InputError(f"real heads are images of {SIDE} pixels, training is set to size {size}")
    return Heads(path)
