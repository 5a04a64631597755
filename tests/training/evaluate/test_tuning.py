"""λ of L1-wavelet: found wherever it lies, and never on the patients that are evaluated."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pass_recon.types import InputError
from training.evaluate.measures import Job, measure
from training.evaluate.methods import L1
from training.evaluate.selection import slice_entries
from training.evaluate.tuning import best_exponents, tune, tuned, tuning_entries


def search(best: float, calls: list[int] | None = None) -> dict[int, float]:
    def curve(asked: list[tuple[str, int]]) -> dict[tuple[str, int], float]:
        if calls is not None:
            calls.extend(exponent for _, exponent in asked)
        return {(key, exponent): 30 - 0.1 * (exponent - best) ** 2 for key, exponent in asked}

    return best_exponents(["one"], curve)["one"]


@pytest.mark.parametrize("best", [-19, -13, -8, -7, -2])
def test_the_grid_is_extended_until_the_best_lies_inside(best):
    calls: list[int] = []
    found = tuned(search(best, calls), 1)
    assert found.weight == 2.0**best
    assert not found.at_limit
    assert {2.0 ** (best - 1), 2.0 ** (best + 1)} <= set(found.tried)
    assert len(calls) == len(set(calls))


def test_where_even_the_limit_is_best_it_is_said():
    assert tuned(search(-40), 1).at_limit


def test_what_cannot_be_measured_ends_the_search():
    assert best_exponents(["one"], lambda asked: {}) == {"one": {}}


def test_the_tuned_weight_beats_half_and_twice_of_it(ground, bundle):
    entry = slice_entries(ground.data, "data", bundle.examination, slices=1)[0]
    template = Job(bundle, entry, 0.01, (L1,), iterations=15)
    key = ("tiny", 0.01)
    found = tune({key: template}, {key: [entry]}, lambda jobs: [measure(job) for job in jobs])[key]
    assert not found.at_limit
    around = [
        measure(replace(template, regularisation=factor * found.weight))["methods"][L1]["psnr"]
        for factor in (0.5, 1, 2)
    ]
    assert max(around) == around[1] == found.psnr == max(found.tried.values())


def test_patients_that_are_evaluated_are_not_tuned_on(ground, tmp_path, bundle):
    settings = ground.settings(tmp_path, tuning_slices=3)
    evaluated = {
        entry.patient for entry in slice_entries(ground.data, "data", bundle.examination, split="test", slices=1)
    }
    found = tuning_entries(settings, bundle.examination, sorted(evaluated), measured=False)
    assert found
    assert not evaluated & {entry.patient for entry in found}
    # Given by name, also without a validation split, but still without those that are evaluated.
    everyone = {entry.patient for entry in slice_entries(ground.data, "data", bundle.examination, slices=1)}
    chosen = replace(settings, tuning=ground.data)
    assert tuning_entries(chosen, bundle.examination, sorted(everyone), measured=False) == []
    assert tuning_entries(chosen, bundle.examination, [], measured=True) == []


def test_without_its_weight_l1_is_refused(ground, bundle):
    entry = slice_entries(ground.data, "data", bundle.examination, slices=1)[0]
    assert "λ" in measure(Job(bundle, entry, 0.01, (L1,)))["failed"]


def test_settings_name_what_is_wrong(ground, tmp_path):
    with pytest.raises(InputError, match="slices must be at least 1, got 0"):
        ground.settings(tmp_path, slices=0)
    with pytest.raises(InputError, match=r"\[0\.01, -1\.0\]"):
        ground.settings(tmp_path, noise=(0.01, -1.0))
