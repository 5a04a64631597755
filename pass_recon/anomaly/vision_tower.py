"""Our small vision transformer without timm and open_clip, whose import takes longer than all else at the start.

`pass_recon.anomaly.convolutional_vit` is the same for timm; names of weights and results are those of timm's
``VisionTransformer`` in open_clip's ``TimmModel``.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE, PATCH, WIDTH, BLOCKS, HEADS, MLP_RATIO = 240, 12, 96, 4, 2, 2.0
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


def stem(channels: int, patch: int, width: int) -> nn.Sequential:
    """Strided convolutions in the place of one linear patch: to features of every 4 × 4 pixels, then to tokens."""
    half = width // 2
    fine = nn.Sequential(
        _reduce(channels, half // 2, 2), _reduce(half // 2, half, 2), ResidualBlock(half), ResidualBlock(half)
    )
    coarse = nn.Sequential(_reduce(half, width, patch // 4), ResidualBlock(width), ResidualBlock(width))
    return nn.Sequential(fine, coarse)


def _reduce(before: int, after: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(_GROUPS, after), nn.ReLU())


class VisionTower(nn.Module):
    """Transformer and projection.

    Parameters
    ----------
    embed_dim
        Channels of the embedding shared with text.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.image_size = (SIZE, SIZE)
        self.trunk = _Trunk()
        self.head = nn.Sequential(OrderedDict(proj=nn.Linear(WIDTH, embed_dim, bias=False)))

    def forward(self, pixels: Tensor) -> Tensor:
        """``(b, 3, height, width)`` to ``(b, embed_dim)``."""
        embedded: Tensor = self.head(self.trunk(pixels))
        return embedded


class _Trunk(nn.Module):
    embed_dim, num_classes, num_prefix_tokens = WIDTH, 0, 1

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = _Patches()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        rows, columns = self.patch_embed.grid_size
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * columns, WIDTH))
        self.blocks = nn.ModuleList(_Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.fc_norm, self.head = nn.Identity(), nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.patch_embed(pixels)
        tokens = torch.cat((self.cls_token.expand(len(tokens), -1, -1), tokens), 1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        pooled: Tensor = self.norm(tokens)[:, 0]
        return pooled

    def set_input_size(self, img_size: tuple[int, int]) -> None:
        old, new = self.patch_embed.grid_size, (img_size[0] // PATCH, img_size[1] // PATCH)
        prefix, positions = self.pos_embed.detach()[:, :1], self.pos_embed.detach()[:, 1:]
        planes = positions.unflatten(1, old).permute(0, 3, 1, 2)
        planes = functional.interpolate(planes, size=new, mode="bicubic", align_corners=False, antialias=True)
        positions = torch.cat((prefix, planes.flatten(2).mT), 1)
        self.pos_embed = nn.Parameter(positions, requires_grad=self.pos_embed.requires_grad)
        self.patch_embed.img_size, self.patch_embed.grid_size = img_size, new


class _Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.img_size, self.grid_size = (SIZE, SIZE), (SIZE // PATCH, SIZE // PATCH)
        self.proj = stem(3, PATCH, WIDTH)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens: Tensor = self.proj(pixels).flatten(2).mT
        return tokens


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        hidden = int(MLP_RATIO * WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn = _Attention()
        self.mlp = nn.Sequential(OrderedDict(fc1=nn.Linear(WIDTH, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, WIDTH)))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        added: Tensor = tokens + self.mlp(self.norm2(tokens))
        return added


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value)
        mixed: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return mixed
