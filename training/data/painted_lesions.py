"""Lesions of many looks painted into real heads whose brain is known, in batches on any device.

Where `pass_recon.phantom.paint_lesions` gives each lesion the signal of its tissue, here signal, edge, texture and size
are drawn over more than is known to occur: what detectors learn from it must not depend on any of them. What grows
pushes its surroundings away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.scanner_variation import blurred, chance, each, log_uniform, smooth_field, uniform

NONE, GLIOMA, SPOTS, CAVITY, MASS, BLEED = range(6)
LABELS = {
    GLIOMA: "Mass",
    SPOTS: "Nonspecific white matter lesion",
    CAVITY: "Resection cavity",
    MASS: "Mass",
    BLEED: "Nonspecific lesion",
}
"""Names of what is painted, in fastMRI+'s words."""
_SHARES = (0.42, 0.26, 0.13, 0.06, 0.09, 0.04)
_MOST_SPOTS = 5
# Places are chosen on a grid of so many pixels: means over wide windows of all pixels would take most of the time.
_CELL = 4
# A change below this share of white matter's signal is no lesion that anybody could see.
_SEEN = 0.05


@dataclass(frozen=True)
class Painted:
    """Heads with lesions.

    Attributes
    ----------
    image, brain, fat
        ``(b, side, side)``, pushed about where something grows.
    kinds
        ``(b, side, side)`` uint8, what is where.
    wanted
        ``(b,)`` what was to be painted; it may have had no room.
    """

    image: Tensor
    brain: Tensor
    fat: Tensor
    kinds: Tensor
    wanted: Tensor


@dataclass(frozen=True)
class _Shape:
    """Signed shape (positive inside, about 1 in the middle) and how much of the tissue it replaces."""

    signed: Tensor
    cover: Tensor
    sharp: Tensor


def painted(image: Tensor, brain: Tensor, fat: Tensor, t1: Tensor, draw: torch.Generator) -> Painted:
    """One finding, or none, in each head.

    Parameters
    ----------
    image, brain, fat
        ``(b, side, side)`` float: magnitude, share of brain, what fat would add; fat only moves along.
    t1
        ``(b,)`` bool: T1w, where lesions are mostly dark; the others are FLAIR.
    draw
        Generator on the same device.
    """
    count = len(image)
    shares = torch.tensor(_SHARES, device=image.device)
    wanted = torch.multinomial(shares, count, replacement=True, generator=draw)
    centre, room = _place(brain, 13, 0.85, draw)
    wanted = torch.where(room, wanted, NONE)
    radius = torch.where(wanted == GLIOMA, log_uniform(draw, 8.0, 42.0, count), log_uniform(draw, 6.0, 22.0, count))
    grows = (wanted == GLIOMA) | (wanted == MASS)
    push = torch.where(grows, uniform(draw, -0.05, 0.38, count).clamp(min=0.0), 0.0)
    image, brain, fat = _pushed(torch.stack([image, brain, fat], 1), centre, radius, push).unbind(1)
    level = white_level(image, brain)
    smooth = blurred(image, torch.full_like(level, 2.5))
    tissue = brain.clamp(0.0, 1.0) * torch.sigmoid(14.0 * (smooth / each(level) - 0.5))
    shape = _large_shape(image, brain, tissue, centre, radius, draw)
    value = _large_value(image, smooth, level, shape, wanted, t1, draw)
    large = each((wanted != NONE) & (wanted != SPOTS))
    out = torch.where(large, image + shape.cover * (value - image), image)
    kinds = torch.where(large & (shape.cover > 0.35), each(wanted), 0).to(torch.uint8)
    out, kinds = _with_spots(out, kinds, wanted == SPOTS, brain, tissue, level, t1, draw)
    seen = ((out - image).abs() > _SEEN * each(level)).float()
    kinds = kinds * F.max_pool2d(seen[:, None], 3, 1, 1)[:, 0].to(torch.uint8)
    return Painted(out.clamp(min=0.0), brain, fat, kinds, wanted)


