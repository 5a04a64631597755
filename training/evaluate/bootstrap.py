"""Means with intervals for slices that come several a patient: whole patients are resampled, not slices.

Slices of one patient resemble each other; resampled one by one they would pretend to be more than they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
