"""Line budgets, ACS geometry and the plans without networks."""

from __future__ import annotations

import pytest
import torch

from pass_recon.sampling import lines
from pass_recon.types import InputError

SIZES = [(320, 4), (320, 8), (321, 4), (230, 5), (64, 4), (33, 8), (368, 4), (96, 3.5)]


@pytest.mark.parametrize(("pe", "acceleration"), SIZES)
@pytest.mark.parametrize("rule", ["equispaced", "variable_density"])
def test_every_rule_keeps_the_budget_and_the_acs(pe, acceleration, rule):
    acs = lines.acs_mask(pe, lines.acs_count(pe, lines.acs_fraction(acceleration)))
    chosen = {
        "equispaced": lambda: lines.equispaced_lines(pe, acceleration, acs),
        "variable_density": lambda: lines.variable_density_lines(pe, acceleration, acs),
    }[rule]()
    assert chosen.sum() == round(pe / acceleration)
    assert (chosen & acs).equal(acs)


def test_paper_figures_at_320_lines():
    assert lines.acs_count(320, lines.acs_fraction(4)) == 26
    assert lines.acs_count(320, lines.acs_fraction(8)) == 13
    assert lines.line_budget(320, 4) == 80


def test_halves_round_up():
    assert lines.line_budget(10, 4) == 3
    assert lines.acs_count(25, 0.1) == 3


@pytest.mark.parametrize(("pe", "count"), [(8, 4), (8, 3), (9, 4), (9, 3)])
def test_acs_is_centred_on_the_centre_of_k_space(pe, count):
    mask = lines.acs_mask(pe, count)
    assert mask.sum() == count
    assert mask[pe // 2]
    assert lines.calibration_width(mask) == count


def test_variable_density_thins_out_towards_high_frequencies():
    acs = lines.acs_mask(320, 26)
    chosen = lines.variable_density_lines(320, 4, acs)
    inner, outer = chosen[80:147].sum(), chosen[:67].sum()
    assert inner > 1.5 * outer > 0


def test_select_lines_takes_the_highest_and_breaks_ties_by_index():
    acs = lines.acs_mask(8, 2)
    logits = torch.tensor([[0.0, 1, 1, 9, 9, 1, 5, 0], [1.0, 1, 1, 1, 1, 1, 1, 1]])
    chosen = lines.select_lines(logits, acs, 4)
    assert chosen[0].nonzero().flatten().tolist() == [1, 3, 4, 6]
    assert chosen[1].nonzero().flatten().tolist() == [0, 1, 3, 4]


def test_select_lines_refuses_nan_and_budgets_that_do_not_fit():
    acs = lines.acs_mask(8, 4)
    with pytest.raises(InputError, match="NaN"):
        lines.select_lines(torch.full((8,), float("nan")), acs, 5)
    with pytest.raises(InputError, match="budget of 3"):
        lines.select_lines(torch.zeros(8), acs, 3)


def test_calibration_lines_are_the_run_around_the_centre():
    mask = torch.tensor([1, 0, 1, 1, 1, 1, 0, 1]).bool()
    assert lines.calibration_lines(mask).tolist() == [False, False, True, True, True, True, False, False]
    assert lines.calibration_width(mask) == 4
    mask[4] = False
    assert not lines.calibration_lines(mask).any()
    assert lines.calibration_width(mask) == 0


def test_calibration_lines_of_a_batch():
    masks = torch.rand(5, 20) > 0.3
    together = lines.calibration_lines(masks)
    assert all(lines.calibration_lines(m).equal(t) for m, t in zip(masks, together, strict=True))


def test_acs_comes_first_in_the_order_of_acquisition():
    acs = lines.acs_mask(8, 2)
    mask = acs.clone()
    mask[[0, 6]] = True
    assert lines.acquisition_order(mask, acs) == (3, 4, 0, 6)


def test_impossible_acceleration_is_refused():
    with pytest.raises(InputError, match=r"0\.5"):
        lines.line_budget(320, 0.5)


@pytest.mark.parametrize("rule", ["select", "variable_density"])
def test_lines_that_cannot_be_acquired_are_not_planned(rule):
    acs, reachable = lines.acs_mask(64, 5), lines.reachable_lines(64, 20, 63)
    for acceleration, count in ((4, 16), (1, 44)):
        if rule == "select":
            logits = -torch.arange(64).float()  # wants the lines that are out of reach
            chosen = lines.select_lines(logits, acs, lines.line_budget(64, acceleration), reachable)
        else:
            chosen = lines.variable_density_lines(64, acceleration, acs, reachable)
        assert chosen.sum() == count
        assert not chosen[:20].any()
        assert chosen[acs].all()
