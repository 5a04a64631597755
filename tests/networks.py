"""Bundles of random weights, small enough for any test."""

from __future__ import annotations

import torch

from pass_recon.anomaly import BackboneConfiguration, NetAD
from pass_recon.bundles import Bundle
from pass_recon.config import NetworkConfig, ReconstructorConfig, SamplerConfig
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.sampling.personal import LineSampler

TINY_BACKBONE = BackboneConfiguration(
    model={
        "embed_dim": 16,
        "vision_cfg": {"image_size": 48, "layers": 4, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
)


def tiny_bundle(netad: NetAD | None, *, trained: bool = True) -> Bundle:
    """Networks for brain FLAIR at 4×, for 90 lines but good for any.

    Untrained, ours denoise nothing and correct no line; ``trained`` gives random weights to what starts at zero, so
    that each part leaves its mark.
    """
    torch.manual_seed(1)
    networks = NetworkConfig("unet", {"channels": [4, 8]}), NetworkConfig("gated_unet", {"channels": [4, 8]})
    reconstructor = UnrolledReconstructor(ReconstructorConfig(*networks, stages=2, inner_iterations=2))
    sampler = LineSampler(SamplerConfig(lines=90))
    for parameter in (*reconstructor.parameters(), *sampler.parameters()) if trained else ():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return Bundle("tiny", "brain", "flair", 4.0, 0.08, reconstructor, sampler, netad).freeze()
