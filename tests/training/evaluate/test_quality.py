"""Quality of a slice and of its lesions, against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from pass_recon.metrics import lesion_region, qualities
from pass_recon.types import Box, InputError


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    truth = generator.uniform(0.1, 0.8, (60, 72))
    truth[5, 5] = 1.3  # the peak, outside the region
    return truth + 0.1 * generator.standard_normal(truth.shape), truth


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        (Box(30, 30, 4, 20), (20, 44), (26, 54)),  # 4 grows to 16, 20 stays; both are padded by 4
        (Box(30, 30, 16, 15), (26, 50), (25, 49)),
        (Box(0, 68, 4, 4), (0, 14), (58, 72)),  # cut at two edges, not moved
    ],
)
def test_small_boxes_grow_around_their_centre(box, rows, columns):
    region = lesion_region(box, (60, 72))
    assert ((region[0].start, region[0].stop), (region[1].start, region[1].stop)) == (rows, columns)


def test_a_box_outside_the_image_is_named():
    with pytest.raises(InputError, match=r"readout=60.*60×72"):
        lesion_region(Box(60, 3, 4, 4), (60, 72))


def test_qualities_are_those_of_scikit_image(pair):
    image, truth = pair
    region = lesion_region(Box(30, 30, 4, 20), (60, 72))
    whole, inside = qualities(image * np.exp(0.7j), truth * 1j, [region])
    magnitude, peak = np.abs(image), truth.max()
    assert whole.psnr == pytest.approx(peak_signal_noise_ratio(truth, magnitude, data_range=peak))
    assert whole.ssim == pytest.approx(structural_similarity(truth, magnitude, data_range=peak))
    assert whole.nmse == pytest.approx(normalized_root_mse(truth, magnitude) ** 2)
    assert inside.psnr == pytest.approx(peak_signal_noise_ratio(truth[region], magnitude[region], data_range=peak))
    ssim_map = structural_similarity(truth, magnitude, data_range=peak, full=True)[1]
    assert inside.ssim == pytest.approx(ssim_map[region].mean())
    assert inside.nmse == pytest.approx(normalized_root_mse(truth[region], magnitude[region]) ** 2)


def test_an_error_elsewhere_leaves_the_lesion_alone(pair):
    _, truth = pair
    worse = truth.copy()
    worse[:10, 60:] += 1.0
    region = lesion_region(Box(30, 20, 16, 16), (60, 72))
    whole, inside = qualities(worse, truth, [region])
    assert whole.nmse > 0.01
    assert inside.nmse == 0
    assert inside.ssim == pytest.approx(1)
