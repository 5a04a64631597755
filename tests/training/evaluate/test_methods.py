"""A slice as it is scanned: the same numbers as at the scanner, the same k-space for every method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pass_recon.bundles import load_bundle
from pass_recon.physics.fourier import fft2c
from pass_recon.pipeline import Pipeline
from pass_recon.preparation import prepare
from pass_recon.sampling.lines import line_budget
from pass_recon.types import Box
from training.data.case_file import SliceRecord
from training.evaluate.methods import METHODS, PLANNERS, Trial, inapplicable
from training.evaluate.selection import choose_slices


@pytest.fixture(scope="module")
def bundle(ground):
    return load_bundle(ground.bundle)


@pytest.fixture(scope="module")
def trial(slices, bundle):
    with torch.no_grad():
        return Trial(slices, bundle, noise=0.01, published=bundle, regularisation=0.004, iterations=5)


def test_with_estimated_maps_scale_maps_and_plan_are_those_of_the_pipeline(slices, bundle):
    trial = Trial(slices, bundle, noise=0.01, maps="estimated")
    pipeline = Pipeline(bundle)
    kspace = slices.kspace(noise=0.01, fixed=True)
    prepared = prepare(kspace[None], trial.acs)
    torch.testing.assert_close(trial.scale, prepared.scale)
    torch.testing.assert_close(trial.kspace, prepared.kspace)
    torch.testing.assert_close(trial.coil_maps, prepared.coil_maps)
    plan = pipeline.plan(kspace[..., trial.acs], trial.acs, tuple(kspace.shape[-2:]))
    assert torch.equal(trial.plan("personal").lines, plan.lines)
    assert torch.equal(trial.plan("population").lines, pipeline.population_plan(kspace.shape[-1]).lines)
    torch.testing.assert_close(trial.glimpse.map[0], plan.anomaly_map)


def test_noise_is_added_to_every_coil(slices, trial):
    clean = fft2c(slices.coil_maps * slices.image)
    noise = (trial.kspace * trial.scale.unsqueeze(-3))[0] - clean
    assert torch.linalg.vector_norm(noise, dim=(-2, -1)) / noise[0].numel() ** 0.5 == pytest.approx(
        torch.full((len(noise),), 0.01).numpy(), rel=0.05
    )


@pytest.mark.parametrize("name", PLANNERS)
def test_every_plan_holds_the_acs_and_the_budget(trial, name):
    lines = trial.plan(name).lines
    assert lines.sum() == line_budget(72, 4)
    assert lines[trial.acs].all()
    assert trial.plan(name) is trial.plan(name)


@pytest.mark.parametrize("name", ["equispaced", "random", "population", "personal"])
def test_lines_that_hold_no_data_are_not_planned(slices, bundle, name):
    trial = Trial(replace(slices, line_range=torch.tensor([9, 60])), bundle, noise=0.01)
    lines = trial.plan(name).lines
    assert lines.sum() == 18
    assert not lines[:9].any()
    assert not lines[60:].any()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_sees_its_lines_and_no_others(trial, name):
    method = METHODS[name]
    mask = trial.plan(method.plan).lines
    with torch.no_grad():
        image = method.image(trial, mask)
        whole, trial.kspace = trial.kspace, trial.kspace * mask
        again = method.image(trial, mask)
        trial.kspace = whole
    assert image.shape == (1, 64, 72)
    torch.testing.assert_close(image, again, rtol=1e-3, atol=1e-4)


def test_methods_that_do_not_apply_say_why(bundle, ground):
    blind = load_bundle(ground.without_detector).card
    card = bundle.card
    assert inapplicable(card, card) == {}
    assert "no detector" in inapplicable(blind, None)["no-map"]
    assert "--published" in inapplicable(card, None)["published"]
    assert inapplicable(card, card | {"contrast": "t1"})["published"] == "the published weights are for contrast t1"
    sampler = {**card["configuration"], "sampler": {"lines": 90, "personal": None}}
    assert "no AS network" in inapplicable({**card, "configuration": sampler}, None)["population"]


def test_slices_with_lesions_come_first_then_the_middle():
    lesion, empty = SliceRecord(boxes=(Box(1, 1, 2, 2),)), SliceRecord()
    assert choose_slices([empty] * 9, 3) == [3, 4, 5]
    assert choose_slices([lesion, *[empty] * 8], 3) == [0, 3, 4]
    assert choose_slices([lesion] * 9, 3) == [1, 4, 7]
    assert choose_slices([empty, lesion], 5) == [0, 1]