def white_level(image: Tensor, brain: Tensor) -> Tensor:
    """``(b,)`` median signal of the brain."""
    inside = torch.where(brain > 0.5, image, torch.nan)
    return torch.nanmedian(inside.flatten(1), 1).values.nan_to_num(0.3).clamp(min=0.02)


def _place(brain: Tensor, width: int, least: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """A pixel ``(b, 2)`` of each brain that has brain all around it, and whether there is one ``(b,)``."""
    cells = width // _CELL // 2 * 2 + 1
    around = F.avg_pool2d(F.avg_pool2d(brain[:, None], _CELL), cells, 1, cells // 2, count_include_pad=False)
    deep = (around[:, 0] > least).float().flatten(1)
    found = deep.sum(1) > 0
    index = torch.multinomial(torch.where(found[:, None], deep, 1.0), 1, generator=draw)[:, 0]
    columns = brain.shape[-1] // _CELL
    coarse = torch.stack([index // columns, index % columns], 1).float()
    return _CELL * (coarse + uniform(draw, 0.0, 1.0, len(brain), 2)), found


def _offsets(centre: Tensor, side: int) -> tuple[Tensor, Tensor]:
    place = torch.arange(side, device=centre.device, dtype=torch.float32)
    return place[None, :, None] - each(centre[:, 0]), place[None, None, :] - each(centre[:, 1])


def _pushed(planes: Tensor, centre: Tensor, radius: Tensor, strength: Tensor) -> Tensor:
    """Mass effect: what lies around the centre moves outwards, most where the lesion ends."""
    side = planes.shape[-1]
    rows, columns = _offsets(centre, side)
    nearer = 1.0 - each(strength) * torch.exp(-(rows**2 + columns**2) / (1.5 * each(radius)) ** 2)
    from_rows, from_columns = each(centre[:, 0]) + rows * nearer, each(centre[:, 1]) + columns * nearer
    grid = torch.stack([from_columns, from_rows], -1) * (2.0 / (side - 1)) - 1.0
    return F.grid_sample(planes, grid, align_corners=True)


def _blob(
    centre: Tensor, radius: Tensor, rough: Tensor, side: int, draw: torch.Generator, cells: tuple[int, ...]
) -> Tensor:
    """1 − the distance from the centre in radii of a turned ellipse, with a rough surface."""
    count = len(centre)
    ratio, turn = uniform(draw, 0.5, 1.0, count), uniform(draw, 0.0, math.pi, count)
    rows, columns = _offsets(centre, side)
    cosine, sine = each(torch.cos(turn)), each(torch.sin(turn))
    along = (cosine * columns + sine * rows) / each(radius)
    across = (cosine * rows - sine * columns) / each(radius * ratio)
    noise = torch.stack([smooth_field(draw, count, side, number) for number in cells]).mean(0)
    return 1.0 - torch.sqrt(along**2 + across**2) + each(rough) * noise


def _large_shape(
    image: Tensor, brain: Tensor, tissue: Tensor, centre: Tensor, radius: Tensor, draw: torch.Generator
) -> _Shape:
    count, side = len(image), image.shape[-1]
    whole = blurred(brain, torch.ones(count, device=image.device)).clamp(0.0, 1.0) * (brain > 0.5)
    # Half of them spare the fluid in sulci, the others have closed those.
    room = torch.where(each(chance(draw, 0.5, count)), tissue, whole)
    signed = _blob(centre, radius, uniform(draw, 0.08, 0.5, count), side, draw, (9, 22))
    sharp = log_uniform(draw, 5.0, 30.0, count)
    return _Shape(signed, torch.sigmoid(each(sharp) * signed) * room, sharp)


def _large_value(
    image: Tensor, smooth: Tensor, level: Tensor, shape: _Shape, wanted: Tensor, t1: Tensor, draw: torch.Generator
) -> Tensor:
    """The signal inside of whatever is painted."""
    count, side = len(image), image.shape[-1]
    kept = each(uniform(draw, 0.2, 1.0, count))
    detail = kept * image + (1.0 - kept) * smooth
    flat = each(uniform(draw, 0.0, 0.8, count))
    grain = (smooth_field(draw, count, side, 14) + smooth_field(draw, count, side, 40)) / 2
    grain = 1.0 + each(uniform(draw, 0.0, 0.35, count)) * grain
    gain = torch.where(t1, -log_uniform(draw, 0.07, 0.5, count), log_uniform(draw, 0.15, 1.3, count))
    value = ((flat * each(level) + (1.0 - flat) * detail) * (1.0 + each(gain) * grain)).clamp(min=0.0)
    # A cyst or a necrosis in some gliomas.
    border = each(uniform(draw, 0.1, 0.6, count)) * (1.0 + 0.5 * smooth_field(draw, count, side, 12))
    core = torch.sigmoid(12.0 * (shape.signed - border))
    with_core = each(chance(draw, 0.35, count) & (wanted == GLIOMA))
    value = torch.where(with_core, _blend(value, each(uniform(draw, 0.1, 0.9, count) * level), core), value)
    # A solid or a ring-like tumour in its oedema.
    solid, ring = torch.sigmoid(14.0 * (shape.signed - 0.4)), torch.sigmoid(10.0 * (0.12 - (shape.signed - 0.35).abs()))
    tumour = torch.where(each(chance(draw, 0.5, count)), solid, ring)
    lit = torch.where(t1, uniform(draw, 0.85, 2.2, count), uniform(draw, 0.8, 2.0, count))
    value = torch.where(each(wanted == MASS), _blend(value, each(lit * level) * grain, tumour), value)
    # Fluid in a rim of gliosis.
    fluid = torch.where(t1, uniform(draw, 0.15, 0.55, count), uniform(draw, 0.02, 0.5, count))
    wall = each(uniform(draw, 0.05, 0.3, count))
    hole = torch.sigmoid(each(shape.sharp).clamp(min=14.0) * (shape.signed - wall))
    value = torch.where(each(wanted == CAVITY), _blend(value, each(fluid * level), hole), value)
    # Blood is bright, dark, or one around the other, by its age.
    outer, inner = uniform(draw, 0.1, 2.2, count) * level, uniform(draw, 0.1, 2.2, count) * level
    blood = each(outer) + torch.sigmoid(12.0 * (shape.signed - 0.4)) * each(inner - outer)
    return torch.where(each(wanted == BLEED), blood * grain, value)


def _blend(value: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return value + share * (other - value)


def _with_spots(
    image: Tensor,
    kinds: Tensor,
    where: Tensor,
    brain: Tensor,
    tissue: Tensor,
    level: Tensor,
    t1: Tensor,
    draw: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """One to five small lesions of white matter in the images ``where (b,)``."""
    count, side = len(image), image.shape[-1]
    for number in range(_MOST_SPOTS):
        centre, room = _place(brain, 21, 0.93, draw)
        present = where & room & chance(draw, 1.0 if number == 0 else 0.45, count)
        radius, rough = log_uniform(draw, 1.8, 7.0, count), uniform(draw, 0.0, 0.3, count)
        signed = _blob(centre, radius, rough, side, draw, (34,))
        cover = torch.sigmoid(each(uniform(draw, 3.0, 10.0, count)) * signed) * tissue * each(present)
        gain = torch.where(t1, -uniform(draw, 0.12, 0.5, count), uniform(draw, 0.25, 1.0, count))
        image = _blend(image, each(level * (1.0 + gain)), cover)
        kinds = torch.where((cover > 0.4) & each(present), torch.full_like(kinds, SPOTS), kinds)
    return image, kinds
