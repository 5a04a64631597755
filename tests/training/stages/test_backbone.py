"""A CLIP of our own: what counts as a positive, what degradation keeps, that tokens learn, and going on bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pass_recon.anomaly.configuration import SMALL_BACKBONE
from pass_recon.anomaly.netad import text_logits
from pass_recon.anomaly.prompts import state_features
from pass_recon.physics.fourier import fft1c
from pass_recon.types import Box
from tests.networks import TINY_BACKBONE
from tests.training.small import EXAMINATIONS, stopped_after
from training.data.augmentation import degrade, moved
from training.data.images import UNNAMED, drawn, lesion_classes, open_images, stacked, written_caption
from training.engine.run_folder import load_weights
from training.stages.backbone import (
    BackboneObjective,
    BackboneSettings,
    contrast_with_captions,
    load_backbone,
    train_backbone,
)
from training.stages.backbone_stem import Crops, dense_loss
from training.stages.netad import NetADSettings, build_detectors


def tiny_settings(**changes: Any) -> BackboneSettings:
    given = {
        "steps": 4,
        "batch": 4,
        "epoch": 4,
        "warmup": 1,
        "size": 48,
        "examinations": EXAMINATIONS,
        "validation_slices": 8,
    }
    return BackboneSettings(**{**given, "model": dict(TINY_BACKBONE.model), **changes})


def test_different_captions_give_the_loss_of_clip():
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    diagonal = torch.arange(5)
    expected = (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2
    torch.testing.assert_close(contrast_with_captions(logits, list("abcde")), expected)


def test_equal_captions_are_positives():
    captions = ["no lesion", "edema", "no lesion"]
    perfect = torch.tensor([[9.0, -9, 9], [-9, 9, -9], [9, -9, 9]])
    # Two positives of equal score cannot do better than one half each: log 2 for those two rows of three.
    expected = 2 / 3 * torch.log(torch.tensor(2.0))
    torch.testing.assert_close(contrast_with_captions(perfect, captions), expected, atol=1e-4, rtol=0)
    # Taken for different, the same scores cost as much; pulled apart as those would have it, more than that.
    apart = torch.tensor([[9.0, -9, -9], [-9, 9, -9], [-9, -9, 9]])
    assert contrast_with_captions(apart, captions) > 5 > 0.1 > contrast_with_captions(apart, list("abc"))


@pytest.mark.parametrize("lines", [48, 45])
@pytest.mark.parametrize("fraction", [0.08, 0.3])
def test_degradation_keeps_acs_lines_and_weakens_the_others(lines, fraction):
    image = torch.randn(8, lines, dtype=torch.complex64, generator=torch.Generator().manual_seed(2))
    before, after = (fft1c(x, -1) for x in (image, degrade(image, fraction, 0.25)))
    count = round(fraction * lines)
    first = lines // 2 - count // 2
    acs = slice(first, first + count)
    torch.testing.assert_close(after[:, acs], before[:, acs], atol=1e-5, rtol=0)
    torch.testing.assert_close(after[:, :first], 0.25 * before[:, :first], atol=1e-5, rtol=0)
    gone = fft1c(degrade(image, fraction), -1)[:, first + count :]
    assert float(gone.abs().max()) < 1e-5


def test_lesions_move_with_the_image():
    image, classes = torch.zeros(48, 48, dtype=torch.complex64), torch.zeros(48, 48, dtype=torch.uint8)
    image[20:30, 15:22], classes[20:30, 15:22] = 1.0, 3
    for seed in range(8):
        seen, regions = moved(image, classes, torch.Generator().manual_seed(seed))
        assert set(regions.unique().tolist()) == {0, 3}
        overlap = ((seen.abs() > 0.5) & (regions > 0)).sum() / (regions > 0).sum()
        assert float(overlap) > 0.9


def test_pixels_know_their_finding():
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[2:8, 2:8] = mask[15, 15] = True
    boxes = [Box(2, 2, 6, 6, 1.0, "Craniotomy"), Box(3, 3, 2, 2, 1.0, "Mass"), Box(15, 15, 1, 1, 1.0, "odd")]
    classes = lesion_classes(mask, boxes, "brain")
    assert classes[7, 7] != classes[3, 3] > 0
    assert classes[15, 15] == UNNAMED
    assert not classes[~mask].any()


def test_unlabelled_captions_say_nothing_on_health():
    assert written_caption("brain", "t1", (), -1) == "T1 MRI, brain."
    assert "no lesion" in written_caption("brain", "t1", (), 0)
    assert "a mass" in written_caption("brain", "t1", (Box(0, 0, 1, 1, 1.0, "Mass"),), 1)


def test_doubtful_tokens_count_only_where_reviewed():
    logits = torch.full((4, 1, 40), -9.0)
    logits[:, :, 7] = 8.0  # the detector sees something that nobody marked
    covered = torch.zeros(1, 40)
    assert dense_loss(logits, covered, torch.tensor([True])) > 1
    assert dense_loss(logits, covered, torch.tensor([False])) < 0.1


def test_both_towers_learn(data):
    objective = BackboneObjective(tiny_settings())
    sources = open_images([data], "train", EXAMINATIONS, 48)
    batch = stacked([source[number] for source in sources for number in source.abnormal[:2]])
    objective(batch, torch.Generator().manual_seed(0))["loss"].backward()
    for name, weight in objective.named_parameters():
        assert weight.grad is not None, name


@pytest.mark.parametrize("model", [TINY_BACKBONE.model, SMALL_BACKBONE.model])
def test_detectors_begin_with_what_the_backbone_knows(data, tmp_path, model):
    train_backbone(tiny_settings(model=dict(model), steps=1, local_steps=1, local_images=2), [data], tmp_path, "cpu")
    netads = build_detectors(NetADSettings(backbone=str(tmp_path)), EXAMINATIONS)
    netad = netads["knee-pd"]
    for level in netad.adapters[:-1]:  # what they return to the stream is noise as yet
        level.pixel.expand.weight.data.zero_()
        level.image.expand.weight.data.zero_()
    objective = BackboneObjective(tiny_settings(model=dict(model)))
    objective.load_state_dict(load_weights(tmp_path))
    image = torch.rand(2, 48, 48)
    logits = text_logits(objective.tokens(image)[1], state_features(objective.encode, "knee"))
    torch.testing.assert_close(text_logits(netad._features(image)[0][0], netad.text), logits, atol=1e-3, rtol=1e-3)


def test_every_other_crop_shows_a_lesion(data):
    settings = tiny_settings(model=dict(SMALL_BACKBONE.model), local_images=6)
    objective = BackboneObjective(settings)
    pixels, mask, reviewed = Crops(objective.backbone, open_images([data], "train", EXAMINATIONS, 48), settings).batch(
        0
    )
    assert pixels.shape == (16, 3, 120, 120)
    assert mask.shape == (16, 120, 120)
    assert bool(mask[1::2].flatten(1).any(1).all())
    assert bool(reviewed.all())


def test_kinds_take_turns_and_larger_sources_come_more_often():
    class Named(list):
        examination, normal, abnormal, others = "brain-t1", [0], [0], []

    class Knees(Named):
        examination = "knee-pd"

    sources: Any = [Named(["small"]), Named(["large"] * 4), Knees(["knee"])]
    seen = [drawn(sources, 0, place) for place in range(400)]
    assert seen[1::2] == ["knee"] * 200
    assert 20 < seen.count("small") < 60 < seen.count("large")


def test_goes_on_bit_for_bit_and_loads(data, tmp_path):
    settings = tiny_settings(checkpoint_minutes=1e-9)
    train_backbone(settings, [data], tmp_path / "whole", "cpu")
    stopped_after(2, train_backbone, settings, data, tmp_path / "resumed")
    train_backbone(settings, [data], tmp_path / "resumed", "cpu")
    for key, weight in load_weights(tmp_path / "whole").items():
        assert torch.equal(weight, load_weights(tmp_path / "resumed")[key]), key
    clip, tokenizer, configuration = load_backbone(tmp_path / "whole")
    assert clip.text(tokenizer(["an MR image"])).shape == (1, 16)
    assert torch.equal(clip.visual.conv1.weight, load_weights(tmp_path / "whole")["backbone.visual.conv1.weight"])
    assert configuration.model["embed_dim"] == 16
