"""G, the anomaly-aware enhancer: complex image ``(b, ro, pe)`` and anomaly map ``(b, ro, pe)`` to complex image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from pass_recon.config import NetworkConfig
from pass_recon.networks import as_channels, as_complex, build, root_mean_square
from pass_recon.reconstruction.blocks import MultiScale, group_norm_block, group_norm_head


class PublishedEnhancer(nn.Module):
    """``G(x, map) = x + f(gate(map) ⊙ features(x))`` as published, gate ending in a sigmoid, GroupNorm elsewhere.

    As with the published denoiser, images must peak at about 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.Sigmoid()
        )
        self.features = nn.Sequential(*group_norm_block(2, 64), *group_norm_block(64, 64))
        widths = (64, 128, 128, 64, 64)
        bricks = [layer for pair in pairwise(widths) for layer in group_norm_block(*pair)]
        self.layers = nn.Sequential(*bricks, *group_norm_head(64))

    def forward(self, image: Tensor, anomaly_map: Tensor) -> Tensor:
        """Complex ``(b, ro, pe)`` and real ``(b, ro, pe)`` to complex64 ``(b, ro, pe)``."""
        gated = self.features(as_channels(image)) * self.gate(anomaly_map.unsqueeze(1))
        return image + as_complex(self.layers(gated))


class GatedUnetEnhancer(nn.Module):
    """``G(x, map) = x + s·f(x / s, map)``, f a multi-scale network whose features the map scales up or down.

    ``G(a·x, map) = a·G(x, map)`` for every a > 0, as for ``UnetDenoiser``, whose parameters it shares.
    """

    def __init__(
        self, channels: Sequence[int] = (32, 64, 96), blocks: int = 1, patch: int = 2, condition: int = 0
    ) -> None:
        super().__init__()
        self.network = MultiScale(channels, blocks, patch, gated=True, condition=condition)

    def forward(self, image: Tensor, anomaly_map: Tensor, condition: Tensor | None = None) -> Tensor:
        """Complex and real ``(b, ro, pe)``, if conditioned ``(b, condition)``, to complex64 ``(b, ro, pe)``."""
        scale = root_mean_square(image)
        change = self.network(as_channels(image / scale), anomaly_map.unsqueeze(1), condition)
        return image + scale * as_complex(change)


ENHANCERS: dict[str, Callable[..., nn.Module]] = {"published": PublishedEnhancer, "gated_unet": GatedUnetEnhancer}


def build_enhancer(config: NetworkConfig) -> nn.Module:
    """The enhancer that ``config`` names; add your own to ``ENHANCERS``.

    Raises
    ------
    InputError
        If there is none of that name or it does not take these settings.
    """
    return build("enhancer", ENHANCERS, config)
