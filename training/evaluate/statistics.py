"""From records to figures with intervals: one group for each dataset, bundle and noise level.

Slices of one patient resemble each other; resampled one by one they would pretend to be more than they are. So whole
patients are resampled. Areas under curves come from counts in bins of rising score, so that millions of pixels need
little space.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pass_recon.anomaly.calibration import expected_calibration_error
from training.evaluate.grids import grids
from training.evaluate.measures import PIXEL_GROUPS, Record, unpacked
from training.evaluate.methods import METHODS, PASS
from training.evaluate.selection import EvaluatedBundle

_PERCENT = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval.

    Attributes
    ----------
    mean
        Over all values.
    low, high
        Ends of the interval; None where one patient alone allows none.
    n, patients
        Numbers of values and of patients.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    patients: int


def cluster_weights(clusters: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each cluster is drawn in each resample, ``(resamples, clusters)``; as many draws as clusters."""
    draws = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    return draws.astype(float)


def per_cluster(values: NDArray, clusters: Sequence[str]) -> NDArray[np.float64]:
    """Sums of ``values`` ``(n, ...)`` over the members of each cluster, ``(clusters, ...)``, in order of names."""
    names, members = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, members, values)
    return sums


def bounds(statistics: NDArray) -> tuple[float | None, float | None]:
    """The middle 95 % of the resampled statistics; those that are no numbers, for want of a class, are left out."""
    numbers = statistics[np.isfinite(statistics)]
    if not len(numbers):
        return None, None
    low, high = np.percentile(numbers, _PERCENT)
    return float(low), float(high)


def bootstrap(values: ArrayLike, patients: Sequence[str], *, resamples: int = 2000, seed: int = 0) -> Interval | None:
    """Mean of the values and its interval by the percentile bootstrap over patients.

    Parameters
    ----------
    values
        ``(n,)``; what is not finite is left out.
    patients
        Whose they are.
    resamples
        How many.
    seed
        Of the draws.

    Returns
    -------
    Interval or None
        None where there are no values.
    """
    numbers = np.asarray(values, dtype=float)
    usable = np.isfinite(numbers)
    numbers, owners = numbers[usable], [patient for patient, kept in zip(patients, usable, strict=True) if kept]
    if not owners:
        return None
    sums, counts = per_cluster(numbers, owners), per_cluster(np.ones_like(numbers), owners)
    low = high = None
    if len(sums) > 1:
        weights = cluster_weights(len(sums), resamples, seed)
        low, high = bounds((weights @ sums) / (weights @ counts))
    return Interval(float(numbers.mean()), low, high, len(numbers), len(sums))


METRICS = ("psnr", "ssim", "nmse")
GroupName = tuple[str, str, float | None]


def grouped(records: Sequence[Record]) -> dict[GroupName, list[Record]]:
    """Records by dataset, bundle and noise level, in a fixed order within each."""
    groups: dict[GroupName, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record["case"], record["slice"])):
        groups[record["dataset"], record["bundle"], record["noise"]].append(record)
    return dict(groups)


def group_summary(records: list[Record], bundle: EvaluatedBundle, *, resamples: int, seed: int) -> dict[str, Any]:
    """All figures of one group, as JSON takes them."""
    first = records[0]
    settings = {"resamples": resamples, "seed": seed}
    names = [name for name in METHODS if all(name in record["methods"] for record in records)]
    summary = {
        "dataset": first["dataset"],
        "bundle": first["bundle"],
        "anatomy": bundle.card["anatomy"],
        "contrast": bundle.card["contrast"],
        "acceleration": bundle.acceleration,
        "noise": first["noise"],
        "maps": first["maps"],
        "slices": len(records),
        "patients": len({record["patient"] for record in records}),
        "lesions": sum(record["lesions"] for record in records),
        "slices_with_lesions": sum(record["lesions"] > 0 for record in records),
        "l1_weight": first["l1_weight"],
        "methods": {name: _method(records, name, settings) for name in names},
        "differences": {
            name: {
                "whole": difference(records, PASS, name, inside=False, **settings),
                "inside": difference(records, PASS, name, inside=True, **settings),
            }
            for name in names
            if METHODS[name].compared and PASS in names
        },
        "detection": {
            where: found
            for where in ("reconstruction", "acs_image")
            if (found := detection_summary(records, where, **settings)) is not None
        },
        "plans": plan_summary(records, **settings),
        "grids": grids(records),
    }
    plain: dict[str, Any] = as_plain(summary)
    return plain


def difference(
    records: Sequence[Record], method: str, other: str, *, inside: bool, resamples: int, seed: int
) -> Interval | None:
    """Mean over slices of the first method's PSNR minus the other's, in dB; a slice's lesions count once together."""
    values = [value(record, method, "psnr", inside) - value(record, other, "psnr", inside) for record in records]
    return bootstrap(values, _patients(records), resamples=resamples, seed=seed)


