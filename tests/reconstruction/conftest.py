"""Small problems for the unrolled network, with their measured k-space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pass_recon.config import NetworkConfig, ReconstructorConfig
from pass_recon.physics.encoding import SenseOperator
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from tests.threads import one_thread as one_thread

TINY = {"channels": [8, 12], "blocks": 1, "patch": 2}
OURS = ReconstructorConfig(denoiser=NetworkConfig("unet", TINY), enhancer=NetworkConfig("gated_unet", TINY))
PUBLISHED = ReconstructorConfig(
    denoiser=NetworkConfig("published"),
    enhancer=NetworkConfig("published"),
    inner_iterations=5,
    cg_iterations=5,
    positive_weights=False,
)


@dataclass
class Problem:
    image: Tensor
    kspace: Tensor
    coil_maps: Tensor
    line_mask: Tensor


def problem(batch: int = 2, coils: int = 4, shape: tuple[int, int] = (24, 20), *, sampled: float = 0.5) -> Problem:
    """Smooth images and coils of peak about 1, every item with lines of its own."""
    ro, pe = shape
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, ro), torch.linspace(-1, 1, pe), indexing="ij")
    image = torch.stack([torch.exp(-((rows - 0.1 * i) ** 2 + columns**2) * (3 + i)) for i in range(batch)])
    image = torch.polar(image, 0.5 * rows + columns.expand_as(image))
    angles = torch.arange(coils) * (2 * torch.pi / coils)
    near = [torch.exp(-((rows - a.sin()) ** 2 + (columns - a.cos()) ** 2) / 2) for a in angles]
    maps = torch.polar(torch.stack(near), angles[:, None, None] * (rows - columns))
    maps = (maps / torch.linalg.vector_norm(maps, dim=0)).expand(batch, -1, -1, -1).contiguous()
    mask = torch.rand(batch, pe) < sampled
    mask[:, pe // 2 - 2 : pe // 2 + 2] = True
    return Problem(image, SenseOperator(maps, mask).forward(image), maps, mask)


def disturbed(network: nn.Module, size: float = 0.05) -> nn.Module:
    """The network with random changes to all weights: not the identity it starts as, nor anything trained."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += size * torch.randn_like(parameter)
    return network.eval()


def reconstructor(config: ReconstructorConfig, **options: bool) -> UnrolledReconstructor:
    """A network of that configuration with disturbed D and G."""
    network = UnrolledReconstructor(config, **options)
    disturbed(network.denoiser)
    disturbed(network.enhancer)
    for part in (network.denoiser, network.enhancer):
        if config.denoiser.name == "published":
            # Training leaves these at about 0.01 and 0.2; at 1, where they start, rounding grows tenfold a step.
            with torch.no_grad():
                part.layers[-1].weight.mul_(0.1)
    return network.eval()


def bright(image: Tensor) -> Tensor:
    """A stand-in for the anomaly detector."""
    return (image.abs() / image.abs().amax((-2, -1), keepdim=True)).clamp(0, 1)
