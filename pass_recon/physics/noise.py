"""How noisy a scan is, told from its own lines."""

from __future__ import annotations

import torch
from torch import Tensor

_EDGE = 16


def noise_level(kspace: Tensor, line_mask: Tensor) -> Tensor:
    """Standard deviation σ of the noise, ``E|n|² = σ²``, from the ends of the readouts, where little signal is left.

    What is left of it reaches all coils through a few smooth maps, and noise reaches each coil by itself: of the
    eigenvalues of the covariance between coils the lowest quartile is σ², for fewer than about four coils an upper
    bound of it.

    Parameters
    ----------
    kspace
        ``(..., coils, ro, pe)``.
    line_mask
        ``(..., pe)`` bool.

    Returns
    -------
    Tensor
        ``(..., 1, 1)`` float, in the units of the k-space.
    """
    edge = max(1, kspace.shape[-2] // _EDGE)
    ends = torch.cat((kspace[..., :edge, :], kspace[..., -edge:, :]), dim=-2) * line_mask[..., None, None, :]
    samples = ends.flatten(-2)
    count = 2 * edge * line_mask.sum(-1)[..., None, None]
    variances = torch.linalg.eigvalsh(samples @ samples.mH / count)
    return variances.quantile(0.25, dim=-1).clamp(min=0).sqrt()[..., None, None]
