"""A slice as it is scanned: the same numbers as at the scanner, the same k-space for every method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pass_recon.bundles import load_bundle
from pass_recon.physics.fourier import fft2c
from pass_recon.pipeline import Pipeline
from pass_recon.sampling.lines import line_budget
from pass_recon.types import Box
from training.data.case_file import SliceRecord
from training.evaluate.methods import LINE_CHOOSERS, METHODS, ScannedSlice, inapplicable
from training.evaluate.selection import choose_slices


@pytest.fixture(scope="module")
def bundle(ground):
    return load_bundle(ground.bundle)


@pytest.fixture(scope="module")
def scanned(slices, bundle):
    return ScannedSlice(slices, bundle, noise=0.01, published=bundle, regularisation=0.004, iterations=5)


@pytest.mark.parametrize("maps", ["true", "estimated"])
def test_pass_is_what_the_pipeline_gives(slices, bundle, maps):
    scanned = ScannedSlice(slices, bundle, noise=0.01, maps=maps)
    kspace, acs = slices.kspace(noise=0.01, fixed=True), Pipeline(bundle).acs(72)
    known = {"coil_maps": slices.coil_maps} if maps == "true" else {}
    plan = Pipeline(bundle).plan(kspace[..., acs], acs, (64, 72), **known)
    expected = Pipeline(bundle).reconstruct(kspace, plan.lines, **known)
    lines = scanned.lines(METHODS["pass"].lines).lines
    assert torch.equal(lines, plan.lines)
    torch.testing.assert_close(METHODS["pass"].image(scanned, lines), expected.image)
    torch.testing.assert_close(scanned.plan.anomaly_map, plan.anomaly_map)
    blind = Pipeline(bundle, anomaly=False).reconstruct(kspace, plan.lines, **known)
    torch.testing.assert_close(METHODS["no-map"].image(scanned, lines), blind.image)
    assert torch.equal(scanned.lines("population").lines, Pipeline(bundle).population_plan(72).lines)


def test_noise_is_added_to_every_coil(slices, scanned):
    noise = scanned.kspace - fft2c(slices.coil_maps * slices.image)
    assert torch.linalg.vector_norm(noise, dim=(-2, -1)) / noise[0].numel() ** 0.5 == pytest.approx(
        torch.full((len(noise),), 0.01).numpy(), rel=0.05
    )


@pytest.mark.parametrize("name", LINE_CHOOSERS)
def test_every_plan_holds_the_acs_and_the_budget(scanned, name):
    lines = scanned.lines(name).lines
    assert lines.sum() == line_budget(72, 4)
    assert lines[scanned.acs].all()
    assert scanned.lines(name) is scanned.lines(name)


@pytest.mark.parametrize("name", ["equispaced", "random", "population", "personal"])
def test_lines_that_hold_no_data_are_not_planned(slices, bundle, name):
    scanned = ScannedSlice(replace(slices, line_range=torch.tensor([9, 60])), bundle, noise=0.01)
    lines = scanned.lines(name).lines
    assert lines.sum() == 18
    assert not lines[:9].any()
    assert not lines[60:].any()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_sees_its_lines_and_no_others(scanned, name):
    method = METHODS[name]
    lines = scanned.lines(method.lines).lines
    with torch.no_grad():
        image = method.image(scanned, lines)
        whole, scanned.kspace = scanned.kspace, scanned.kspace * lines
        again = method.image(scanned, lines)
        scanned.kspace = whole
    assert image.shape == (64, 72)
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
