"""Receiver noise of a scan without a noise scan, from the corners of its k-space, where there is hardly any signal."""

from __future__ import annotations

import math

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


def noise_level(kspace: Tensor) -> float:
    """Standard deviation of the noise of a complex sample, root mean square over the coils of ``(coils, ro, pe)``.

    The median, which a few samples with signal do not move: |n|² of complex Gaussian noise has the median σ² ln 2.
    """
    power = corner_samples(kspace).abs().square().median(dim=1).values / math.log(2.0)
    return float(power.mean().sqrt())
