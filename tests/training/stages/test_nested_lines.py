"""One order of lines: every smaller plan lies in every larger one, and gradients reach the order."""

from __future__ import annotations

import pytest
import torch

from pass_recon.sampling.budget import acs_count, acs_fraction, line_budget
from pass_recon.sampling.lines import acs_mask, select_lines
from training.stages.nested_lines import drawn_nested_lines, merged_order, nested_lines


def orders() -> dict[float, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {4.0: torch.randn(160, generator=generator), 8.0: torch.randn(160, generator=generator)}


@pytest.mark.parametrize("seed", range(3))
def test_plans_are_nested_and_keep_their_budgets(seed: int) -> None:
    scores = torch.randn(160, generator=torch.Generator().manual_seed(seed))
    previous = torch.zeros(160, dtype=torch.bool)
    for acceleration in (10.0, 8.0, 6.0, 5.0, 4.0, 3.0, 2.0):
        plan = nested_lines(scores, acceleration)
        assert int(plan.sum()) == line_budget(160, acceleration)
        assert (plan | ~previous).all()
        previous = plan


def test_the_merged_order_holds_the_plan_of_the_highest_acceleration() -> None:
    learned = orders()
    acs = acs_mask(160, acs_count(160, acs_fraction(8.0)))
    assert torch.equal(nested_lines(merged_order(learned), 8.0), select_lines(learned[8.0], acs, line_budget(160, 8.0)))


def test_the_uncertain_lines_are_those_at_the_end_of_the_budget() -> None:
    scores = merged_order(orders()).requires_grad_()
    draws = [drawn_nested_lines(scores, 8.0, 0.3, torch.Generator().manual_seed(seed)) for seed in range(200)]
    often = torch.stack(draws).detach().mean(0)
    acs = acs_mask(160, acs_count(160, acs_fraction(8.0)))
    order = torch.tensor([line for line in scores.detach().argsort(descending=True).tolist() if not acs[line]])
    assert abs(float(torch.stack(draws).detach().sum(1).mean()) - line_budget(160, 8.0)) < 1.0
    assert often[order[:3]].min() > 0.8
    assert often[order[60:]].max() < 0.1
    draws[0].sum().backward()
    assert scores.grad is not None
    assert scores.grad.abs().max() > 0
