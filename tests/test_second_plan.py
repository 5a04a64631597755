"""The lines of a second look: what the first round lacks of the plan of a smaller acceleration."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from pass_recon import Pipeline
from pass_recon.bundles import load_bundle
from pass_recon.sampling.lines import variable_density_lines
from pass_recon.types import Reconstruction, SamplingPlan

PE = 160


def seen(*score: float) -> Reconstruction:
    return Reconstruction(torch.zeros(8, PE, dtype=torch.complex64), score=score)


@pytest.fixture(scope="module", params=["brain-flair-8x", "knee-pd-8x", "classical"])
def pipeline(request):
    return Pipeline(request.param, acceleration=8)


@pytest.fixture(scope="module")
def plan(pipeline):
    return pipeline.population_plan(PE)


def test_both_rounds_together_keep_the_smaller_accelerations_budget(pipeline, plan):
    second = pipeline.second_plan(plan, seen(0.9), 4)
    assert not (second.lines & plan.lines).any()
    assert int((second.lines | plan.lines).sum()) == 40
    assert second.order == tuple(second.lines.nonzero().flatten().tolist())
    assert (second.acceleration, second.score, second.source, second.fallback) == (4, 0.9, "population", None)


@pytest.mark.parametrize(
    ("score", "threshold", "lines"), [(0.49, 0.5, 0), (0.5, 0.5, 20), (0.0, 0.0, 20), (0.9, 1.0, 0)]
)
def test_threshold(pipeline, plan, score, threshold, lines):
    assert pipeline.second_plan(plan, seen(score), 4, threshold=threshold).lines.sum() == lines


def test_another_suspicious_slice_is_reason_enough(pipeline, plan):
    assert pipeline.second_plan(plan, None, 4).lines.sum() == 20


def test_without_a_detector_nothing_is_asked_for_and_it_is_said(pipeline, plan):
    second = pipeline.second_plan(plan, seen(), 4)
    assert (int(second.lines.sum()), second.fallback) == (0, "no detector has looked at the image")


def test_cap_takes_the_best_of_the_lines(pipeline, plan):
    few = pipeline.second_plan(plan, None, 4, most=7).lines
    assert few.sum() == 7
    if pipeline.bundle is not None:
        assert bool(pipeline.second_plan(plan, None, 4).lines[few].all())


def test_lines_out_of_reach_are_not_asked_for(pipeline, plan):
    assert not pipeline.second_plan(plan, None, 4, reachable=(0, 99)).lines[100:].any()


def test_nothing_more_where_all_has_come(pipeline):
    everything = torch.ones(PE, dtype=torch.bool)
    full = SamplingPlan(everything, tuple(range(PE)), 8, "acquired")
    assert pipeline.second_plan(full, None, 4).lines.sum() == 0


@pytest.mark.parametrize(("first", "second"), [(6.0, 3.0), (10.0, 5.0)])
def test_between_accelerations_of_the_order_of_lines_the_sum_is_the_plan_itself(first, second):
    """Lines are ranked: stopping at 6× and going on to 3× is as good as having planned 3×."""
    bundle = "brain-t1-8x"
    pipeline = Pipeline(bundle, acceleration=first)
    plan = pipeline.population_plan(PE)
    both = plan.lines | pipeline.second_plan(plan, None, second).lines
    torch.testing.assert_close(both, Pipeline(bundle, acceleration=second).population_plan(PE).lines)


def test_own_reconstructor_serves_the_lines_of_a_second_round_and_of_no_other_scan():
    """Where a bundle has a general one too, that is for a vendor's lines and not for a completed 8× scan."""
    bundle = load_bundle("knee-pd-4x")
    bundle = replace(bundle, general=deepcopy(bundle.reconstructor))
    first = Pipeline("knee-pd-8x")
    plan = first.population_plan(320)
    both = plan.lines | first.second_plan(plan, None, 4).lines
    second, alone = (Pipeline(bundle, first=one) for one in (first, None))
    assert second._reconstructor(both, 320) is bundle.reconstructor
    assert second._reconstructor(second.population_plan(320).lines, 320) is bundle.reconstructor
    thinned = variable_density_lines(320, 4, second.acs(320))
    assert second._reconstructor(thinned, 320) is bundle.general
    assert alone._reconstructor(both, 320) is bundle.general
