"""Bottleneck adapters in the token stream of a frozen vision transformer (NetAD of PASS, after MVFA)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pass_recon.types import InputError

PUBLISHED_MIX = (0.8, 0.1, 0.1)
"""Weights of the stream itself, the pixel-level and the image-level adapter."""


class BottleneckAdapter(nn.Module):
    """``h = LeakyReLU(W₁ x)``, ``y = LeakyReLU(W₂ h)``, without bias.

    Parameters
    ----------
    width
        Channels of the token stream.
    embed_dim
        Channels of the text embedding: ``h`` is compared with text as it is.
    returns
        False where no block follows: ``y`` would reach nothing, so there is no W₂ that could never learn.
    """

    def __init__(self, width: int, embed_dim: int, *, returns: bool = True) -> None:
        super().__init__()
        self.reduce = nn.Linear(width, embed_dim, bias=False)
        self.expand = nn.Linear(embed_dim, width, bias=False) if returns else None

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """``x (b, n, width)`` → ``h (b, n, embed_dim)``, ``y (b, n, width)`` or None."""
        features = F.leaky_relu(self.reduce(tokens))
        if self.expand is None:
            return features, None
        return features, F.leaky_relu(self.expand(features))


class LevelAdapters(nn.Module):
    """The pixel-level (PLA) and the image-level adapter (ILA) of one level, and their mix into the stream.

    ``x ← a·x + b·y_PLA + c·y_ILA`` with (a, b, c) = (0.8, 0.1, 0.1) as published. The class token is mixed like all
    others, but its features are not returned: it belongs to no place in the image.

    Parameters
    ----------
    width, embed_dim
        Channels of the token stream and of the text embedding.
    mix
        a, b and c.
    prefix
        Number of class and register tokens in front.
    last
        True behind the last block, where the stream goes nowhere.
    """

    def __init__(
        self,
        width: int,
        embed_dim: int,
        *,
        mix: tuple[float, float, float] = PUBLISHED_MIX,
        prefix: int = 1,
        last: bool = False,
    ) -> None:
        super().__init__()
        if len(mix) != 3:
            raise InputError(f"the mix has three weights (stream, pixel level, image level), got {mix}")
        self.mix = mix
        self.prefix = prefix
        self.pixel = BottleneckAdapter(width, embed_dim, returns=not last)
        self.image = BottleneckAdapter(width, embed_dim, returns=not last)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The stream ``(b, prefix + n, width)`` → how it goes on, and h of PLA and ILA ``(b, n, embed_dim)``."""
        pixel_features, pixel = self.pixel(tokens)
        image_features, image = self.image(tokens)
        if pixel is not None and image is not None:
            tokens = self.mix[0] * tokens + self.mix[1] * pixel + self.mix[2] * image
        return tokens, pixel_features[:, self.prefix :], image_features[:, self.prefix :]
