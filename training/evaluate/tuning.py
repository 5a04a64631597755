"""λ of L1-wavelet, tuned on other patients: a baseline that was not tuned is no baseline."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from training.evaluate.measures import Job, Record
from training.evaluate.methods import L1
from training.evaluate.selection import EvaluationSettings, SliceEntry, slice_entries

Key = TypeVar("Key", bound=Hashable)

# λ = 2ⁿ. PSNR is so flat around its best that steps of two lose less than 0.05 dB.
_START = (-10, -8, -6)
_LIMITS = (-24, 4)


@dataclass(frozen=True)
class Tuned:
    """λ, its mean PSNR on the tuning slices and that of all λ tried; ``at_limit`` where even the limit was best."""

    weight: float
    psnr: float
    tried: dict[float, float]
    slices: int
    at_limit: bool = False


def best_exponents(
    keys: Sequence[Key], measure: Callable[[list[tuple[Key, int]]], Mapping[tuple[Key, int], float]]
) -> dict[Key, dict[int, float]]:
    """Search n of λ = 2ⁿ for several problems at once, until the best of each lies inside its grid.

    A coarse grid is extended while its best lies on its edge, then both neighbours of the best are tried, so that what
    is taken was better than half of it and than twice of it.

    Parameters
    ----------
    keys
        The problems.
    measure
        From (problem, n) to mean PSNR; called with all that can be done at once. What it leaves out cannot be measured.

    Returns
    -------
    dict
        For each problem, PSNR by n.
    """
    known: dict[Key, dict[int, float]] = {key: {} for key in keys}
    asked = [(key, exponent) for key in keys for exponent in _START]
    while asked:
        found = measure(asked)
        for (key, exponent), value in found.items():
            known[key][exponent] = value
        failed = {key for key, exponent in asked if exponent not in known[key]}
        asked = [(key, exponent) for key in keys if key not in failed for exponent in _next(known[key])]
    return known


def _next(known: Mapping[int, float]) -> list[int]:
    best = max(known, key=lambda exponent: (known[exponent], exponent))
    low, high = min(known), max(known)
    if best == low and low > _LIMITS[0]:
        return [low - 2]
    if best == high and high < _LIMITS[1]:
        return [high + 2]
    around = (best - 1, best + 1)
    return [exponent for exponent in around if exponent not in known and _LIMITS[0] <= exponent <= _LIMITS[1]]


def tuned(exponents: Mapping[int, float], slices: int) -> Tuned:
    """The best of what was tried."""
    best = max(exponents, key=lambda exponent: (exponents[exponent], exponent))
    tried = {2.0**exponent: exponents[exponent] for exponent in sorted(exponents)}
    return Tuned(2.0**best, exponents[best], tried, slices, best in (min(exponents), max(exponents)))


def tuning_entries(
    settings: EvaluationSettings, examination: str, evaluated: Sequence[str], *, measured: bool
) -> list[SliceEntry]:
    """Slices of patients that are not evaluated: from ``--tuning``, or from the validation split of the data.

    Parameters
    ----------
    settings
        What was asked for.
    examination
        Anatomy and contrast.
    evaluated
        Patients on which results are reported.
    measured
        Whether the slices are to have their own noise, or none that could be mistaken for what is added.
    """
    folders = [settings.tuning] if settings.tuning is not None else list(settings.data)
    for folder in folders:
        for split in ("validation", "all") if settings.tuning is not None else ("validation",):
            # Two slices a case, of which the second serves only where there are few patients.
            found = slice_entries(folder, folder.resolve().name, examination, split=split, slices=2, without=evaluated)
            found = [entry for entry in found if entry.measured == measured]
            if found:
                return _spread(found, settings.tuning_slices)
    return []


def tune(
    templates: Mapping[Key, Job],
    entries: Mapping[Key, Sequence[SliceEntry]],
    run: Callable[[list[Job]], list[Record]],
) -> dict[Key, Tuned]:
    """Tune λ of each bundle and noise level by whole-image PSNR on the lines of its own plan.

    Parameters
    ----------
    templates
        A job of each, whose entry and λ are replaced.
    entries
        The tuning slices of each.
    run
        Does jobs, possibly many at once; gives their records in the same order.
    """

    def measure(asked: list[tuple[Key, int]]) -> dict[tuple[Key, int], float]:
        jobs, owners = [], []
        for key, exponent in asked:
            for entry in entries[key]:
                changes = {"entry": entry, "regularisation": 2.0**exponent, "methods": (L1,), "lesion_free": None}
                jobs.append(replace(templates[key], **changes))  # type: ignore[arg-type]
                owners.append((key, exponent))
        found: dict[tuple[Key, int], list[float]] = {}
        for owner, record in zip(owners, run(jobs), strict=True):
            if "failed" not in record:
                found.setdefault(owner, []).append(record["methods"][L1]["psnr"])
        return {owner: float(np.mean(values)) for owner, values in found.items()}

    known = best_exponents(list(templates), measure)
    return {key: tuned(values, len(entries[key])) for key, values in known.items() if values}


def _spread(entries: list[SliceEntry], count: int) -> list[SliceEntry]:
    """First one of each patient, then a second; so many, evenly spread."""
    taken: dict[str, int] = {}
    rounds: list[tuple[int, int, SliceEntry]] = []
    for number, entry in enumerate(entries):
        rounds.append((taken.get(entry.patient, 0), number, entry))
        taken[entry.patient] = taken.get(entry.patient, 0) + 1
    ordered = [entry for *_, entry in sorted(rounds, key=lambda item: item[:2])]
    first = ordered[: max(len(taken), count)]
    step = max(len(first) / count, 1.0)
    return [first[int(number * step)] for number in range(min(count, len(first)))]
