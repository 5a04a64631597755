"""Bricks of D and G: a compact multi-scale network, and the layers of the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from pass_recon.networks import single_precision, zero


class ResidualBlock(nn.Module):
    """``x + conv(act(conv(x)))`` with 3×3 convolutions; without normalisation, which would erase the contrast.

    With ``condition`` features of the scan, these scale and shift what comes out of the first convolution (Perez et
    al., FiLM: visual reasoning with a general conditioning layer, AAAI 2018); at first they change nothing.
    """

    def __init__(self, channels: int, condition: int = 0) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(condition, 2 * channels) if condition else None
        if self.modulation is not None:
            zero(self.modulation)

    def forward(self, features: Tensor, condition: Tensor | None = None) -> Tensor:
        """``(b, channels, h, w)`` and, if conditioned, ``(b, condition)`` to the shape of the first."""
        hidden: Tensor = self.first(features)
        if self.modulation is not None:
            scale, shift = self.modulation(condition)[..., None, None].chunk(2, dim=1)
            hidden = hidden * (1 + scale) + shift
        return features + self.second(functional.leaky_relu(hidden, 0.1))


class Gate(nn.Module):
    """Turns a map ``(b, 1, h, w)`` into factors between 0 and 2 for ``channels`` features, 1 everywhere at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, channels, 1)
        zero(self.second)

    def forward(self, guide: Tensor) -> Tensor:
        """``(b, 1, h, w)`` to ``(b, channels, h, w)``."""
        return 2 * torch.sigmoid(self.second(functional.leaky_relu(self.first(guide), 0.1)))


class MultiScale(nn.Module):
    """A residual U-Net on ``patch × patch`` pixels a position, which keeps full resolution and a quarter of the work.

    Parameters
    ----------
    channels
        Features at each scale, finest first; every scale halves the resolution.
    blocks
        Residual blocks at each scale on the way down and again on the way up.
    patch
        Pixels along each axis that are folded into the channels at the finest scale; 1 folds none.
    gated
        Whether a guide map ``(b, 1, ro, pe)`` multiplies the features on the way down.
    condition
        Features of the scan that modulate every residual block; 0 for none.
    """

    def __init__(
        self, channels: Sequence[int], blocks: int, patch: int, *, gated: bool = False, condition: int = 0
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1 or blocks < 1 or patch < 1:
            raise ValueError("channels, blocks and patch must be at least 1")
        self.patch = patch
        self.multiple = patch * 2 ** (len(channels) - 1)
        self.fold = nn.Conv2d(2 * patch**2, channels[0], 3, padding=1)
        self.unfold = nn.Conv2d(channels[0], 2 * patch**2, 3, padding=1)
        # The network starts as "change nothing", so that the unrolled iteration starts as CG-SENSE.
        zero(self.unfold)
        pairs = list(pairwise(channels))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.encoder = nn.ModuleList(_blocks(width, blocks, condition) for width in channels)
        self.decoder = nn.ModuleList(_blocks(width, blocks, condition) for width in channels[:-1])
        self.gates = nn.ModuleList(Gate(width) for width in channels) if gated else None

    def forward(self, image: Tensor, guide: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """``(b, 2, ro, pe)`` of any size, if gated a guide ``(b, 1, ro, pe)``, to ``(b, 2, ro, pe)``."""
        ro, pe = image.shape[-2:]
        # Under autocast only what residual blocks add is rounded: it halves the error, at no cost that can be measured.
        with single_precision(image):
            features = self.fold(functional.pixel_unshuffle(self._padded(image.float()), self.patch))
        guides = self._guides(guide)
        skips = []
        for scale, encode in enumerate(self.encoder):
            if scale:
                features = self.down[scale - 1](features).float()
            features = _through(encode, features * guides[scale] if guides else features, condition)
            skips.append(features)
        for scale in reversed(range(len(self.up))):
            features = _through(self.decoder[scale], skips[scale] + self.up[scale](features), condition)
        with single_precision(image):
            return functional.pixel_shuffle(self.unfold(features), self.patch)[..., :ro, :pe]

    def _guides(self, guide: Tensor | None) -> list[Tensor]:
        if self.gates is None:
            return []
        if guide is None:
            raise ValueError("a gated network needs a guide map")
        padded = self._padded(guide)
        return [gate(functional.avg_pool2d(padded, self.patch * 2**scale)) for scale, gate in enumerate(self.gates)]

    def _padded(self, image: Tensor) -> Tensor:
        """Repeat the last row and column until the coarsest scale has whole pixels; odd sizes need nothing else."""
        ro, pe = image.shape[-2:]
        return functional.pad(image, (0, -pe % self.multiple, 0, -ro % self.multiple), mode="replicate")


def _blocks(channels: int, count: int, condition: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels, condition) for _ in range(count)))


def _through(blocks: nn.Module, features: Tensor, condition: Tensor | None) -> Tensor:
    for block in blocks.children():
        features = block(features, condition)
    return features


def group_norm_block(channels_in: int, channels_out: int) -> list[nn.Module]:
    """3×3 convolution, GroupNorm(8) and ReLU, the brick of the published D and G."""
    return [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.GroupNorm(8, channels_out), nn.ReLU(inplace=True)]


def group_norm_head(channels_in: int) -> list[nn.Module]:
    """1×1 convolution to two channels and GroupNorm(2), the last step of the published D and G."""
    return [nn.Conv2d(channels_in, 2, 1), nn.GroupNorm(2, 2)]
