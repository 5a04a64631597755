"""Faint blobs painted into images, and how much of them a reconstruction gives back.

A network trained for the squared error alone shrinks what is faint and small: leaving it out costs next to nothing. So
the same slice is scanned with and without blobs, same noise, same lines, and what the blobs' difference has become is
compared with what it was.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_HARMONICS = 3
_BODY = 0.12  # of the peak: what is brighter belongs to the body


class Blobs(NamedTuple):
    """Blobs of a batch of images.

    Attributes
    ----------
    change
        ``(b, ro, pe)`` what they add to the magnitude.
    number
        ``(b, ro, pe)`` long: 0 where there is none, else 1 + the number of the blob.
    radius
        ``(b, count)`` in pixels.
    """

    change: Tensor
    number: Tensor
    radius: Tensor


def draw_blobs(
    magnitude: Tensor,
    count: int,
    generator: torch.Generator | None = None,
    *,
    radius: tuple[float, float] = (1.5, 7.0),
    contrast: tuple[float, float] = (0.03, 0.12),
    irregular: float = 0.5,
) -> Blobs:
    """Discs and irregular spots, brighter or darker than what is there, inside the body.

    Parameters
    ----------
    magnitude
        ``(b, ro, pe)`` of peak about 1.
    count
        Blobs an image; where two overlap, each pixel belongs to the one it lies deeper in.
    generator
        On the device of the images.
    radius
        In pixels.
    contrast
        As a fraction of the peak, either sign; nothing gets darker than black.
    irregular
        Share of blobs that are no discs.
    """
    b, ro, pe = magnitude.shape
    device = magnitude.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, device=device)

    body = (magnitude > _BODY * magnitude.amax((-2, -1), keepdim=True)).flatten(1).float()
    centres = torch.multinomial(body + 1e-9, count, replacement=True, generator=generator)
    size = uniform(*radius, b, count)
    strength = uniform(*contrast, b, count) * (1 - 2 * (uniform(0, 1, b, count) < 0.5).float())
    edge = uniform(0.3, 0.8, b, count)
    uneven = uniform(0.0, 0.3, b, count, _HARMONICS) * (uniform(0, 1, b, count, 1) < irregular)
    turn = uniform(0.0, 2 * math.pi, b, count, _HARMONICS)
    y = torch.arange(ro, device=device)[:, None] - (centres // pe)[..., None, None]
    x = torch.arange(pe, device=device) - (centres % pe)[..., None, None]
    angle = torch.atan2(y.float(), x.float())
    reach = torch.ones_like(angle)
    for order in range(_HARMONICS):
        wave = torch.cos((order + 2) * angle + turn[..., order, None, None])
        reach = reach + uneven[..., order, None, None] * wave
    inside = (size[..., None, None] * reach - torch.sqrt((y**2 + x**2).float())) / edge[..., None, None]
    deepest, which = torch.sigmoid(inside).max(1)
    number = torch.where(deepest > 0.02, which + 1, 0)
    wanted = deepest * strength.gather(1, which.flatten(1)).view_as(which) * (number > 0)
    return Blobs((magnitude + wanted).clamp(min=0) - magnitude, number, size)


def recovery(with_blobs: Tensor, without: Tensor, truth: Tensor, blobs: Blobs) -> tuple[Tensor, Tensor]:
    """How much of each blob came back: ⟨with − without, blob⟩ / ⟨blob, blob⟩.

    Parameters
    ----------
    with_blobs, without
        ``(b, ro, pe)`` complex reconstructions.
    truth
        ``(b, ro, pe)`` complex, whose phase the reconstructions should have.
    blobs
        What was painted.

    Returns
    -------
    tuple of Tensor
        ``(b, count)`` recoveries, and ``(b, count)`` bool: which blobs left anything to be measured.
    """
    phase = torch.polar(torch.ones_like(truth.real), -truth.angle())
    difference = ((with_blobs - without) * phase).real
    count = blobs.radius.shape[1]
    place, nothing = blobs.number.flatten(1), difference.new_zeros(len(difference), count + 1)
    found = nothing.scatter_add(1, place, (difference * blobs.change).flatten(1))[:, 1:]
    painted = nothing.scatter_add(1, place, blobs.change.square().flatten(1))[:, 1:]
    # One pixel of a hundredth of the peak is the least that counts.
    measured = painted > 1e-4
    return torch.where(measured, found / painted.clamp(min=1e-4), 1.0), measured