def value(record: Record, method: str, metric: str, inside: bool) -> float:
    """A metric of the whole slice, or its mean over the lesion regions; NaN where there are none."""
    result = record["methods"][method]
    if not inside:
        return float(result[metric])
    return float(np.mean([region[metric] for region in result["inside"]])) if result["inside"] else float("nan")


def as_plain(item: Any) -> Any:
    """Intervals and the like as dictionaries; numbers that are none as None."""
    if is_dataclass(item) and not isinstance(item, type):
        return as_plain(asdict(item))
    if isinstance(item, Mapping):
        return {str(name): as_plain(content) for name, content in item.items()}
    if isinstance(item, list | tuple):
        return [as_plain(content) for content in item]
    if isinstance(item, float | np.floating):
        return float(item) if np.isfinite(item) else None
    return item


def _method(records: Sequence[Record], name: str, settings: Mapping[str, int]) -> dict[str, Any]:
    patients = _patients(records)

    def interval(metric: str, inside: bool) -> Interval | None:
        return bootstrap([value(record, name, metric, inside) for record in records], patients, **settings)

    plans = [record["plans"][record["methods"][name]["plan"]] for record in records]
    return {
        "title": METHODS[name].title,
        "plan": METHODS[name].lines,
        **{metric: interval(metric, False) for metric in METRICS},
        "inside": {metric: interval(metric, True) for metric in METRICS},
        "lines": float(np.mean([len(plan["lines"]) for plan in plans])),
        "plan_seconds": float(np.median([plan["seconds"] for plan in plans])),
        "seconds": float(np.median([record["methods"][name]["seconds"] for record in records])),
    }


def _patients(records: Sequence[Record]) -> list[str]:
    return [record["patient"] for record in records]


def plan_summary(records: list[Record], *, resamples: int, seed: int) -> dict[str, Any] | None:
    """Lines of the personal plan that another plan does not have; only high frequencies can differ.

    Parameters
    ----------
    records
        Of one dataset, bundle and noise level.
    resamples, seed
        Of the bootstrap by patient.

    Returns
    -------
    dict or None
        ``high_frequency_lines``, how many each plan may choose (mean); ``between_patients``, mean over pairs of slices
        of different patients; ``from_population``; ``from_lesion_free``, the same patient without lesions. None without
        plans.
    """
    planned = [record for record in records if "personal" in record["plans"]]
    if not planned:
        return None
    choices = [len(record["plans"]["personal"]["lines"]) - len(record["acs"]) for record in planned]
    return {
        "high_frequency_lines": float(np.mean(choices)),
        "between_patients": mean_between_patients(planned),
        **{
            f"from_{other}": bootstrap(
                [differing(record["plans"]["personal"]["lines"], record["plans"][other]["lines"]) for record in having],
                [record["patient"] for record in having],
                resamples=resamples,
                seed=seed,
            )
            for other in ("population", "lesion_free")
            if (having := [record for record in planned if other in record["plans"]])
        },
    }


def differing(lines: list[int], others: list[int]) -> int:
    """How many of the lines are not among the others."""
    return len(set(lines) - set(others))


def mean_between_patients(records: list[Record]) -> float | None:
    """Mean number of lines by which the plans of two slices of different patients differ; None without such a pair."""
    groups: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        # Line numbers mean the same only in k-spaces of the same size.
        groups[record["size"][1]].append(record)
    total = pairs = 0.0
    for lines, members in groups.items():
        masks = np.stack([_mask(record["plans"]["personal"]["lines"], lines) for record in members])
        patients = np.array([record["patient"] for record in members])
        apart = patients[:, None] != patients[None, :]
        missing = masks.sum(1)[:, None] - masks @ masks.T
        total, pairs = total + float(missing[apart].sum()), pairs + float(apart.sum())
    return total / pairs if pairs else None


def _mask(lines: list[int], count: int) -> NDArray[np.float64]:
    mask = np.zeros(count)
    mask[lines] = 1.0
    return mask


def roc_auc(positives: NDArray, negatives: NDArray) -> NDArray[np.float64]:
    """Probability that a positive scores above a negative, ties counted half; NaN where there is none of either."""
    below = np.cumsum(negatives, axis=-1) - negatives
    wins = (positives * (below + negatives / 2)).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        area: NDArray[np.float64] = wins / (positives.sum(-1) * negatives.sum(-1))
    return area


def score_auc(scores: Tensor, truth: Tensor) -> float:
    """`roc_auc` of scores and of what is true of each, tensors of one shape."""
    values, places = torch.unique(scores.flatten().double().cpu(), return_inverse=True)
    truth = truth.flatten().cpu()
    positives, negatives = (torch.bincount(places[of], minlength=len(values)) for of in (truth, ~truth))
    return float(roc_auc(positives.double().numpy(), negatives.double().numpy()))


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
        ``reconstruction`` or ``acs_image``.
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
    pixels = tuple(np.stack([unpacked(detected["pixels"][group]) for detected in found]) for group in PIXEL_GROUPS)
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
