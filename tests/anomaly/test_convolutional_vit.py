"""Our tower with a convolutional stem: built by open_clip, resized and restored like any other."""

from __future__ import annotations

import copy

import torch

from pass_recon.anomaly import Backbone, NetAD
from pass_recon.anomaly.backbone import resize_positions
from pass_recon.anomaly.clip_source import load_clip
from pass_recon.anomaly.configuration import SMALL_BACKBONE


def test_tokens_see_beyond_their_patch_but_stay_in_place() -> None:
    stem = Backbone.load(SMALL_BACKBONE).visual.trunk.patch_embed
    pixels = torch.zeros(1, 3, 240, 240)
    spot = pixels.clone()
    spot[..., 102, 54] = 1.0
    with torch.no_grad():
        change = (stem(spot) - stem(pixels)).norm(dim=-1).reshape(20, 20)
    row, column = divmod(int(change.argmax()), 20)
    assert abs(row - 102 // 12) <= 1
    assert abs(column - 54 // 12) <= 1
    assert float(change[6, 4]) > 0


def test_the_tower_without_timm_is_the_one_with_it() -> None:
    clip, _ = load_clip(SMALL_BACKBONE)
    ours, theirs = Backbone.load(SMALL_BACKBONE), Backbone(clip.visual, SMALL_BACKBONE)
    assert type(ours.visual) is not type(theirs.visual)
    state = {name: torch.randn_like(weight) / 10 for name, weight in theirs.visual.state_dict().items()}
    pixels = torch.rand(2, 3, 240, 240)
    for tower in (ours.visual, theirs.visual):
        tower.load_state_dict(state)
    assert torch.allclose(ours.visual(pixels), theirs.visual(pixels), atol=1e-4)
    for tower in (ours.visual, theirs.visual):
        resize_positions(tower, (96, 120))
    assert torch.allclose(ours.visual(pixels[..., :96, :120]), theirs.visual(pixels[..., :96, :120]), atol=1e-4)


def test_another_size_keeps_weights_and_fingerprint() -> None:
    backbone = Backbone.load(SMALL_BACKBONE)
    resized = Backbone(copy.deepcopy(backbone.visual), SMALL_BACKBONE.replace(image_size=(96, 120)))
    assert resized.grid == (8, 10)
    assert resized.fingerprint() == backbone.fingerprint()
    found: list[torch.Tensor] = []

    def keep(_level: int, tokens: torch.Tensor) -> torch.Tensor:
        found.append(tokens)
        return tokens

    with torch.no_grad():
        assert resized(torch.rand(1, 96, 120), keep).shape == (1, 96)
    assert [tokens.shape for tokens in found] == [(1, 81, 96)] * 4


def test_detector_restores_from_what_it_stores() -> None:
    clip, tokenizer = load_clip(SMALL_BACKBONE)
    netad = NetAD.from_clip(clip, tokenizer, SMALL_BACKBONE, anatomy="knee")
    images = torch.rand(2, 64, 48)
    netad.remember([images], size=8)
    restored = NetAD.restore(netad.configuration.to_dict(), netad.weights())
    torch.testing.assert_close(restored(images).map, netad(images).map)
    half = {name: weight.float() for name, weight in netad.weights(torch.float16).items()}
    assert NetAD.restore(netad.configuration, half).backbone.fingerprint() == netad.backbone.fingerprint()


def test_reduction_is_norm_and_projection() -> None:
    visual = load_clip(SMALL_BACKBONE)[0].visual
    torch.nn.init.normal_(visual.trunk.norm.weight)
    tokens = torch.randn(5, 96)
    expected = visual.head(visual.trunk.norm(tokens))
    reduction = Backbone(visual, SMALL_BACKBONE).reduction()
    assert reduction is not None
    found = tokens @ reduction.T
    torch.testing.assert_close(torch.cosine_similarity(found, expected), torch.ones(5))
