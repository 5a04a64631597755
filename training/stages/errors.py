"""How far an image is from the truth, or a map from a mask, in the ways that losses measure it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

# An error this small, 80 dB below the peak, is as good as none: the logarithm stops there.
_SMALLEST = 1e-8
_WINDOW = 7
_GAMMA, _BALANCE = 2.0, 0.9

LossName = Literal["decibels", "squared", "l1", "ssim"]


def squared_error(image: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean ``|image − truth|²`` of each slice ``(b, ro, pe)``, weighted by ``(b, ro, pe)``; 0 where all weights are."""
    return _mean(torch.view_as_real(image - truth).square().sum(-1), weight)


def decibels(error: Tensor) -> Tensor:
    """``10 log₁₀`` of squared errors: −PSNR of images that peak at 1."""
    return 10 * error.clamp(min=_SMALLEST).log10()


def absolute_error(image: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean ``|image − truth|`` of each slice (L1), as `squared_error`; its gradient is 0 where nothing is wrong."""
    squares = torch.view_as_real(image - truth).square().sum(-1)
    return _mean((squares + _SMALLEST**2).sqrt(), weight)


def dissimilarity(image: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 − SSIM of the magnitudes of each slice, as `squared_error`.

    Windows of 7 × 7 pixels that weigh the same, those that leave the image left out; the data range is max|truth|.

    References
    ----------
    Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 13 (2004).
    """
    x, y = (torch.view_as_real(each).square().sum(-1).clamp(min=_SMALLEST**2).sqrt() for each in (image, truth))
    peak = y.detach().amax((-2, -1), keepdim=True).clamp(min=_SMALLEST)
    planes = torch.stack((x, y, x * x, y * y, x * y), 1)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = functional.avg_pool2d(planes, _WINDOW, stride=1).unbind(1)
    unbiased = _WINDOW**2 / (_WINDOW**2 - 1)
    var_x, var_y = unbiased * (mean_xx - mean_x * mean_x), unbiased * (mean_yy - mean_y * mean_y)
    both = unbiased * (mean_xy - mean_x * mean_y)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    alike = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    similarity = alike / ((mean_x * mean_x + mean_y * mean_y + c1) * (var_x + var_y + c2))
    inside = _WINDOW // 2
    return _mean(1 - similarity, None if weight is None else weight[:, inside:-inside, inside:-inside])


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return values.mean((-2, -1))
    return (values * weight).sum((-2, -1)) / weight.sum((-2, -1)).clamp(min=1.0)


ERRORS: dict[str, Callable[..., Tensor]] = {
    "decibels": lambda *images: decibels(squared_error(*images)),
    "squared": squared_error,
    "l1": absolute_error,
    "ssim": dissimilarity,
}
"""Of ``(image, truth[, weight])``, each ``(b, ro, pe)``, by the name of a loss: ``(b,)``, lower is better."""


def focal(logits: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """``−α (1 − p_true)² log p_true`` (Lin et al., 2017) of ``(b, levels, ro, pe)`` against ``(b, ro, pe)``."""
    target = mask[:, None].to(logits.dtype).expand_as(logits)
    each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    balance = torch.where(mask, _BALANCE, 1 - _BALANCE)[:, None]
    return (balance * weight[:, None] * (1 - torch.exp(-each)) ** _GAMMA * each).mean()


def dice(logits: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """1 − Dice of the whole batch, by level: an image without lesion then has a part in it too."""
    p = torch.sigmoid(logits) * weight[:, None]
    target = mask[:, None].to(p.dtype)
    both, sums = (p * target).sum((0, 2, 3)), (p.square() + target).sum((0, 2, 3))
    return (1 - (2 * both + 1) / (sums + 1)).mean()
