"""Differences of methods and of plans on records made by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from training.evaluate.plans import plan_summary
from training.evaluate.summary import as_plain, difference, grouped, value
from training.evaluate.tables import markdown


def record(patient: str, index: int, ours: float, theirs: float, inside: list[float] | None = None, **more) -> dict:
    def result(psnr: float, shift: float) -> dict:
        return {"psnr": psnr, "inside": [{"psnr": value + shift} for value in inside or []]}

    return {
        "dataset": "d",
        "bundle": "b",
        "noise": 0.01,
        "case": patient,
        "slice": index,
        "patient": patient,
        "methods": {"pass": result(ours, 2.0), "population": result(theirs, 0.0)},
        **more,
    }


def planned(patient: str, index: int, chosen: list[int], size: int = 10, **others: list[int]) -> dict:
    plans = {"personal": {"lines": [4, 5, *chosen]}} | {
        name: {"lines": [4, 5, *lines]} for name, lines in others.items()
    }
    return {"patient": patient, "slice": index, "size": [8, size], "acs": [4, 5], "plans": plans}


def test_a_paired_difference_sees_what_the_means_hide():
    easy_and_hard = np.linspace(20, 40, 12)
    records = [record(f"p{number}", 0, level + 0.1, level) for number, level in enumerate(easy_and_hard)]
    found = difference(records, "pass", "population", inside=False, resamples=500, seed=0)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert (found.n, found.patients) == (12, 12)
    turned = difference(records, "population", "pass", inside=False, resamples=500, seed=0)
    assert turned.mean == pytest.approx(-0.1)


def test_inside_lesions_only_slices_with_lesions_count():
    records = [record("a", 0, 30, 29, [20.0, 30.0]), record("a", 1, 31, 20), record("b", 0, 32, 20, [40.0])]
    assert value(records[0], "population", "psnr", True) == 25
    assert np.isnan(value(records[1], "pass", "psnr", True))
    found = difference(records, "pass", "population", inside=True, resamples=50, seed=0)
    assert (found.mean, found.n, found.patients) == (2.0, 2, 2)


def test_groups_never_mix_noise_levels_or_datasets():
    records = [record("a", 0, 1, 1), record("b", 0, 1, 1) | {"noise": None}, record("c", 0, 1, 1) | {"dataset": "e"}]
    assert sorted(map(str, grouped(records))) == sorted(
        map(str, [("d", "b", 0.01), ("d", "b", None), ("e", "b", 0.01)])
    )


def test_plans_differ_by_the_lines_that_the_other_lacks():
    records = [
        planned("a", 0, [0, 1], population=[0, 1], twin=[0, 9]),
        planned("a", 1, [0, 9], population=[0, 1]),  # no pair with the slice above: the same patient
        planned("b", 0, [8, 9], population=[0, 1]),
        planned("c", 0, [0, 1], size=12, population=[0, 1]),  # of another size, so with no one to compare to
    ]
    found = plan_summary(records, resamples=50, seed=0)
    assert found["high_frequency_lines"] == 2
    assert found["between_patients"] == pytest.approx((2 + 1) / 2)
    assert found["from_population"].mean == pytest.approx((0 + 1 + 2 + 0) / 4)
    assert (found["from_twin"].mean, found["from_twin"].n) == (1.0, 1)


def test_nothing_that_json_does_not_know_is_written():
    assert json.loads(json.dumps(as_plain({"a": [np.float64(2), float("nan"), (1, "x")]}), allow_nan=False)) == {
        "a": [2.0, None, [1, "x"]]
    }


def test_an_empty_page_is_still_a_page():
    results = {"command": "", "settings": {"maps": "true", "split": "test"}, "groups": [], "left_out": {}, "failed": []}
    page = markdown(
        results | {"without_data": [], "tuning": [], "bundles": {}, "published": None, "figures": [], "software": {}}
    )
    assert page.startswith("# Evaluation")
