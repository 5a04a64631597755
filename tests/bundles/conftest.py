"""Bundles small enough to be written by each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pass_recon.anomaly import BackboneConfiguration, NetAD
from pass_recon.bundles import Bundle, save_bundle
from pass_recon.config import NetworkConfig, ReconstructorConfig, SamplerConfig
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.sampling.personal import LineSampler
from tests.anomaly.conftest import TINY as TINY_CLIP

TINY = {"channels": [8, 12], "blocks": 1, "patch": 2}


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, and far slower where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_bundle(netad: NetAD | None = None) -> Bundle:
    """A bundle with random weights in every part."""
    reconstructor = UnrolledReconstructor(
        ReconstructorConfig(denoiser=NetworkConfig("unet", TINY), enhancer=NetworkConfig("gated_unet", TINY))
    )
    personal = NetworkConfig("line_network", {"channels": 4, "hidden": 8, "layers": 1})
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
