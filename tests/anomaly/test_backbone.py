"""The token stream is open_clip's own, at every level and size, and what is frozen stays frozen."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import open_clip
import pytest
import torch
from open_clip.model import resize_pos_embed
from torch import Tensor

from pass_recon.anomaly import Backbone, BackboneConfiguration
from pass_recon.anomaly.backbone import level_blocks, resize_positions
from pass_recon.types import InputError

from .conftest import TINY, TINY_TIMM


def stream(backbone: Backbone, pixels: Tensor) -> list[Tensor]:
    """Tokens ``(b, prefix + n, width)`` at the four levels, nothing inserted."""
    levels: list[Tensor] = []

    def keep(level: int, tokens: Tensor) -> Tensor:
        assert level == len(levels)
        levels.append(tokens)
        return tokens

    with torch.no_grad():
        backbone(pixels, keep)
    return levels


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(24, (6, 12, 18, 24)), (12, (3, 6, 9, 12)), (8, (2, 4, 6, 8)), (4, (1, 2, 3, 4)), (32, (8, 16, 24, 32))],
)
def test_levels_are_quarters_of_the_depth(depth: int, blocks: tuple[int, ...]) -> None:
    assert level_blocks(depth) == blocks


def test_too_shallow_a_transformer_is_refused() -> None:
    with pytest.raises(InputError, match="at least 4 blocks, got 3"):
        level_blocks(3)


@pytest.mark.parametrize("size", [(48, 48), (56, 40)])
def test_stream_is_that_of_open_clip(size: tuple[int, int]) -> None:
    backbone = Backbone.load(BackboneConfiguration(model=TINY, image_size=size))
    pixels = torch.rand(2, *size)
    coloured = (pixels[:, None] - torch.tensor(open_clip.OPENAI_DATASET_MEAN)[:, None, None]) / torch.tensor(
        open_clip.OPENAI_DATASET_STD
    )[:, None, None]
    with torch.no_grad():
        reference = backbone.visual.forward_intermediates(
            coloured, indices=[1, 3, 5, 7], output_fmt="NLC", output_extra_tokens=True
        )
    assert backbone.levels == (2, 4, 6, 8)
    for level, tokens in enumerate(stream(backbone, pixels)):
        torch.testing.assert_close(tokens[:, :1], reference["image_intermediates_prefix"][level])
        torch.testing.assert_close(tokens[:, 1:], reference["image_intermediates"][level])


@pytest.mark.parametrize("size", [(160, 160), (128, 176)])
@pytest.mark.parametrize("name", ["test_vit", "test_vit4"])
def test_timm_stream_is_that_of_timm(name: str, size: tuple[int, int]) -> None:
    model = {**TINY_TIMM, "vision_cfg": {**TINY_TIMM["vision_cfg"], "timm_model_name": name}}
    backbone = Backbone.load(BackboneConfiguration(model=model, image_size=size))
    pixels = torch.rand(2, *size)
    coloured = (pixels[:, None] - backbone.mean) / backbone.std
    with torch.no_grad():
        reference = backbone.visual.trunk.forward_intermediates(
            coloured, indices=[block - 1 for block in backbone.levels], output_fmt="NLC", intermediates_only=True
        )
    assert backbone.grid == (size[0] // 16, size[1] // 16)
    for tokens, expected in zip(stream(backbone, pixels), reference, strict=True):
        torch.testing.assert_close(tokens[:, 1:], expected)


def test_timm_embedding_is_that_of_the_projection() -> None:
    backbone = Backbone.load(BackboneConfiguration(model=TINY_TIMM))
    assert (backbone.width, backbone.embed_dim, backbone.size, backbone.prefix) == (64, 24, (160, 160), 1)


def test_what_is_inserted_reaches_the_next_blocks_only() -> None:
    backbone = Backbone.load(BackboneConfiguration(model=TINY))
    pixels = torch.rand(1, 48, 48)
    plain = stream(backbone, pixels)
    levels: list[Tensor] = []

    def halve_at_second(level: int, tokens: Tensor) -> Tensor:
        levels.append(tokens)
        return tokens * 0.5 if level == 1 else tokens

    with torch.no_grad():
        backbone(pixels, halve_at_second)
        expected = plain[1] * 0.5
        for block in backbone.visual.transformer.resblocks[4:6]:
            expected = block(expected)
    torch.testing.assert_close(levels[1], plain[1])
    torch.testing.assert_close(levels[2], expected)
    assert not torch.allclose(levels[2], plain[2])


def test_positions_are_interpolated_as_open_clip_does() -> None:
    small = open_clip.CustomTextCLIP(**TINY)
    vision = {**TINY["vision_cfg"], "image_size": (72, 56)}
    large = open_clip.CustomTextCLIP(**{**TINY, "vision_cfg": vision})
    state = {"visual.positional_embedding": small.visual.positional_embedding.detach()}
    resize_pos_embed(state, large)
    before = small.visual.positional_embedding[0].clone()
    resize_positions(small.visual, (72, 56))
    assert small.visual.positional_embedding.shape == (9 * 7 + 1, 32)
    torch.testing.assert_close(small.visual.positional_embedding.data, state["visual.positional_embedding"])
    assert torch.equal(small.visual.positional_embedding[0], before)


def test_inputs_are_normalised_as_the_clip_expects() -> None:
    configuration = BackboneConfiguration(model=TINY, mean=(0.5, 0.4, 0.3), std=(0.5, 0.2, 0.1))
    backbone = Backbone.load(configuration)
    seen: list[Tensor] = []
    backbone.visual.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    stream(backbone, torch.full((1, 48, 48), 0.8))
    torch.testing.assert_close(seen[0][0, :, 5, 7], torch.tensor([0.6, 2.0, 5.0]))


def test_frozen_and_in_evaluation_mode_whatever_is_asked() -> None:
    model = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "patch_dropout": 0.5}}
    backbone = Backbone.load(BackboneConfiguration(model=model))
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    pixels = torch.rand(1, 48, 48)
    assert stream(backbone, pixels)[0].shape == (1, 37, 32)


def test_two_threads_do_not_meet() -> None:
    backbone = Backbone.load(BackboneConfiguration(model=TINY))
    batches = [torch.rand(1 + number % 3, 48, 48) for number in range(12)]
    expected = [stream(backbone, pixels) for pixels in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pixels: stream(backbone, pixels), batches))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)


def test_two_backbones_on_one_tower_insert_once_each() -> None:
    first = Backbone.load(BackboneConfiguration(model=TINY))
    second = Backbone(first.visual, first.configuration)
    duplicate = copy.deepcopy(first)
    pixels = torch.rand(1, 48, 48)
    for one, other, third in zip(stream(first, pixels), stream(second, pixels), stream(duplicate, pixels), strict=True):
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(one, third)


def test_fingerprint_tells_weights_but_not_sizes_or_storage() -> None:
    configuration = BackboneConfiguration(model=TINY)
    first, second = Backbone.load(configuration), Backbone.load(configuration)
    assert first.fingerprint() != second.fingerprint()
    resized = Backbone(copy.deepcopy(first.visual), configuration.replace(image_size=(64, 32)))
    stored = copy.deepcopy(first).half().float()
    assert first.fingerprint() == resized.fingerprint() == stored.fingerprint()


def test_convolutional_towers_are_refused_by_name() -> None:
    model = {**TINY, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16}}
    with pytest.raises(InputError, match="has a ModifiedResNet"):
        Backbone.load(BackboneConfiguration(model=model))


def test_size_between_patches_is_refused() -> None:
    with pytest.raises(InputError, match=r"50×48 is no multiple of the patch 8×8"):
        Backbone.load(BackboneConfiguration(model=TINY, image_size=(50, 48)))


def test_pixels_of_another_size_are_refused() -> None:
    backbone = Backbone.load(BackboneConfiguration(model=TINY))
    with pytest.raises(InputError, match=r"\(40, 48\) for a working size of \(48, 48\)"):
        stream(backbone, torch.rand(1, 40, 48))
