"""Areas under curves from counts, against going through all pairs and all thresholds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.evaluate.measures import pixel_histograms, unpacked
from training.evaluate.statistics import (
    average_precision,
    binning_error,
    calibration_error_by_chance,
    detection_summary,
    roc_auc,
)


def brute_auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    pairs = positives[:, None] - negatives[None, :]
    return float((np.sign(pairs) / 2 + 0.5).mean())


def brute_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    total = recall = 0.0
    for threshold in np.unique(scores)[::-1]:
        found = scores >= threshold
        now = labels[found].sum() / labels.sum()
        total, recall = total + (now - recall) * labels[found].mean(), now
    return float(total)


def record(patient: str, label: int, score: float, where: str = "reconstruction") -> dict:
    pixels = pixel_histograms(torch.full((4, 4), score), torch.eye(4, dtype=torch.bool) & (label == 1))
    return {"patient": patient, "label": label, "detection": {where: {"score": score, "pixels": pixels}}}


def test_areas_are_those_of_all_pairs_with_ties():
    generator = np.random.default_rng(1)
    scores, labels = generator.integers(0, 12, 90), generator.integers(0, 2, 90)
    counts = [np.bincount(scores[labels == examination], minlength=12) for examination in (1, 0)]
    assert roc_auc(*counts) == pytest.approx(brute_auc(scores[labels == 1], scores[labels == 0]))
    assert average_precision(*counts) == pytest.approx(brute_precision(scores, labels))
    # Several at once are what each is alone.
    both = [np.stack([part, part[::-1]]) for part in counts]
    assert roc_auc(*both) == pytest.approx([roc_auc(*counts), 1 - roc_auc(*counts)])


@pytest.mark.parametrize("spread", [0.1, 2.0])
def test_bins_of_pixels_cost_less_than_a_thousandth(spread):
    generator = torch.Generator().manual_seed(2)
    lesions = torch.zeros(60, 60, dtype=torch.bool)
    lesions[10:25, 10:25] = True
    anomaly_map = torch.sigmoid(spread * (torch.randn(60, 60, generator=generator) + 0.8 * lesions) - 4)
    counts = [unpacked(group) for group in pixel_histograms(anomaly_map, lesions).values()]
    exact = brute_auc(anomaly_map[lesions].numpy(), anomaly_map[~lesions].numpy())
    assert [part.sum() for part in counts] == [225, 3375]
    assert abs(roc_auc(*counts) - exact) < 1e-3
    assert abs(roc_auc(*counts) - exact) <= binning_error(*counts)


def test_certain_and_impossible_pixels_are_counted():
    lesions = torch.tensor([[True, False]])
    counts = [unpacked(group) for group in pixel_histograms(torch.tensor([[1.0, 0.0]]), lesions).values()]
    assert roc_auc(*counts) == 1
    assert binning_error(*counts) == 0


def test_unlabelled_slices_are_left_out():
    known = [record("a", 1, 0.9), record("a", 0, 0.4), record("b", 1, 0.3), record("b", 0, 0.1)]
    found = detection_summary([*known, record("c", -1, 0.99)], "reconstruction", resamples=200, seed=0)
    assert (found["slices"], found["abnormal"], found["patients"]) == (4, 2, 2)
    assert found["image_auc"].mean == pytest.approx(0.75)
    assert found["image_auc"].low <= 0.75 <= found["image_auc"].high == 1
    assert found["image_average_precision"].mean == pytest.approx((1 + 2 / 3) / 2)
    assert found["calibration_error"] == pytest.approx((0.1 + 0.7 + 0.4 + 0.1) / 4)
    assert found["lesion_pixels"] == 8
    assert detection_summary(known, "acs_image", resamples=10, seed=0) is None


def test_without_a_class_there_is_no_area():
    found = detection_summary([record("a", 0, 0.3), record("b", 0, 0.2)], "reconstruction", resamples=10, seed=0)
    assert found["image_auc"] is None
    assert found["pixel_auc"] is None


def test_scores_that_are_right_measure_an_error_by_chance():
    assert calibration_error_by_chance(np.array([0.0, 1.0, 1.0])) == 0
    # All in one bin: the mean distance of k of n from a half, here (1/2 · 3 + 1/6 · 6) / 8 of a third.
    assert calibration_error_by_chance(np.full(3, 0.5), draws=4000) == pytest.approx(0.25, abs=0.01)
    many, few = (calibration_error_by_chance(np.random.default_rng(1).random(n)) for n in (5000, 50))
    assert many < 0.03 < 0.1 < few
