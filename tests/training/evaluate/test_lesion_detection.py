"""Lesion by lesion: what counts as found, the free-response curve, and the command for it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pass_recon.types import Box
from pass_recon_cli.main import main
from training.evaluate.lesion_detection import chosen_threshold, free_response, share_at
from training.evaluate.lesion_matching import THRESHOLDS, hits, intersection_over_union, lesion_boxes, match_lesions

TRUE = Box(10, 10, 8, 8)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(12, 12, 4, 4), True),  # inside
        (Box(6, 6, 16, 16), True),  # around
        (Box(10, 16, 8, 8), True),  # beside, its centre within the margin
        (Box(10, 22, 8, 8), False),
        (Box(0, 0, 64, 64), False),  # the whole image is no finding
    ],
)
def test_what_counts_as_a_hit(box, expected):
    assert hits(box, TRUE) is expected


def test_intersection_over_union_by_counting_pixels():
    masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    one, other = Box(3, 5, 10, 20), Box(8, 0, 9, 12)
    for mask, box in zip(masks, (one, other), strict=True):
        mask[box.readout : box.readout + box.readout_size, box.phase : box.phase + box.phase_size] = True
    expected = float((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())
    assert intersection_over_union(one, other) == pytest.approx(expected)
    assert intersection_over_union(one, Box(30, 30, 4, 4)) == 0.0


def test_a_perfect_map_finds_all_and_a_spot_elsewhere_is_false():
    mask = torch.zeros(2, 48, 48, dtype=torch.bool)
    mask[0, 5:12, 5:14] = mask[0, 30:40, 20:32] = True
    truth = [lesion_boxes(each) for each in mask]
    assert [len(boxes) for boxes in truth] == [2, 0]
    anomaly_map = 0.99 * mask.float()
    anomaly_map[1, 20:28, 20:28] = 0.5
    # Without names nothing but the map is needed.
    seen = match_lesions(None, SimpleNamespace(map=anomaly_map), truth, pixel_mm=(1.0, 1.0))
    assert seen[0]["found"] == [2] * len(THRESHOLDS)
    assert seen[0]["false"] == [0] * len(THRESHOLDS)
    assert seen[1]["false"] == [int(threshold <= 0.5) for threshold in THRESHOLDS]


def _record(patient: str, lesions: int, found: int, false: int, place: int | None = None):
    """Found from the first threshold to the middle, false boxes only at the first five."""
    count, half = len(THRESHOLDS), len(THRESHOLDS) // 2
    return {
        "patient": patient,
        "by_lesion": {
            "lesions": lesions,
            "found": [found] * half + [0] * (count - half),
            "false": [false] * 5 + [0] * (count - 5),
            "names": [[] if place is None else [place]] * count,
        },
    }


def test_the_curve_counts_lesions_and_images():
    records = [_record("a", 2, 1, 3, 0), _record("b", 1, 1, 0, 2), _record("c", 1, 0, 1), _record("d", 0, 0, 0)]
    summary = free_response(records, resamples=50)
    assert summary["lesions"] == 4
    assert summary["curve"][0] == [1.0, 0.5]
    assert summary["curve"][5] == [0.0, 0.5]
    assert summary["curve"][-1] == [0.0, 0.0]
    assert summary["found"]["0.1"]["mean"] == 0.5
    # Of equal thresholds the last: the fewest boxes.
    assert summary["threshold"] == THRESHOLDS[len(THRESHOLDS) // 2 - 1]
    assert summary["named_first"]["mean"] == 0.5
    assert summary["named_among_three"]["mean"] == 1.0
    assert free_response([_record("d", 0, 0, 0)]) is None


def test_the_share_at_a_rate_is_the_best_that_is_allowed():
    draw = np.random.default_rng(0)
    share, rate = draw.random((5, 9)), draw.random((5, 9))
    for most in (0.0, 0.3, 2.0):
        expected = [max((s for s, r in zip(*row, strict=True) if r <= most), default=0.0)
                    for row in zip(share, rate, strict=True)]  # fmt: skip
        np.testing.assert_allclose(share_at(share, rate, most), expected)
    assert chosen_threshold(np.array([5.0, 4.0, 4.0, 1.0]), np.array([1.0, 0.1, 0.1, 0.0]), 0.1) == 2


def test_the_command_tells_of_simulated_patients(ground, tmp_path, capsys):
    outfile = tmp_path / "lesions.json"
    assert main(["train", "lesions", str(ground.bundle), "--data", str(ground.data), "-o", str(outfile)]) == 0
    (summary,) = json.loads(outfile.read_text()).values()
    assert summary["lesions"] > 0
    assert 0 <= summary["found"]["1"]["mean"] <= 1
    assert "among three" in capsys.readouterr().out
