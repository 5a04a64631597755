"""From records to figures with intervals: one group for each dataset, bundle and noise level."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np

from training.evaluate.bootstrap import Interval, bootstrap
from training.evaluate.detection import detection_summary
from training.evaluate.methods import METHODS, PASS
from training.evaluate.plans import plan_summary
from training.evaluate.records import Record
from training.evaluate.selection import Contender

METRICS = ("psnr", "ssim", "nmse")
# PASS minus each of these: what its lines, its map and its training are worth.
COMPARED = ("population", "equispaced", "no-map", "l1-wavelet", "published")
GroupName = tuple[str, str, float | None]


def grouped(records: Sequence[Record]) -> dict[GroupName, list[Record]]:
    """Records by dataset, bundle and noise level, in a fixed order within each."""
    groups: dict[GroupName, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record["case"], record["slice"])):
        groups[record["dataset"], record["bundle"], record["noise"]].append(record)
    return dict(groups)


def group_summary(records: list[Record], contender: Contender, *, resamples: int, seed: int) -> dict[str, Any]:
    """All figures of one group, as JSON takes them."""
    first = records[0]
    settings = {"resamples": resamples, "seed": seed}
    names = [name for name in METHODS if all(name in record["methods"] for record in records)]
    summary = {
        "dataset": first["dataset"],
        "bundle": first["bundle"],
        "anatomy": contender.kind[0],
        "contrast": contender.kind[1],
        "acceleration": contender.acceleration,
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
            for name in COMPARED
            if {name, PASS} <= set(names)
        },
        "detection": {
            where: found
            for where in ("final", "glimpse")
            if (found := detection_summary(records, where, **settings)) is not None
        },
        "plans": plan_summary(records, **settings),
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
        "plan": METHODS[name].plan,
        **{metric: interval(metric, False) for metric in METRICS},
        "inside": {metric: interval(metric, True) for metric in METRICS},
        "lines": float(np.mean([len(plan["lines"]) for plan in plans])),
        "plan_seconds": float(np.median([plan["seconds"] for plan in plans])),
        "seconds": float(np.median([record["methods"][name]["seconds"] for record in records])),
    }


def _patients(records: Sequence[Record]) -> list[str]:
    return [record["patient"] for record in records]
