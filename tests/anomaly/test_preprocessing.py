"""Any size and scale in, the same geometry out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pass_recon.anomaly.preprocessing import Letterbox, normalise_magnitude
from pass_recon.types import InputError


def test_scale_is_the_percentile_of_each_image() -> None:
    images = torch.randn(3, 50, 41, dtype=torch.complex64) * torch.tensor([1e-6, 1.0, 1e7])[:, None, None]
    scaled = normalise_magnitude(images)
    magnitude = images.abs().numpy().reshape(3, -1)
    for index in range(3):
        limit = np.percentile(magnitude[index], 99.9, method="higher")
        expected = np.minimum(magnitude[index] / limit, 1)
        np.testing.assert_allclose(scaled[index].flatten().numpy(), expected, rtol=1e-5)


def test_one_hot_pixel_does_not_darken_the_rest() -> None:
    image = torch.rand(1, 64, 64)
    hot = image.clone()
    hot[0, 3, 3] = 1000
    difference = (normalise_magnitude(hot) - normalise_magnitude(image)).abs()
    difference[0, 3, 3] = 0
    assert difference.max() < 0.01


def test_empty_and_nearly_empty_images() -> None:
    image = torch.zeros(2, 64, 64)
    image[1, 30, 30] = 5e-9
    scaled = normalise_magnitude(image)
    assert scaled[0].abs().max() == 0
    assert scaled[1].max() == 1


@pytest.mark.parametrize(
    ("shape", "content"),
    [
        ((320, 320), (slice(0, 320), slice(0, 320))),
        ((640, 320), (slice(0, 320), slice(80, 240))),
        ((100, 200), (slice(80, 240), slice(0, 320))),
        ((231, 179), (slice(0, 320), slice(36, 284))),
        ((1, 1000), (slice(159, 160), slice(0, 320))),
    ],
)
def test_aspect_is_kept(shape: tuple[int, int], content: tuple[slice, slice]) -> None:
    assert Letterbox(shape, (320, 320)).content == content


def test_image_of_the_working_size_is_not_touched() -> None:
    image = torch.rand(2, 48, 48)
    assert torch.equal(Letterbox((48, 48), (48, 48)).place(image), image)


@pytest.mark.parametrize("shape", [(48, 48), (96, 50), (31, 77), (24, 24)])
def test_what_is_placed_is_lifted_to_the_same_place(shape: tuple[int, int]) -> None:
    image = torch.zeros(1, *shape)
    row, column = round(0.7 * shape[0]), round(0.3 * shape[1])
    image[0, row - 3 : row + 4, column - 3 : column + 4] = 1
    letterbox = Letterbox(shape, (48, 48))
    grid = torch.nn.functional.avg_pool2d(letterbox.place(image)[:, None], 4)
    lifted = letterbox.lift(grid)[0, 0]
    assert lifted.shape == shape
    weights = lifted / lifted.sum()
    rows, columns = torch.arange(shape[0]), torch.arange(shape[1])
    assert abs(float((weights.sum(1) * rows).sum()) - row) < 1
    assert abs(float((weights.sum(0) * columns).sum()) - column) < 1


def test_tokens_are_those_that_touch_the_image() -> None:
    assert Letterbox((100, 200), (320, 320)).tokens((10, 10)) == (slice(8, 24), slice(0, 32))
    assert Letterbox((90, 200), (320, 320)).tokens((10, 10)) == (slice(8, 24), slice(0, 32))
    assert Letterbox((88, 200), (320, 320)).tokens((10, 10)) == (slice(8, 23), slice(0, 32))
    assert Letterbox((60, 200), (320, 320)).tokens((10, 10)) == (slice(11, 21), slice(0, 32))


def test_image_without_pixels_is_refused() -> None:
    with pytest.raises(InputError, match="0×5"):
        Letterbox((0, 5), (48, 48))
