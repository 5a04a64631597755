"""D, the denoiser of the unrolled iteration: complex image ``(b, ro, pe)`` to complex image, of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from pass_recon.config import NetworkConfig
from pass_recon.networks import as_channels, as_complex, build, root_mean_square
from pass_recon.reconstruction.blocks import MultiScale, group_norm_block, group_norm_head


class PublishedDenoiser(nn.Module):
    """``D(x) = x + f(x)`` as published: 3×3 convolutions 2→64→64→128→128→64→64 and 1×1 to 2, GroupNorm throughout.

    GroupNorm fixes the size of ``f(x)`` whatever the size of x, so images must peak at about 1, as in its training.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (2, 64, 64, 128, 128, 64, 64)
        bricks = [layer for pair in pairwise(widths) for layer in group_norm_block(*pair)]
        self.layers = nn.Sequential(*bricks, *group_norm_head(64))

    def forward(self, image: Tensor) -> Tensor:
        """Complex ``(b, ro, pe)`` to complex64 ``(b, ro, pe)``."""
        return image + as_complex(self.layers(as_channels(image)))


class UnetDenoiser(nn.Module):
    """``D(x) = x + s·f(x / s)`` with f a compact multi-scale network and ``s = √mean|x|²``.

    Because of s, ``D(a·x) = a·D(x)`` for every a > 0: the result does not depend on the intensity of the scan.

    Parameters
    ----------
    channels
        Features at each scale, finest first.
    blocks
        Residual blocks at each scale, each way.
    patch
        Pixels along each axis folded into the channels.
    condition
        Features of the scan that the network is given (`ScanCondition`); 0 for none.
    """

    def __init__(
        self, channels: Sequence[int] = (32, 64, 96), blocks: int = 1, patch: int = 2, condition: int = 0
    ) -> None:
        super().__init__()
        self.network = MultiScale(channels, blocks, patch, condition=condition)

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        """Complex ``(b, ro, pe)`` and, if conditioned, ``(b, condition)`` to complex64 ``(b, ro, pe)``."""
        scale = root_mean_square(image)
        return image + scale * as_complex(self.network(as_channels(image / scale), condition=condition))


DENOISERS: dict[str, Callable[..., nn.Module]] = {"published": PublishedDenoiser, "unet": UnetDenoiser}


def build_denoiser(config: NetworkConfig) -> nn.Module:
    """The denoiser that ``config`` names; add your own to ``DENOISERS``.

    Raises
    ------
    InputError
        If there is none of that name or it does not take these settings.
    """
    return build("denoiser", DENOISERS, config)
