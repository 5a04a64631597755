"""The adapters compute what the paper writes, in float64, against plain matrices."""

from __future__ import annotations

import pytest
import torch

from pass_recon.anomaly.adapters import LevelAdapters
from pass_recon.types import InputError


def leaky(values: torch.Tensor) -> torch.Tensor:
    return torch.where(values > 0, values, 0.01 * values)


def test_mix_and_features() -> None:
    level = LevelAdapters(6, 4, prefix=2).double()
    tokens = torch.randn(3, 7, 6, dtype=torch.float64)
    stream, pixel, image = level(tokens)
    h_pixel = leaky(tokens @ level.pixel.reduce.weight.T)
    h_image = leaky(tokens @ level.image.reduce.weight.T)
    y_pixel = leaky(h_pixel @ level.pixel.expand.weight.T)
    y_image = leaky(h_image @ level.image.expand.weight.T)
    torch.testing.assert_close(stream, 0.8 * tokens + 0.1 * y_pixel + 0.1 * y_image)
    torch.testing.assert_close(pixel, h_pixel[:, 2:])
    torch.testing.assert_close(image, h_image[:, 2:])
    assert stream.shape == (3, 7, 6)
    assert pixel.shape == image.shape == (3, 5, 4)


def test_no_bias_anywhere() -> None:
    names = [name for name, _ in LevelAdapters(6, 4).named_parameters()]
    assert names == ["pixel.reduce.weight", "pixel.expand.weight", "image.reduce.weight", "image.expand.weight"]


def test_behind_the_last_block_nothing_is_mixed() -> None:
    level = LevelAdapters(6, 4, last=True)
    tokens = torch.randn(1, 5, 6)
    stream, pixel, _ = level(tokens)
    assert stream is tokens
    assert pixel.shape == (1, 4, 4)
    assert [name for name, _ in level.named_parameters()] == ["pixel.reduce.weight", "image.reduce.weight"]


def test_mix_of_two_weights_is_refused() -> None:
    with pytest.raises(InputError, match="three weights"):
        LevelAdapters(6, 4, mix=(0.8, 0.2))  # type: ignore[arg-type]
