"""Intervals over patients, against the closed form, scipy, and the same thing spelled out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from training.evaluate.statistics import bootstrap, cluster_weights


def test_one_slice_a_patient_gives_the_normal_interval():
    values = np.random.default_rng(0).normal(30, 2, 500)
    found = bootstrap(values, [f"p{number}" for number in range(500)], resamples=4000)
    half = 1.96 * values.std() / np.sqrt(500)
    assert found.mean == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.06)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.1 * half)


def test_copies_of_a_slice_add_no_certainty():
    values, patients = np.array([1.0, 2.0, 4.0, 9.0]), ["a", "b", "c", "d"]
    once = bootstrap(values, patients)
    copied = bootstrap(np.repeat(values, 50), [name for name in patients for _ in range(50)])
    pretended = bootstrap(np.repeat(values, 50), [str(number) for number in range(200)])
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    assert pretended.high - pretended.low < 0.3 * (once.high - once.low)
    assert (copied.n, copied.patients) == (200, 4)


def test_patients_of_different_sizes_are_drawn_whole():
    values, patients = np.arange(7.0) ** 2, ["b", "a", "b", "c", "c", "c", "a"]
    weights = cluster_weights(3, 300, seed=4)
    means = []
    for row in weights:
        drawn = [value for name, times in zip("abc", row, strict=True) for _ in range(int(times))
                 for value, owner in zip(values, patients, strict=True) if owner == name]  # fmt: skip
        means.append(np.mean(drawn))
    found = bootstrap(values, patients, resamples=300, seed=4)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))))
    assert (weights.sum(1) == 3).all()


def test_without_numbers_there_is_no_interval():
    assert bootstrap([np.nan], ["a"]) is None
    alone = bootstrap([1.0, 3.0, np.nan], ["a", "a", "b"])
    assert (alone.mean, alone.low, alone.high, alone.n, alone.patients) == (2.0, None, None, 2, 1)


def test_the_seed_decides():
    values, patients = np.random.default_rng(0).normal(size=20), [str(number) for number in range(20)]
    assert bootstrap(values, patients, seed=1) == bootstrap(values, patients, seed=1)
    assert bootstrap(values, patients, seed=1) != bootstrap(values, patients, seed=2)
