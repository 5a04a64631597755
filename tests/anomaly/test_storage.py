"""What a bundle stores brings the same detector back, without a text tower, or says why not."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pass_recon.anomaly import Backbone, BackboneConfiguration, NetAD, NetADConfiguration
from pass_recon.types import BundleError, InputError

from .conftest import TINY


@pytest.fixture
def trained(netad: NetAD) -> NetAD:
    netad.remember([torch.randn(2, 48, 48)], size=30)
    netad.map_calibration.temperature.fill_(1.7)
    netad.score_calibration.offset.fill_(-0.3)
    return netad


@pytest.fixture
def elsewhere(trained: NetAD, tmp_path: Path) -> NetAD:
    """The same detector, its vision weights in a file of their own as a downloaded CLIP's are."""
    file = tmp_path / "clip.safetensors"
    save_file({f"visual.{key}": value for key, value in trained.backbone.visual.state_dict().items()}, file)
    backbone = Backbone.load(BackboneConfiguration(model=TINY, path=str(file)))
    configuration = copy.deepcopy(trained.configuration.to_dict())
    configuration["backbone"] = backbone.configuration.to_dict()
    weights = {key: value for key, value in trained.weights().items() if not key.startswith("backbone.")}
    return NetAD.restore(configuration, weights, backbone=backbone)


def test_round_trip_is_exact(trained: NetAD, images: Tensor, tmp_path: Path) -> None:
    save_file(trained.weights(), tmp_path / "netad.safetensors")
    (tmp_path / "card.json").write_text(json.dumps(trained.configuration.to_dict()))
    card = json.loads((tmp_path / "card.json").read_text())
    restored = NetAD.restore(card, load_file(tmp_path / "netad.safetensors"))
    expected, found = trained(images), restored(images)
    assert torch.equal(found.map, expected.map)
    assert torch.equal(found.score, expected.score)
    assert restored.configuration == trained.configuration
    assert restored.memory.tokens == 30
    assert restored.diagnoses[0] == "Nonspecific white matter lesion"
    assert not any(parameter.requires_grad for parameter in restored.backbone.parameters())


def test_half_precision_halves_the_file_and_hardly_changes_the_map(trained: NetAD, images: Tensor) -> None:
    full, half = trained.weights(), trained.weights(torch.float16)
    size = {key: value.numel() * value.element_size() for key, value in full.items()}
    assert sum(v.numel() * v.element_size() for v in half.values()) < 0.51 * sum(size.values())
    restored = NetAD.restore(trained.configuration, half)
    assert float(restored.map_calibration.temperature) == pytest.approx(1.7)
    torch.testing.assert_close(restored(images).map, trained(images).map, atol=0.02, rtol=0)


def test_vision_weights_of_others_are_not_stored(elsewhere: NetAD, trained: NetAD, images: Tensor) -> None:
    weights = elsewhere.weights()
    assert not any(key.startswith("backbone") for key in weights)
    assert {key.split(".")[0] for key in weights} == {
        "adapters",
        "memory",
        "text",
        "finding_text",
        "map_calibration",
        "score_calibration",
    }
    restored = NetAD.restore(elsewhere.configuration.to_dict(), weights)
    assert torch.equal(restored(images).map, trained(images).map)


def test_other_vision_weights_than_trained_on_are_refused(elsewhere: NetAD) -> None:
    file = elsewhere.backbone.configuration.path
    state = load_file(file)
    state["visual.transformer.resblocks.3.mlp.c_fc.weight"] += 0.01
    save_file(state, file)
    with pytest.raises(BundleError, match=r"have the fingerprint .* the adapters were trained on"):
        NetAD.restore(elsewhere.configuration, elsewhere.weights())


def test_backbone_can_be_shared(trained: NetAD, images: Tensor) -> None:
    weights = trained.weights()
    alone = {key: value for key, value in weights.items() if not key.startswith("backbone.")}
    for supplied in (weights, alone):
        restored = NetAD.restore(trained.configuration, supplied, backbone=trained.backbone)
        assert restored.backbone is trained.backbone
        assert torch.equal(restored(images).map, trained(images).map)
    stranger = Backbone.load(BackboneConfiguration(model=TINY))
    with pytest.raises(BundleError, match="fingerprint"):
        NetAD.restore(trained.configuration, weights, backbone=stranger)


def test_wrong_weights_are_named(trained: NetAD) -> None:
    weights = trained.weights()
    del weights["adapters.0.pixel.reduce.weight"]
    weights["adapters.9.pixel.reduce.weight"] = torch.zeros(1)
    weights["memory.bank"] = weights["memory.bank"][:, :, :7]
    with pytest.raises(BundleError) as caught:
        NetAD.restore(trained.configuration, weights)
    message = str(caught.value)
    assert "missing adapters.0.pixel.reduce.weight" in message
    assert "unexpected adapters.9.pixel.reduce.weight" in message
    assert "memory.bank (2, 4, 7, 24) instead of (2, 4, 30, 24)" in message


def test_vision_weights_do_not_slip_into_a_clip_from_elsewhere(elsewhere: NetAD, trained: NetAD) -> None:
    with pytest.raises(BundleError, match=r"unexpected backbone\.visual"):
        NetAD.restore(elsewhere.configuration, trained.weights())


def test_tampered_vision_weights_are_refused(trained: NetAD) -> None:
    weights = trained.weights()
    weights["backbone.visual.proj"] = torch.randn_like(weights["backbone.visual.proj"])
    with pytest.raises(BundleError, match="fingerprint"):
        NetAD.restore(trained.configuration, weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": 4}, "no setting levels, only anatomy"),
        ({"backbone": {"name": "ViT-B-16", "weights": "x"}}, "no setting backbone.weights"),
        ({"score_fraction": 0.0}, "score_fraction must be above 0"),
        ({"calibration": "none"}, "'fitted' or 'min-max'"),
        ({"mix": [0.8, 0.2]}, "mix.2 is missing"),
    ],
)
def test_wrong_configurations_are_refused(trained: NetAD, change: dict[str, object], message: str) -> None:
    with pytest.raises((BundleError, InputError), match=message):
        NetAD.restore({**trained.configuration.to_dict(), **change}, trained.weights())


def test_configuration_needs_a_backbone() -> None:
    with pytest.raises(BundleError, match="backbone is missing"):
        NetADConfiguration.from_dict({"anatomy": "brain"})


def test_unknown_anatomy_is_told_before_anything_is_loaded() -> None:
    with pytest.raises(InputError, match="unknown anatomy 'liver'"):
        NetAD.build(BackboneConfiguration(path="nowhere"), anatomy="liver")
