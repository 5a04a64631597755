"""How a detector's training images are varied: moved about, and degraded as undersampling degrades them.

At the scanner the detector looks at the ACS image, which holds 4 or 8 % of the lines, and later at reconstructions, in
which what is left of the missing lines is weakened but not gone. `degrade` imitates both.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pass_recon.physics.fourier import fft1c, ifft1c
from pass_recon.sampling.budget import acs_count
from pass_recon.sampling.lines import acs_mask
from training.data.images import ImageSlice

CLEAN, ACS = 0.4, 0.25
"""Shares of the images that are left as they are, and that become ACS images; the others become reconstructions."""
ACS_FRACTIONS = (0.08, 0.04)
# Largest rotation in degrees, shift and change of scale as fractions.
_ROTATION, _SHIFT, _ZOOM = 12.0, 0.06, 0.12
_NOISE = 0.03


def degrade(image: Tensor, acs_fraction: float, rest: Tensor | float = 0.0, noise: Tensor | None = None) -> Tensor:
    """``Fᴴ (M_ACS + rest·(1 − M_ACS)) F x``, F along phase encoding: ACS lines are kept exactly, others weakened.

    Parameters
    ----------
    image
        ``(..., ro, pe)`` complex.
    acs_fraction
        Share of the lines that are kept.
    rest
        Weight ``(pe,)`` of the other lines.
    noise
        To be added to the image.
    """
    pe = image.shape[-1]
    acs = acs_mask(pe, acs_count(pe, acs_fraction)).to(image.device)
    weights = torch.where(acs, 1.0, torch.as_tensor(rest, device=image.device))
    degraded = ifft1c(fft1c(image, -1) * weights, -1)
    return degraded if noise is None else degraded + noise


def varied(item: ImageSlice, draw: torch.Generator, *, degraded: bool = True) -> ImageSlice:
    """A slice flipped, turned, shifted, zoomed, and degraded by chance."""
    image, classes = moved(item.image, item.classes, draw)
    image = image.abs() ** float(0.8 + 0.5 * torch.rand((), generator=draw)) * torch.exp(1j * image.angle())
    return replace(item, image=randomly_degraded(image, draw) if degraded else image, classes=classes)


def moved(image: Tensor, classes: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same random flip, rotation, shift and zoom of an image and of its lesions, both ``(ro, pe)``."""
    chance = 2 * torch.rand(7, generator=draw) - 1
    angle = math.radians(_ROTATION) * float(chance[0])
    zoom = 1 + _ZOOM * float(chance[1])
    mirrored = -1.0 if chance[4] > 0 else 1.0
    # One image in five is upside down: which way readout points differs between scanners.
    upside = -1.0 if chance[5] > 0.6 else 1.0
    cosine, sine = zoom * math.cos(angle), zoom * math.sin(angle)
    shift = (2 * _SHIFT * chance[2:4]).tolist()
    theta = torch.tensor([[[mirrored * cosine, -sine, shift[0]], [sine, upside * cosine, shift[1]]]])
    grid = F.affine_grid(theta, [1, 1, *image.shape], align_corners=False)
    planes = torch.view_as_real(image).movedim(-1, 0)[None]
    turned = F.grid_sample(planes, grid, mode="bilinear", align_corners=False)[0].movedim(0, -1).contiguous()
    regions = F.grid_sample(classes[None, None].float(), grid, mode="nearest", align_corners=False)[0, 0]
    return torch.view_as_complex(turned), regions.to(torch.uint8)


def randomly_degraded(image: Tensor, draw: torch.Generator) -> Tensor:
    """As an ACS image, as a reconstruction, or not at all; with noise."""
    pe = image.shape[-1]
    choice, share, least = torch.rand(3, generator=draw).tolist()
    sigma = _NOISE * float(torch.rand((), generator=draw)) ** 2 * float(image.abs().max())
    noise = sigma * torch.randn(image.shape, dtype=image.dtype, generator=draw)
    if choice < CLEAN:
        return image + noise
    if choice < CLEAN + ACS:  # an ACS image, most often one of the usual sizes
        fraction = ACS_FRACTIONS[int(share * 2)] if least < 0.6 else 0.04 * 10**share
        return degrade(image, fraction, 0.0, noise)
    # A reconstruction: acquired lines in full, the others weakened by what the reconstruction could not recover.
    lines = torch.rand(pe, generator=draw) < 0.15
    return degrade(image, ACS_FRACTIONS[int(share * 2)], torch.where(lines, 1.0, least), noise)
