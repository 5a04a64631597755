"""Settings from a card: what is accepted, what is refused and in which words."""

from __future__ import annotations

import json

import pytest

from pass_recon.config import NetworkConfig, ReconstructorConfig, SamplerConfig, from_dict, to_dict
from pass_recon.types import InputError


@pytest.mark.parametrize(
    "settings",
    [
        ReconstructorConfig(),
        ReconstructorConfig(denoiser=NetworkConfig("unet", {"channels": [8, 12]}), stages=1, positive_weights=False),
        SamplerConfig(),
        SamplerConfig(lines=17, personal=None),
    ],
)
def test_settings_survive_json(settings):
    assert from_dict(type(settings), json.loads(json.dumps(to_dict(settings)))) == settings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"stage": 3}, "has no stage"),
        ({"stages": "3"}, "stages must be int"),
        ({"stages": True}, "stages must be int"),
        ({"stages": 0}, "stages must be at least 1, got 0"),
        ({"rho": -1.0}, "rho must be positive"),
        ({"positive_weights": 1}, "positive_weights must be bool"),
        ({"denoiser": "unet"}, "denoiser must be NetworkConfig"),
        ({"denoiser": None}, "denoiser must be NetworkConfig"),
        ({"denoiser": {"settings": {}}}, "name"),
        ({"denoiser": {"name": "unet", "sizes": 3}}, "NetworkConfig has no sizes"),
        (["stages"], "must be a table"),
    ],
)
def test_wrong_settings_are_named(values, words):
    with pytest.raises(InputError, match=words):
        from_dict(ReconstructorConfig, values)


def test_whole_numbers_pass_for_real_ones():
    assert from_dict(ReconstructorConfig, {"rho": 2}).rho == 2
