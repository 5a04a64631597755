"""From an MR image of any size and scale to the pixels a CLIP expects, and back from its grid to the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pass_recon.types import InputError


def resize(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Bilinear resizing with antialiasing of ``(b, c, h, w)`` to ``(b, c, *shape)``; the same tensor if it fits."""
    if image.shape[-2:] == torch.Size(shape):
        return image
    return F.interpolate(image, size=shape, mode="bilinear", align_corners=False, antialias=True)


def normalise_magnitude(image: Tensor, *, percentile: float = 99.9) -> Tensor:
    """Magnitude of each image divided by its own percentile, cut at 1.

    A percentile and not the maximum, so that one hot pixel does not darken the rest; so high a one that a small bright
    lesion keeps its contrast.

    Parameters
    ----------
    image
        ``(b, ro, pe)`` complex or real, in any unit.
    percentile
        Percentile of the magnitude that becomes 1.

    Returns
    -------
        ``(b, ro, pe)`` float32 in 0 to 1; zeros where an image is all zero.
    """
    magnitude = image.abs().float()
    flat = magnitude.flatten(1)
    above = math.floor(flat.shape[1] * (1 - percentile / 100))
    scale = flat.topk(above + 1, dim=1).values[:, -1]
    # An image that is nearly all air has a percentile of 0; its maximum is then the only scale there is.
    scale = torch.where(scale > 0, scale, flat.amax(dim=1))
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (magnitude / scale[:, None, None]).clamp(max=1.0)


@dataclass(frozen=True)
class Letterbox:
    """How an image of one shape sits in the working size of a CLIP: scaled with its aspect kept, the rest is air.

    Attributes
    ----------
    shape
        ``(ro, pe)`` of the image.
    size
        ``(height, width)`` of the CLIP's input.
    """

    shape: tuple[int, int]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise InputError(f"an image needs at least one pixel, got {self.shape[0]}×{self.shape[1]}")

    @property
    def content(self) -> tuple[slice, slice]:
        """Rows and columns of the working size that the image covers."""
        scale = min(self.size[0] / self.shape[0], self.size[1] / self.shape[1])
        extents = (max(1, round(extent * scale)) for extent in self.shape)
        slices = []
        for extent, available in zip(extents, self.size, strict=True):
            first = (available - min(extent, available)) // 2
            slices.append(slice(first, first + min(extent, available)))
        return slices[0], slices[1]

    def place(self, image: Tensor) -> Tensor:
        """``(b, ro, pe)`` → ``(b, height, width)``."""
        rows, columns = self.content
        fitted = resize(image[:, None], (rows.stop - rows.start, columns.stop - columns.start))[:, 0]
        padding = (columns.start, self.size[1] - columns.stop, rows.start, self.size[0] - rows.stop)
        return F.pad(fitted, padding)

    def lift(self, grid: Tensor) -> Tensor:
        """Values on the token grid ``(b, c, rows, columns)`` → on the image ``(b, c, ro, pe)``, bilinearly."""
        rows, columns = self.content
        working = F.interpolate(grid, size=self.size, mode="bilinear", align_corners=False)
        return resize(working[..., rows, columns], self.shape)

    def tokens(self, patch: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of the token grid that touch the image, for patches of ``(height, width)`` pixels."""
        rows, columns = self.content
        return (
            slice(rows.start // patch[0], math.ceil(rows.stop / patch[0])),
            slice(columns.start // patch[1], math.ceil(columns.stop / patch[1])),
        )
