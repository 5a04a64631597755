"""Settings from a card: what is accepted, what is refused and in which words."""

from __future__ import annotations

import json

import pytest

from pass_recon.common.settings import changed, explained, from_dict, parsed, to_dict
from pass_recon.config import NetworkConfig, ReconstructorConfig, SamplerConfig
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
        ({"stage": 3}, "no setting stage, only cg_iterations"),
        ({"stages": "3"}, "stages must be a valid integer"),
        ({"stages": True}, "stages must be a valid integer"),
        ({"stages": 0}, "stages must be at least 1, got 0"),
        ({"rho": -1.0}, "rho must be positive"),
        ({"positive_weights": 1}, "positive_weights must be a valid boolean"),
        ({"denoiser": "unet"}, "denoiser must be an object"),
        ({"denoiser": None}, "denoiser must be an object"),
        ({"denoiser": {"settings": {}}}, "denoiser.name is missing"),
        ({"denoiser": {"name": "unet", "sizes": 3}}, "no setting denoiser.sizes"),
        (["stages"], "must be a table"),
    ],
)
def test_wrong_settings_are_named(values, words):
    with pytest.raises(InputError, match=words):
        from_dict(ReconstructorConfig, values)


def test_whole_numbers_pass_for_real_ones():
    assert from_dict(ReconstructorConfig, {"rho": 2}).rho == 2


def test_yaml_knows_numbers_as_people_write_them():
    assert [parsed(text) for text in ("1e-3", "-2.5E+2", "3", "[1e0]", "e3", "'1e-3'", "yes")] == [
        0.001, -250.0, 3, [1.0], "e3", "1e-3", True
    ]  # fmt: skip
    assert from_dict(ReconstructorConfig, changed({}, ["rho=1e-1"])).rho == 0.1


def test_changes_reach_into_tables_and_leave_the_original():
    table = {"denoiser": {"name": "unet"}}
    assert changed(table, ["denoiser.settings.channels=[4, 8]", "stages=2"]) == {
        "denoiser": {"name": "unet", "settings": {"channels": [4, 8]}}, "stages": 2
    }  # fmt: skip
    assert table == {"denoiser": {"name": "unet"}}
    with pytest.raises(InputError, match="name=value, got 'stages'"):
        changed(table, ["stages"])
    with pytest.raises(InputError, match="name is no table"):
        changed(table, ["denoiser.name.first=3"])


def test_settings_are_explained_by_their_docstring():
    words = dict(explained(ReconstructorConfig))
    assert words["rho"] == "ρ, the weight of the ADMM split."
    assert words["denoiser"] == words["enhancer"] == "D and G."
    assert all(words.values())
