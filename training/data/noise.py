"""Noise for a scan that has no noise scan: the corners of its k-space, where there is hardly any signal."""

from __future__ import annotations

import torch
from torch import Tensor

CORNER = 0.1


def corner_samples(kspace: Tensor) -> Tensor:
    """The samples of the highest frequencies along both axes.

    Parameters
    ----------
    kspace
        ``(coils, ro, pe)``, measured lines only.

    Returns
    -------
    Tensor
        ``(coils, samples)``, the outer tenth at each end of each axis.
    """
    edge = [torch.zeros(size, dtype=torch.bool, device=kspace.device) for size in kspace.shape[-2:]]
    for mask in edge:
        width = max(round(CORNER * len(mask)), 1)
        mask[:width] = True
        mask[-width:] = True
    return kspace[:, edge[0]][:, :, edge[1]].flatten(1)
