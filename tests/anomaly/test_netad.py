"""The detector: its equation, its gradients, its shapes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pass_recon.anomaly import Backbone, BackboneConfiguration, NetAD, NetADConfiguration
from pass_recon.anomaly.configuration import SMALL_BACKBONE
from pass_recon.anomaly.netad import mean_logit, text_logits
from pass_recon.types import InputError

from .conftest import TINY, TINY_TIMM


def captured(netad: NetAD, image: Tensor) -> dict[str, list[Tensor]]:
    """Features h of both adapters of each level, read off by hooks."""
    found: dict[str, list[Tensor]] = {"pixel": [], "image": []}
    hooks = [
        getattr(level, name).register_forward_hook(lambda _m, _i, output, name=name: found[name].append(output[0]))
        for level in netad.adapters
        for name in found
    ]
    netad(image)
    for hook in hooks:
        hook.remove()
    return found


def test_map_and_score_are_the_equation(netad: NetAD, images: Tensor) -> None:
    netad.remember([torch.randn(2, 48, 48)], size=30)
    result = netad(images, calibrated=False)
    features = captured(netad, images)
    averages = {}
    for branch, (name, levels) in enumerate(features.items()):
        values = []
        for level, tokens in enumerate(levels):
            tokens = F.normalize(tokens[:, 1:], dim=-1)
            zero = (100 * tokens @ netad.text.T).softmax(dim=-1)[..., 1]
            few = 1 - (tokens @ netad.memory.bank[branch, level].T).amax(dim=-1)
            values.append((zero + few) / 2)
        averages[name] = values
    grids = [value.reshape(3, 1, 6, 6) for value in averages["pixel"]]
    maps = [F.interpolate(grid, size=(48, 48), mode="bilinear", align_corners=False)[:, 0] for grid in grids]
    torch.testing.assert_close(result.map, torch.stack(maps).mean(dim=0), atol=1e-5, rtol=1e-5)
    # 2 % of 36 tokens: the highest one of each level
    score = torch.stack([value.amax(dim=-1) for value in averages["image"]]).mean(dim=0)
    torch.testing.assert_close(result.score, score, atol=1e-5, rtol=1e-5)


def test_without_insertion_the_stream_is_that_of_the_clip(tiny_clip: tuple[Any, Any]) -> None:
    clip = copy.deepcopy(tiny_clip[0])
    netad = NetAD.from_clip(clip, tiny_clip[1], BackboneConfiguration(model=TINY), mix=(1.0, 0.0, 0.0))
    pixels = torch.rand(2, 48, 48)
    coloured = (pixels[:, None] - netad.backbone.mean) / netad.backbone.std
    with torch.no_grad():
        expected = tiny_clip[0].visual(coloured)
        pooled = []
        clip.visual.register_forward_hook(lambda _module, _inputs, output: pooled.append(output))
        netad.backbone(pixels, lambda level, tokens: netad.adapters[level](tokens)[0])
    torch.testing.assert_close(pooled[0], expected)


def test_batch_is_one_by_one(netad: NetAD, images: Tensor) -> None:
    netad.remember([torch.randn(2, 48, 48)], size=30)
    together = netad(images)
    for index in range(3):
        alone = netad(images[index : index + 1])
        torch.testing.assert_close(together.map[index], alone.map[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.score[index], alone.score[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(48, 48), (47, 31), (96, 80), (21, 130), (5, 3)])
def test_any_size(netad: NetAD, shape: tuple[int, int]) -> None:
    netad.remember([torch.randn(1, *shape)], size=30)
    result = netad(torch.randn(2, *shape, dtype=torch.complex64))
    assert result.map.shape == (2, *shape)
    assert result.map.dtype == torch.float32
    assert result.score.shape == (2,)
    assert 0 <= result.map.min() <= result.map.max() <= 1
    assert 0 <= result.score.min() <= result.score.max() <= 1


def test_neither_phase_nor_unit_matter(netad: NetAD, images: Tensor) -> None:
    phase = torch.exp(2j * torch.pi * torch.rand(48, 48))
    torch.testing.assert_close(netad(images * phase * 3e-7).map, netad(images.abs()).map, atol=1e-5, rtol=1e-4)


def test_air_around_the_image_does_not_count(netad: NetAD) -> None:
    """The score of a narrow image comes from its own tokens: the padding could be anything."""
    image = torch.rand(1, 48, 16)
    expected = netad(image).score
    features = netad._features(image)[0]
    assert features.shape[3] == 36
    rows, columns = netad(image).letterbox.tokens(netad.backbone.patch)
    assert (rows, columns) == (slice(0, 6), slice(2, 4))
    logits = text_logits(features, netad.text)[1].unflatten(-1, (6, 6))[..., rows, columns].flatten(-2)
    torch.testing.assert_close(torch.sigmoid(logits).amax(-1).mean(0), expected)


def test_map_carries_no_gradient(netad: NetAD, images: Tensor) -> None:
    result = netad(images.requires_grad_())
    assert not result.map.requires_grad
    assert not result.score.requires_grad
    assert not netad.anomaly_map(images).requires_grad


def loss_of(netad: NetAD, images: Tensor) -> Tensor:
    logits = netad.logits(images)
    target = (images.abs() > 1).float()[:, None].expand_as(logits.pixel)
    pixel = F.binary_cross_entropy_with_logits(logits.pixel, target)
    return pixel + F.binary_cross_entropy_with_logits(logits.image, torch.ones_like(logits.image))


def test_gradient_reaches_every_adapter_weight_and_nothing_else(netad: NetAD, images: Tensor) -> None:
    netad.train()
    loss_of(netad, images).backward()
    adapters = {f"adapters.{name}" for name, _ in netad.adapters.named_parameters()}
    assert len(adapters) == 14
    for name, parameter in netad.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert reached == (name in adapters), name


def test_training_leaves_the_backbone_bit_identical(netad: NetAD, images: Tensor) -> None:
    before = copy.deepcopy(netad.state_dict())
    optimiser = torch.optim.AdamW([p for p in netad.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    netad.train()
    loss_of(netad, images).backward()
    optimiser.step()
    for name, value in netad.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("adapters."), name


def test_logits_are_those_of_the_score(netad: NetAD, images: Tensor) -> None:
    logits = netad.logits(images)
    assert logits.pixel.shape == (3, 4, 48, 48)
    torch.testing.assert_close(torch.sigmoid(logits.image).mean(dim=1), netad(images, calibrated=False).score)
    torch.testing.assert_close(logits.features, netad(images).features)


def test_score_over_all_tokens_as_published(tiny_clip: tuple[Any, Any], images: Tensor) -> None:
    clip, tokenizer = copy.deepcopy(tiny_clip[0]), tiny_clip[1]
    netad = NetAD.from_clip(clip, tokenizer, BackboneConfiguration(model=TINY), score_fraction=1.0)
    tokens = [F.normalize(level[:, 1:], dim=-1) for level in captured(netad, images)["image"]]
    zero = [(100 * level @ netad.text.T).softmax(dim=-1)[..., 1].mean(dim=-1) for level in tokens]
    torch.testing.assert_close(netad(images, calibrated=False).score, torch.stack(zero).mean(dim=0))


def test_remembered_image_is_no_few_shot_anomaly(netad: NetAD, images: Tensor) -> None:
    zero_shot = netad(images, calibrated=False)
    netad.remember([images[:2], images[2:]], size=3 * 36)
    assert netad.memory.tokens == 3 * 36
    remembered = netad(images, calibrated=False)
    torch.testing.assert_close(remembered.map, zero_shot.map / 2, atol=1e-6, rtol=0)
    unseen = torch.rand(1, 48, 48)
    few_shot = 2 * netad(unseen, calibrated=False).map
    netad.memory.bank = netad.memory.bank[:, :, :0]
    assert (few_shot - netad(unseen, calibrated=False).map).max() > 1e-3


def test_calibration_applies_to_map_and_score_each_with_its_own(netad: NetAD, images: Tensor) -> None:
    raw = netad(images, calibrated=False)
    netad.map_calibration.temperature.fill_(2.0)
    netad.score_calibration.offset.fill_(1.0)
    result = netad(images)
    torch.testing.assert_close(result.map, torch.sigmoid(torch.logit(raw.map) / 2))
    torch.testing.assert_close(result.score, torch.sigmoid(torch.logit(raw.score) - 1))


def test_min_max_as_published(tiny_clip: tuple[Any, Any], images: Tensor) -> None:
    clip, tokenizer = copy.deepcopy(tiny_clip[0]), tiny_clip[1]
    netad = NetAD.from_clip(clip, tokenizer, BackboneConfiguration(model=TINY), calibration="min-max")
    result, raw = netad(images), netad(images, calibrated=False)
    torch.testing.assert_close(result.map.amin(dim=(1, 2)), torch.zeros(3))
    torch.testing.assert_close(result.map.amax(dim=(1, 2)), torch.ones(3))
    spread = raw.map[1].max() - raw.map[1].min()
    torch.testing.assert_close(result.map[1] * spread + raw.map[1].min(), raw.map[1])
    assert torch.equal(result.score, raw.score)
    assert torch.isfinite(netad(torch.zeros(1, 48, 48)).map).all()


def test_autocast_does_not_coarsen_the_comparison(netad: NetAD, images: Tensor) -> None:
    expected = netad(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = netad(images)
    assert result.map.dtype == torch.float32
    torch.testing.assert_close(result.map, expected.map, atol=0.1, rtol=0)


def test_image_without_a_batch_is_refused(netad: NetAD) -> None:
    with pytest.raises(InputError, match=r"takes images \(b, ro, pe\), got \(48, 48\)"):
        netad(torch.rand(48, 48))


def test_biomedclip_form(images: Tensor) -> None:
    netad = NetAD.build(BackboneConfiguration(model=TINY_TIMM, image_size=(96, 128)), anatomy="knee")
    assert netad(images).map.shape == (3, 48, 48)
    netad.logits(images).pixel.sum().backward()
    assert netad.adapters[0].pixel.expand.weight.grad.abs().sum() > 0


def test_text_features_must_fit(netad: NetAD) -> None:
    configuration = NetADConfiguration(BackboneConfiguration(model=TINY), diagnoses=("a", "b"))
    with pytest.raises(InputError, match=r"\(2, 24\) and \(2, 24\) are needed"):
        NetAD(configuration, netad.backbone, torch.zeros(2, 24), torch.zeros(3, 24))


def squares(count: int, size: int = 48) -> tuple[Tensor, Tensor]:
    """Smooth images, every second with a bright square, and the masks of the squares."""
    images = F.interpolate(torch.rand(count, 1, 6, 6), size=size, mode="bicubic")[:, 0].clamp(0, 1) * 0.6
    masks = torch.zeros(count, size, size)
    for index in range(0, count, 2):
        row, column = torch.randint(4, size - 14, (2,)).tolist()
        masks[index, row : row + 10, column : column + 10] = 1
    return torch.where(masks > 0, torch.tensor(1.0), images), masks


def auc(scores: Tensor, labels: Tensor) -> float:
    """Probability that an anomalous one scores higher than a normal one."""
    ranks = scores.flatten().argsort().argsort().double() + 1
    positive = labels.flatten() > 0
    count = positive.sum()
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (~positive).sum()))


def test_adapters_learn_to_find_bright_squares(netad: NetAD) -> None:
    optimiser = torch.optim.Adam(netad.adapters.parameters(), lr=3e-3)
    for _ in range(60):
        images, masks = squares(8)
        logits = netad.logits(images)
        pixel = F.binary_cross_entropy_with_logits(logits.pixel, masks[:, None].expand_as(logits.pixel))
        labels = masks.amax(dim=(1, 2))[:, None].expand_as(logits.image)
        loss = pixel + F.binary_cross_entropy_with_logits(logits.image, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    images, masks = squares(40)
    result = netad(images, calibrated=False)
    assert auc(result.map, masks) > 0.95
    assert auc(result.score, masks.amax(dim=(1, 2))) > 0.9


@pytest.mark.gpu
def test_cuda_gives_what_the_cpu_gives(netad: NetAD, images: Tensor) -> None:
    netad.remember([images], size=40)
    expected = netad(images)
    found = netad.cuda()(images.cuda())
    torch.testing.assert_close(found.map.cpu(), expected.map, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.score.cpu(), expected.score, atol=1e-3, rtol=0)


def test_small_backbone_is_small() -> None:
    backbone = Backbone.load(SMALL_BACKBONE)
    assert backbone.grid == (20, 20)
    assert sum(p.numel() for p in backbone.parameters()) * 4 < 12e6


def test_logit_of_a_mean_of_probabilities() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0], [200.0, 200.0, 200.0], [-300.0, -300.0, -300.0]])
    mean = torch.sigmoid(logits[0]).mean()
    torch.testing.assert_close(mean_logit(logits), torch.stack([torch.logit(mean), *logits[1:, 0]]))


@pytest.mark.slow
def test_vit_l_14_336_with_random_weights() -> None:
    netad = NetAD.build(BackboneConfiguration(name="ViT-L-14-336", pretrained="random"))
    assert netad.backbone.levels == (6, 12, 18, 24)
    assert (netad.backbone.width, netad.backbone.embed_dim, netad.backbone.grid) == (1024, 768, (24, 24))
    result = netad(torch.randn(1, 320, 320, dtype=torch.complex64))
    assert result.map.shape == (1, 320, 320)
    assert torch.isfinite(result.map).all()
