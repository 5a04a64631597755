"""Bundles small enough to be written by each test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pass_recon.anomaly import BackboneConfiguration, NetAD
from pass_recon.bundles import Bundle, save_bundle
from pass_recon.config import NetworkConfig, ReconstructorConfig, SamplerConfig
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.sampling.personal import LineSampler
from tests.anomaly.conftest import TINY as TINY_CLIP
from tests.threads import one_thread as one_thread

TINY = {"channels": [8, 12], "blocks": 1, "patch": 2}


def small_bundle(netad: NetAD | None = None) -> Bundle:
    """A bundle with random weights in every part."""
    reconstructor = UnrolledReconstructor(
        ReconstructorConfig(denoiser=NetworkConfig("unet", TINY), enhancer=NetworkConfig("gated_unet", TINY))
    )
    personal = NetworkConfig("line_network", {"knots": 5})
    sampler = LineSampler(SamplerConfig(lines=20, personal=personal))
    with torch.no_grad():
        for network in (reconstructor, sampler):
            for parameter in network.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    return Bundle(
        name="tiny",
        anatomy="brain",
        contrast="t1",
        acceleration=4.0,
        acs_fraction=0.08,
        reconstructor=reconstructor,
        sampler=sampler,
        netad=netad,
        card={"data": "random numbers", "licence": "MIT", "metrics": {"psnr": [40.0, 39.0, 41.0]}},
    ).freeze()


@pytest.fixture
def bundle() -> Bundle:
    return small_bundle()


@pytest.fixture
def saved(bundle: Bundle, tmp_path: Path) -> Path:
    return save_bundle(bundle, tmp_path / "tiny")


@pytest.fixture(scope="session")
def tiny_netad() -> NetAD:
    torch.manual_seed(0)
    return NetAD.build(BackboneConfiguration(model=TINY_CLIP), anatomy="brain")
