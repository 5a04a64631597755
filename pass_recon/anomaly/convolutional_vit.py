"""A small vision transformer with a convolutional stem, registered with timm so that open_clip builds it by name.

Early convolutions help transformers see better (Xiao et al., 2021), and most of all where training is short: tokens
that convolutions made already tell edges, textures and small spots from each other, which linear patches from nothing
learn only after very many images.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from timm.layers import PatchEmbed
from timm.models import VisionTransformer, register_model
from torch import Tensor, nn

_SIZE, _PATCH, _WIDTH, _BLOCKS, _HEADS = 240, 12, 96, 4, 2
_GROUPS = 8


class ResidualBlock(nn.Module):
    """``x + f(x)`` with two 3 × 3 convolutions; group norm, as batches are small and images differ in scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(_GROUPS, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(_GROUPS, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """``(b, channels, h, w)`` → the same shape."""
        out: Tensor = features + self.layers(features)
        return out


class ConvolutionalStem(PatchEmbed):
    """timm's ``PatchEmbed`` with a stack of strided convolutions in the place of one linear patch.

    Parameters
    ----------
    img_size, patch_size, in_chans, embed_dim
        As timm gives them; the patch is a multiple of 4 pixels.
    options
        The others of ``PatchEmbed``.

    Attributes
    ----------
    proj
        First to features of every 4 × 4 pixels, ``embed_dim / 2`` of them, where small spots are found; then to tokens.
    """

    def __init__(self, img_size: Any, patch_size: int, in_chans: int, embed_dim: int, **options: Any) -> None:
        super().__init__(img_size, patch_size, in_chans, embed_dim, **options)
        half = embed_dim // 2
        fine = nn.Sequential(
            _reduce(in_chans, half // 2, 2), _reduce(half // 2, half, 2), ResidualBlock(half), ResidualBlock(half)
        )
        coarse = nn.Sequential(
            _reduce(half, embed_dim, patch_size // 4), ResidualBlock(embed_dim), ResidualBlock(embed_dim)
        )
        self.proj = nn.Sequential(fine, coarse)  # type: ignore[assignment]


def _reduce(before: int, after: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(_GROUPS, after), nn.ReLU())


class VisionTower(nn.Module):
    """`pass_convolutional_vit` as open_clip would wrap it, with the same names of weights.

    To import open_clip takes longer than all else that a detector needs to start.

    Parameters
    ----------
    embed_dim
        Channels of the embedding shared with text.
    image_size
        In pixels, square.
    """

    def __init__(self, embed_dim: int, image_size: int) -> None:
        super().__init__()
        self.image_size = (image_size, image_size)
        self.trunk = pass_convolutional_vit()
        self.trunk.reset_classifier(0)
        self.head = nn.Sequential(OrderedDict(proj=nn.Linear(self.trunk.num_features, embed_dim, bias=False)))

    def forward(self, pixels: Tensor) -> Tensor:
        """``(b, 3, height, width)`` to ``(b, embed_dim)``."""
        embedded: Tensor = self.head(self.trunk(pixels))
        return embedded


@register_model
def pass_convolutional_vit(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """Ours; ``pretrained`` is timm's to pass, and nothing."""
    for unused in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        options.pop(unused, None)
    settings = {
        "img_size": _SIZE,
        "patch_size": _PATCH,
        "embed_dim": _WIDTH,
        "depth": _BLOCKS,
        "num_heads": _HEADS,
        "mlp_ratio": 2.0,
        "embed_layer": ConvolutionalStem,
    }
    model = VisionTransformer(**{**settings, **options})
    # open_clip looks there for a pooling that only convolutional networks have.
    model.default_cfg = {}  # type: ignore[assignment]
    return model
