"""A bounded memory of how normal tissue looks: distance to it is the few-shot anomaly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def coreset(features: Tensor, size: int) -> Tensor:
    """A subset that covers the features: greedy k-centre, each step takes the one farthest from those taken.

    Minimises ``max_i min_{j in subset} (1 − cos(f_i, f_j))`` within a factor of two; deterministic, and air, which
    fills half of every image, takes one place and not half of them.

    Parameters
    ----------
    features
        ``(groups, n, channels)``, normalised; every group is treated on its own.
    size
        How many to keep.

    Returns
    -------
        ``(groups, min(n, size), channels)``.
    """
    if features.shape[1] <= size:
        return features
    groups = torch.arange(len(features), device=features.device)
    chosen = torch.zeros(len(features), dtype=torch.long, device=features.device)
    picks = [chosen]
    distance = torch.full(features.shape[:2], torch.inf, device=features.device)
    for _ in range(size - 1):
        similarity = (features @ features[groups, chosen][:, :, None])[..., 0]
        distance = torch.minimum(distance, 1 - similarity)
        chosen = distance.argmax(dim=1)
        picks.append(chosen)
    return features[groups[:, None], torch.stack(picks, dim=1)]


class MemoryBank(nn.Module):
    """Normalised tokens of normal images, by branch (pixel level, image level) and level.

    Parameters
    ----------
    levels, tokens, channels
        Size of the bank; 0 tokens is a detector without a memory.
    """

    bank: Tensor

    def __init__(self, levels: int, tokens: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(2, levels, tokens, channels))

    @property
    def tokens(self) -> int:
        """Tokens kept for each branch and level."""
        return self.bank.shape[2]

    @torch.no_grad()
    def add(self, features: Tensor, size: int) -> None:
        """Take in ``(2, levels, n, channels)`` and keep a coreset of at most ``size`` of all seen."""
        features = F.normalize(features.float(), dim=-1)
        self.bank = coreset(torch.cat([self.bank, features], dim=2).flatten(0, 1), size).unflatten(0, (2, -1))

    def distance(self, features: Tensor) -> Tensor:
        """1 − the highest cosine similarity to any remembered token.

        Parameters
        ----------
        features
            ``(2, levels, b, n, channels)``, normalised.

        Returns
        -------
            ``(2, levels, b, n)`` in 0 to 1; what points away from everything remembered counts as 1.
        """
        branches, levels, batch = features.shape[:3]
        similarity = features.flatten(2, 3) @ self.bank.transpose(-1, -2)
        nearest = similarity.amax(dim=-1).reshape(branches, levels, batch, -1)
        return (1 - nearest).clamp(0.0, 1.0)
