"""What scanners and patients' positions do to images, in batches on any device: for detectors that see real ones.

All functions take magnitudes ``(b, side, side)`` and a generator on their device.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Shares of the images whose bias, resolution, window and background are changed.
_BIASED, _BLURRED, _CLIPPED, _GREY = 0.8, 0.6, 0.35, 0.03


def uniform(draw: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Uniform numbers between low and high, on the generator's device."""
    return low + (high - low) * torch.rand(shape, generator=draw, device=draw.device)


def log_uniform(draw: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Numbers between low and high whose logarithms are uniform."""
    return uniform(draw, math.log(low), math.log(high), *shape).exp()


def chance(draw: torch.Generator, share: float, count: int) -> Tensor:
    """``(count,)`` bool, each true with this probability."""
    return uniform(draw, 0.0, 1.0, count) < share


def clipped_normal(draw: torch.Generator, *shape: int) -> Tensor:
    """Normal numbers of unit deviation, cut at 2."""
    return torch.randn(shape, generator=draw, device=draw.device).clamp(-2.0, 2.0)


def each(values: Tensor) -> Tensor:
    """One number an image ``(b,)``, spread over its pixels: ``(b, 1, 1)``."""
    return values[:, None, None]


def smooth_field(draw: torch.Generator, count: int, side: int, cells: int) -> Tensor:
    """``(count, side, side)`` noise of about unit deviation that changes over ``side / cells`` pixels."""
    grid = torch.randn((count, 1, cells + 3, cells + 3), generator=draw, device=draw.device)
    size = side + 3 * side // cells
    field = F.interpolate(grid, (size, size), mode="bicubic", align_corners=False)[:, 0]
    first = int(torch.randint(0, 2 * side // cells + 1, (), generator=draw, device=draw.device))
    return 1.3 * field[:, first : first + side, first : first + side]


def blurred(image: Tensor, sigma: Tensor) -> Tensor:
    """Convolved with a Gaussian of ``sigma (b,)`` pixels, by FFT."""
    side = image.shape[-1]
    rows, columns = torch.fft.fftfreq(side, device=image.device), torch.fft.rfftfreq(side, device=image.device)
    along, across = (torch.exp(-2.0 * (math.pi * sigma[:, None] * axis) ** 2) for axis in (rows, columns))
    filtered = torch.fft.rfft2(image) * along[:, :, None] * across[:, None, :]
    return torch.fft.irfft2(filtered, s=(side, side))


def moved(
    planes: Tensor,
    draw: torch.Generator,
    *,
    zoom: tuple[float, float] = (0.78, 1.3),
    turn: float = 0.22,
    shift: float = 0.1,
    bend: float = 0.02,
) -> Tensor:
    """``(b, planes, side, side)`` flipped, turned, stretched, shifted and bent, all planes of an image alike.

    Parameters
    ----------
    planes
        Images and soft masks.
    draw
        Generator.
    zoom
        Range of magnification.
    turn, shift, bend
        Standard deviation of the turn in rad, largest shift and bending as fractions of half the side.
    """
    count, side = len(planes), planes.shape[-1]
    angle, scale = turn * clipped_normal(draw, count), 1.0 / log_uniform(draw, *zoom, count)
    stretch = torch.exp(0.06 * clipped_normal(draw, count))
    mirrored = torch.where(chance(draw, 0.5, count), -1.0, 1.0)
    upside = torch.where(chance(draw, 0.1, count), -1.0, 1.0)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    offset = uniform(draw, -shift, shift, count, 2)
    rows = (
        torch.stack([mirrored * cosine * scale * stretch, -sine * scale, offset[:, 0]], 1),
        torch.stack([mirrored * sine * scale, upside * cosine * scale / stretch, offset[:, 1]], 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), [count, 1, side, side], align_corners=False)
    bending = torch.stack([smooth_field(draw, count, side, 4) for _ in range(2)], -1)
    grid = grid + bending * (bend * uniform(draw, 0.0, 1.0, count))[:, None, None, None]
    return F.grid_sample(planes, grid, mode="bilinear", align_corners=False)


def scanned(image: Tensor, draw: torch.Generator) -> Tensor:
    """Another contrast curve, bias field, resolution, noise floor and window; the peak is about 1."""
    count, side = len(image), image.shape[-1]
    image = (image / each(bright_end(image))).clamp(min=0.0) ** each(torch.exp(0.28 * clipped_normal(draw, count)))
    image = torch.where(each(chance(draw, _BIASED, count)), image * _bias(draw, count, side), image)
    image = blurred(image, torch.where(chance(draw, _BLURRED, count), uniform(draw, 0.0, 1.4, count), 0.0))
    sigma = each(0.05 * uniform(draw, 0.0, 1.0, count) ** 2)
    parts = torch.randn((2, *image.shape), generator=draw, device=draw.device)
    image = torch.sqrt((image + sigma * parts[0]) ** 2 + (sigma * parts[1]) ** 2)  # Rician
    image = image / image.amax((1, 2), keepdim=True).clamp(min=1e-3)
    image = torch.minimum(image, each(torch.where(chance(draw, _CLIPPED, count), uniform(draw, 0.55, 1.0, count), 1.0)))
    # Some archives store images on a grey ground.
    grey = torch.where(chance(draw, _GREY, count), uniform(draw, 0.0, 0.8, count), 0.0)
    return image + each(grey * image.amax((1, 2)))


def bright_end(image: Tensor) -> Tensor:
    """``(b,)`` the value that one pixel in a thousand exceeds."""
    count = max(1, image[0].numel() // 1000)
    return image.flatten(1).topk(count, 1).values[:, -1].clamp(min=1e-3)


def _bias(draw: torch.Generator, count: int, side: int) -> Tensor:
    """Uneven sensitivity: smooth, and rising or falling towards the rim."""
    place = torch.linspace(-1.0, 1.0, side, device=draw.device).square()
    radial = (place[:, None] + place)[None] * each(uniform(draw, -0.35, 0.7, count))
    uneven = each(uniform(draw, 0.0, 0.3, count)) * smooth_field(draw, count, side, 2)
    return torch.exp(uneven + radial - radial.amax((1, 2), keepdim=True) / 2)
