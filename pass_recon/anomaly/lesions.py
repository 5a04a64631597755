"""From the anomaly map to findings: boxes, a label for the image, a ranked diagnosis for each box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from pass_recon.anomaly.netad import AnomalyResult, NetAD
from pass_recon.types import Box, InputError

Ranking = tuple[tuple[str, float], ...]
"""Diagnoses and their probabilities, the most probable first."""


@dataclass(frozen=True)
class ImageFindings:
    """What is reported about one image.

    Attributes
    ----------
    label
        ``"abnormal"`` or ``"normal"``, by the image score.
    score
        Probability of an anomaly in the image.
    boxes
        Lesions, the most probable first, each labelled with its first diagnosis.
    rankings
        For each box the diagnoses and their probabilities.
    """

    label: Literal["normal", "abnormal"]
    score: float
    boxes: tuple[Box, ...]
    rankings: tuple[Ranking, ...]


def find_boxes(
    anomaly_map: Tensor,
    *,
    pixel_mm: tuple[float, float] = (1.0, 1.0),
    threshold: float = 0.5,
    minimum_mm: float = 3.0,
) -> tuple[Box, ...]:
    """Boxes around the connected regions of a map above a threshold.

    Pixels connect along edges and corners. A region counts if the circle of its area is at least ``minimum_mm`` across:
    2·√(area / π).

    Parameters
    ----------
    anomaly_map
        ``(ro, pe)`` in 0 to 1.
    pixel_mm
        Pixel size along readout and phase encoding.
    threshold
        A pixel belongs to a region from this value on.
    minimum_mm
        Smallest diameter reported.

    Returns
    -------
        Boxes with the highest value inside the region as score, the highest first.

    Raises
    ------
    InputError
        If the map is not ``(ro, pe)``, or a pixel size is not positive.
    """
    return tuple(box for box, _ in _regions(anomaly_map, pixel_mm, threshold, minimum_mm))


def _regions(
    anomaly_map: Tensor, pixel_mm: tuple[float, float], threshold: float, minimum_mm: float
) -> list[tuple[Box, np.ndarray]]:
    """Boxes, and of each the mask ``(ro, pe)`` of its region."""
    if anomaly_map.ndim != 2:
        raise InputError(f"boxes are found in one map (ro, pe), got {tuple(anomaly_map.shape)}")
    if min(pixel_mm) <= 0:
        raise InputError(f"pixel sizes must be positive, got {pixel_mm[0]}×{pixel_mm[1]} mm")
    values = anomaly_map.detach().cpu().numpy()
    labelled, _ = ndimage.label(values >= threshold, structure=np.ones((3, 3)))
    regions = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labelled), start=1):
        mask = labelled == number
        diameter = 2 * math.sqrt(float(mask.sum()) * pixel_mm[0] * pixel_mm[1] / math.pi)
        if diameter >= minimum_mm:
            size = (rows.stop - rows.start, columns.stop - columns.start)
            box = Box(rows.start, columns.start, *size, score=float(values[mask].max()))
            regions.append((box, mask))
    return sorted(regions, key=lambda region: (-region[0].score, region[0].readout, region[0].phase))


def rank_diagnoses(
    features: Tensor, weights: Tensor, finding_text: Tensor, labels: Sequence[str], *, scale: float = 100.0
) -> Ranking:
    """Diagnoses by ``softmax(scale · ⟨pooled, text⟩)``.

    Parameters
    ----------
    features
        ``(rows, columns, channels)`` normalised tokens.
    weights
        ``(rows, columns)`` share of each token in the lesion.
    finding_text
        ``(diagnoses, channels)`` normalised.
    labels
        Names of the diagnoses.
    scale
        Inverse temperature, CLIP's 100.
    """
    pooled = F.normalize((features * weights[..., None]).sum(dim=(0, 1)), dim=0)
    probabilities = (scale * (finding_text @ pooled)).softmax(dim=0)
    order = probabilities.argsort(descending=True, stable=True).tolist()
    values = probabilities.tolist()
    return tuple((labels[index], values[index]) for index in order)


def describe(
    netad: NetAD,
    result: AnomalyResult,
    *,
    pixel_mm: tuple[float, float] = (1.0, 1.0),
    threshold: float = 0.5,
    minimum_mm: float = 3.0,
) -> tuple[ImageFindings, ...]:
    """The findings of each image of a batch.

    Parameters
    ----------
    netad
        The detector that gave ``result``: its fine-grained text features name the lesions.
    result
        ``netad(image)``.
    pixel_mm, threshold, minimum_mm
        As in ``find_boxes``; ``threshold`` also decides the label of the image.
    """
    labels = netad.diagnoses
    findings = []
    for anomaly_map, score, features in zip(result.map, result.score.tolist(), result.features, strict=True):
        boxes, rankings = [], []
        for box, mask in _regions(anomaly_map, pixel_mm, threshold, minimum_mm):
            if labels:
                placed = result.letterbox.place(features.new_tensor(mask)[None])
                weights = F.avg_pool2d(placed, netad.backbone.patch)[0]
                ranking = rank_diagnoses(features, weights, netad.finding_text, labels)
                rankings.append(ranking)
                box = replace(box, label=ranking[0][0])
            boxes.append(box)
        label: Literal["normal", "abnormal"] = "abnormal" if score >= threshold else "normal"
        findings.append(ImageFindings(label, score, tuple(boxes), tuple(rankings)))
    return tuple(findings)
