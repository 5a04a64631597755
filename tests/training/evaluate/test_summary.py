"""Differences of methods and of plans on records made by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from training.evaluate.report import markdown
from training.evaluate.statistics import as_plain, difference, grouped, plan_summary, value


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
        planned("a", 0, [0, 1], population=[0, 1], lesion_free=[0, 9]),
        planned("a", 1, [0, 9], population=[0, 1]),  # no pair with the slice above: the same patient
        planned("b", 0, [8, 9], population=[0, 1]),
        planned("c", 0, [0, 1], size=12, population=[0, 1]),  # of another size, so with no one to compare to
    ]
    found = plan_summary(records, resamples=50, seed=0)
    assert found["high_frequency_lines"] == 2
    assert found["between_patients"] == pytest.approx((2 + 1) / 2)
    assert found["from_population"].mean == pytest.approx((0 + 1 + 2 + 0) / 4)
    assert (found["from_lesion_free"].mean, found["from_lesion_free"].n) == (1.0, 1)


def test_nothing_that_json_does_not_know_is_written():
    assert json.loads(json.dumps(as_plain({"a": [np.float64(2), float("nan"), (1, "x")]}), allow_nan=False)) == {
        "a": [2.0, None, [1, "x"]]
    }


def page_of(groups: list[dict]) -> str:
    empty = {"left_out": {}, "failed": [], "without_data": [], "tuning": [], "bundles": {}, "figures": []}
    told = {"command": "", "settings": {"maps": "true", "split": "test"}, "published": None, "software": {}}
    return markdown({**empty, **told, "groups": groups})


def test_an_empty_page_is_still_a_page():
    assert page_of([]).startswith("# Evaluation")


def test_the_page_begins_with_all_bundles_side_by_side():
    def interval(mean: float) -> dict:
        return {"mean": mean, "low": mean - 1, "high": mean + 1}

    def group(bundle: str, contrast: str, acceleration: float, population: float | None) -> dict:
        result = {"ssim": interval(0.9), "inside": {"psnr": None}, "plan_seconds": 0.0, "seconds": 0.0}
        methods, differences = {"pass": result | {"psnr": interval(40.0)}}, {}
        if population is not None:
            methods["population"] = result | {"psnr": interval(population)}
            differences["population"] = {"whole": interval(40 - population), "inside": None}
        of = {"dataset": "d", "bundle": bundle, "anatomy": "brain", "contrast": contrast, "acceleration": acceleration}
        counts = {"patients": 2, "slices": 2, "lesions": 0, "slices_with_lesions": 0}
        found = {"methods": methods, "differences": differences, "detection": {}, "plans": None}
        return of | counts | found | {"noise": 0.01}

    page = page_of(
        [group("t1-8x", "t1", 8.0, None), group("t1-4x", "t1", 4.0, 39.5), group("fl-4x", "flair", 4.0, 41.0)]
    )
    head, *rows = [line for line in page.split("###")[0].splitlines() if line.startswith("|") and "---" not in line]
    assert head == "| bundle | noise | population lines, same network | PASS |"
    assert rows[:3] == [
        "| fl-4x | σ 0.01 | 41.00 / 0.900 | 40.00 / 0.900 |",
        "| t1-4x | σ 0.01 | 39.50 / 0.900 | 40.00 / 0.900 |",
        "| t1-8x | σ 0.01 | – | 40.00 / 0.900 |",
    ]
    # What no bundle has, here lesions and plans, takes no column.
    assert rows[3:] == [
        "| bundle | noise | patients | PASS | over population lines, same network, whole image |",
        "| fl-4x | σ 0.01 | 2 | 40.00 [39.00, 41.00] | −1.000 [−2.000, +0.000] |",
        "| t1-4x | σ 0.01 | 2 | 40.00 [39.00, 41.00] | +0.500 [−0.500, +1.500] |",
        "| t1-8x | σ 0.01 | 2 | 40.00 [39.00, 41.00] | – |",
    ]
