"""Boxes are where the map is, no smaller than asked for, and named after what lies inside."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pass_recon.anomaly import AnomalyResult, NetAD, describe, find_boxes
from pass_recon.anomaly.lesions import rank_diagnoses
from pass_recon.anomaly.preprocessing import Letterbox
from pass_recon.types import Box, InputError


def test_boxes_are_exact_and_sorted_by_score() -> None:
    anomaly_map = torch.full((60, 80), 0.1)
    anomaly_map[5:12, 10:30] = 0.7
    anomaly_map[40:60, 70:80] = 0.6
    anomaly_map[45, 75] = 0.95
    assert find_boxes(anomaly_map) == (
        Box(40, 70, 20, 10, score=pytest.approx(0.95)),
        Box(5, 10, 7, 20, score=pytest.approx(0.7)),
    )


def test_threshold_belongs_to_the_region() -> None:
    anomaly_map = torch.zeros(20, 20)
    anomaly_map[4:10, 4:10] = 0.5
    assert len(find_boxes(anomaly_map, threshold=0.5)) == 1
    assert find_boxes(anomaly_map, threshold=0.501) == ()


def test_corners_connect() -> None:
    anomaly_map = torch.zeros(20, 20)
    anomaly_map[2:6, 2:6] = 1
    anomaly_map[6:9, 6:11] = 1
    assert find_boxes(anomaly_map) == (Box(2, 2, 7, 9),)


@pytest.mark.parametrize(
    ("pixel_mm", "found"), [((1.0, 1.0), 0), ((1.4, 1.0), 1), ((1.0, 1.4), 1), ((0.5, 2.0), 0), ((1.4, 0.5), 0)]
)
def test_smallest_size_is_a_diameter_in_millimetres(pixel_mm: tuple[float, float], found: int) -> None:
    anomaly_map = torch.zeros(20, 20)
    anomaly_map[3:6, 3:5] = 1  # 6 pixels: 2.76 mm across at 1 mm², 3.27 mm at 1.4 mm²
    assert len(find_boxes(anomaly_map, pixel_mm=pixel_mm, minimum_mm=3.0)) == found


def test_equal_scores_come_in_order_of_place() -> None:
    anomaly_map = torch.zeros(40, 40)
    for row, column in ((30, 2), (2, 30), (2, 2)):
        anomaly_map[row : row + 5, column : column + 5] = 0.8
    assert [(box.readout, box.phase) for box in find_boxes(anomaly_map)] == [(2, 2), (2, 30), (30, 2)]


def test_empty_and_undefined_maps_have_no_boxes() -> None:
    assert find_boxes(torch.zeros(10, 10)) == ()
    assert find_boxes(torch.full((10, 10), torch.nan)) == ()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InputError, match=r"one map \(ro, pe\), got \(1, 10, 10\)"):
        find_boxes(torch.zeros(1, 10, 10))
    with pytest.raises(InputError, match="pixel sizes must be positive"):
        find_boxes(torch.zeros(10, 10), pixel_mm=(0.0, 1.0))


def test_ranking_is_a_softmax_over_cosines() -> None:
    text = F.normalize(torch.randn(3, 8), dim=-1)
    features = F.normalize(torch.randn(4, 4, 8), dim=-1)
    weights = torch.rand(4, 4)
    pooled = F.normalize(torch.einsum("rc,rce->e", weights, features), dim=0)
    expected = torch.softmax(10 * text @ pooled, dim=0)
    ranking = dict(rank_diagnoses(features, weights, text, ["a", "b", "c"], scale=10))
    assert [ranking[name] for name in "abc"] == pytest.approx(expected.tolist(), rel=1e-5)
    assert list(ranking.values()) == sorted(ranking.values(), reverse=True)


def planted(netad: NetAD, shape: tuple[int, int]) -> AnomalyResult:
    """Two lesions on an image, whose tokens say diagnosis 3 and diagnosis 11; all others say 0."""
    letterbox = Letterbox(shape, netad.backbone.size)
    anomaly_map = torch.zeros(1, *shape)
    tokens = torch.zeros(1, *netad.backbone.grid, dtype=torch.long)
    half = slice(0, shape[1] // 2)
    for rows, value, diagnosis in (
        (slice(0, shape[0] // 3), 0.8, 3),
        (slice(2 * shape[0] // 3, shape[0]), 0.9, 11),
    ):
        anomaly_map[0, rows, half] = value
        lesion = torch.zeros(1, *shape)
        lesion[0, rows, half] = 1
        tokens[F.max_pool2d(letterbox.place(lesion), netad.backbone.patch) > 0] = diagnosis
    return AnomalyResult(anomaly_map, torch.tensor([0.9]), netad.finding_text[tokens], letterbox)


@pytest.mark.parametrize("shape", [(48, 48), (96, 60), (30, 48)])
def test_lesions_are_named_after_the_tokens_inside(netad: NetAD, shape: tuple[int, int]) -> None:
    netad.finding_text.copy_(F.normalize(torch.randn_like(netad.finding_text), dim=-1))
    (found,) = describe(netad, planted(netad, shape))
    assert found.label == "abnormal"
    assert [box.label for box in found.boxes] == [netad.diagnoses[11], netad.diagnoses[3]]
    assert [round(box.score, 3) for box in found.boxes] == [0.9, 0.8]
    for box, ranking in zip(found.boxes, found.rankings, strict=True):
        assert ranking[0][0] == box.label
        assert len(ranking) == len(netad.diagnoses)
        assert sum(probability for _, probability in ranking) == pytest.approx(1, abs=1e-4)


def test_normal_image(netad: NetAD) -> None:
    result = planted(netad, (48, 48))
    quiet = replace(result, map=torch.zeros(1, 48, 48), score=torch.tensor([0.2]))
    (found,) = describe(netad, quiet)
    assert (found.label, found.boxes, found.rankings) == ("normal", (), ())
    assert found.score == pytest.approx(0.2)


def test_batch_from_the_detector_itself(netad: NetAD, images: Tensor) -> None:
    result = netad(images)
    found = describe(netad, result, threshold=float(result.map.quantile(0.9)))
    assert len(found) == 3
    assert all(box.label in netad.diagnoses for item in found for box in item.boxes)
    assert sum(len(item.boxes) for item in found) > 0
