"""How well anomalies are found: areas under curves from counts, so that millions of pixels need little space.

All functions take counts of positives and negatives in bins of rising score, ``(..., bins)``; axes before the bins are
independent, for example resamples of a bootstrap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pass_recon.anomaly.calibration import expected_calibration_error, score_logit
from training.evaluate.bootstrap import Interval, bounds, cluster_weights, per_cluster
from training.evaluate.records import Record

# Probabilities in logits of −14 to 14: where detectors are sure, steps of the probability itself would be too coarse.
BINS, _LIMIT = 2000, 14.0
_GROUPS = ("lesion", "normal")


def pixel_histograms(anomaly_map: Tensor, lesions: Tensor) -> dict[str, Any]:
    """Counts of the map's values in lesion pixels and in all others, by bins of the logit.

    Parameters
    ----------
    anomaly_map
        ``(ro, pe)`` in 0 to 1.
    lesions
        ``(ro, pe)`` bool.
    """
    place = (score_logit(anomaly_map.double()) + _LIMIT) * (BINS / (2 * _LIMIT))
    bins = place.long().clamp(0, BINS - 1)
    groups = dict(zip(_GROUPS, (lesions, ~lesions), strict=True))
    return {name: _packed(torch.bincount(bins[mask], minlength=BINS)) for name, mask in groups.items()}


def unpacked(histogram: dict[str, Any]) -> NDArray[np.float64]:
    """Counts ``(bins,)``."""
    counts = np.zeros(BINS)
    counts[histogram["first"] : histogram["first"] + len(histogram["counts"])] = histogram["counts"]
    return counts


def roc_auc(positives: NDArray, negatives: NDArray) -> NDArray[np.float64]:
    """Probability that a positive scores above a negative, ties counted half; NaN where there is none of either."""
    below = np.cumsum(negatives, axis=-1) - negatives
    wins = (positives * (below + negatives / 2)).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        area: NDArray[np.float64] = wins / (positives.sum(-1) * negatives.sum(-1))
    return area


def binning_error(positives: NDArray, negatives: NDArray) -> float:
    """By how much the area can differ, at most, from that of the scores themselves: as if all ties fell one way."""
    pairs = float(positives.sum() * negatives.sum())
    return float((positives * negatives).sum() / 2 / pairs) if pairs else float("nan")


def average_precision(positives: NDArray, negatives: NDArray) -> NDArray[np.float64]:
    """``Σ (R_n − R_{n−1}) P_n`` over falling thresholds; NaN where there is no positive."""
    found = np.flip(positives, -1)
    true, false = np.cumsum(found, axis=-1), np.cumsum(np.flip(negatives, -1), axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(true + false > 0, true / (true + false), 0.0)
        average: NDArray[np.float64] = (found * precision).sum(-1) / found.sum(-1)
    return average


def detection_summary(records: list[Record], where: str, *, resamples: int, seed: int) -> dict[str, Any] | None:
    """Image-level and pixel-level figures of the slices whose label is known; None where there are none.

    Parameters
    ----------
    records
        Of one dataset, bundle and noise level.
    where
        ``final`` or ``glimpse``.
    resamples, seed
        Of the bootstrap by patient.
    """
    known = [record for record in records if record["label"] >= 0 and where in record["detection"]]
    if not known:
        return None
    found = [record["detection"][where] for record in known]
    patients = [record["patient"] for record in known]
    labels = np.array([record["label"] for record in known], dtype=float)
    scores = np.array([detected["score"] for detected in found])
    values, places = np.unique(scores, return_inverse=True)
    one_hot = np.eye(len(values))[places]
    images = (one_hot * labels[:, None], one_hot * (1 - labels[:, None]))
    pixels = tuple(np.stack([unpacked(detected["pixels"][group]) for detected in found]) for group in _GROUPS)
    weights = cluster_weights(len(set(patients)), resamples, seed)
    total = [group.sum(0) for group in pixels]
    return {
        "slices": len(known),
        "abnormal": int(labels.sum()),
        "patients": len(set(patients)),
        "image_auc": _area(roc_auc, images, patients, weights),
        "image_average_precision": _area(average_precision, images, patients, weights),
        "calibration_error": expected_calibration_error(torch.from_numpy(scores), torch.from_numpy(labels)),
        "calibration_error_by_chance": calibration_error_by_chance(scores, seed=seed),
        "pixel_auc": _area(roc_auc, (pixels[0], pixels[1]), patients, weights),
        "pixel_auc_binning_error": binning_error(total[0], total[1]),
        "pixel_average_precision": _area(average_precision, (pixels[0], pixels[1]), patients, weights),
        "lesion_pixels": int(total[0].sum()),
    }


def calibration_error_by_chance(scores: NDArray, *, draws: int = 200, seed: int = 0) -> float:
    """The calibration error that these scores would measure on average if they were right.

    So few slices in so many bins never agree exactly; what is measured means nothing until it is well above this.
    """
    chance = np.random.default_rng(seed).random((draws, len(scores)))
    labels = torch.from_numpy((chance < scores).astype(float))
    return float(np.mean([expected_calibration_error(torch.from_numpy(scores), drawn) for drawn in labels]))


def _area(curve: Any, counts: tuple[NDArray, NDArray], patients: list[str], weights: NDArray) -> Interval | None:
    """The area of all slices, with its interval over patients; None where a class is missing."""
    by_patient = [per_cluster(group, patients) for group in counts]
    area = float(curve(*(group.sum(0) for group in by_patient)))
    if np.isnan(area):
        return None
    low, high = bounds(curve(*(weights @ group for group in by_patient))) if len(by_patient[0]) > 1 else (None, None)
    return Interval(area, low, high, len(patients), len(by_patient[0]))


def _packed(counts: Tensor) -> dict[str, Any]:
    filled = counts.nonzero().flatten()
    if not len(filled):
        return {"first": 0, "counts": []}
    first, last = int(filled[0]), int(filled[-1])
    return {"first": first, "counts": counts[first : last + 1].tolist()}
