"""A CLIP small enough to build in each test, and a detector on it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from pass_recon.anomaly import BackboneConfiguration, NetAD
from pass_recon.anomaly.clip_source import load_clip
from tests.threads import one_thread as one_thread

TINY: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 48, "layers": 8, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
# The form of BiomedCLIP: the vision tower is a timm model with a linear projection.
TINY_TIMM: dict[str, Any] = {
    "embed_dim": 24,
    "custom_text": True,
    "vision_cfg": {
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 160,
    },
    "text_cfg": TINY["text_cfg"],
}


@pytest.fixture(scope="session")
def tiny_clip() -> tuple[Any, Any]:
    torch.manual_seed(0)
    return load_clip(BackboneConfiguration(model=TINY))


@pytest.fixture(scope="session")
def _untouched(tiny_clip: tuple[Any, Any]) -> NetAD:
    torch.manual_seed(0)
    clip, tokenizer = copy.deepcopy(tiny_clip[0]), tiny_clip[1]
    return NetAD.from_clip(clip, tokenizer, BackboneConfiguration(model=TINY))


@pytest.fixture
def netad(_untouched: NetAD) -> NetAD:
    """A detector of its own for each test: adapters untrained, no memory, not calibrated."""
    return copy.deepcopy(_untouched)


@pytest.fixture
def images() -> Tensor:
    """Three smooth complex images ``(3, 48, 48)``."""
    coarse = torch.randn(3, 12, 12, dtype=torch.complex64)
    parts = torch.nn.functional.interpolate(torch.view_as_real(coarse).permute(0, 3, 1, 2), size=48, mode="bicubic")
    return torch.view_as_complex(parts.permute(0, 2, 3, 1).contiguous())
