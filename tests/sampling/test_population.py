"""LOUPE: budgets kept on average and in the gradient's way, and logits that fit another number of lines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pass_recon.physics.encoding import SenseOperator
from pass_recon.sampling.budget import acs_fraction, line_budget
from pass_recon.sampling.lines import acs_mask, select_lines, variable_density_lines
from pass_recon.sampling.population import (
    PopulationLogits,
    draw_lines,
    line_probabilities,
    resample_lines,
    straight_through,
)
from pass_recon.types import InputError


@pytest.mark.parametrize("offset", [-3.0, 0.0, 3.0])
@pytest.mark.parametrize(("pe", "count", "budget"), [(320, 26, 80), (33, 3, 4), (33, 3, 32), (20, 4, 4), (20, 4, 20)])
def test_probabilities_add_up_to_the_budget(offset, pe, count, budget):
    logits, acs = torch.randn(2, pe) + offset, acs_mask(pe, count)
    probabilities = line_probabilities(logits, acs, budget)
    torch.testing.assert_close(probabilities.sum(-1), torch.full((2,), float(budget)), rtol=1e-4, atol=1e-4)
    assert (probabilities[:, acs] == 1).all()
    assert probabilities.min() >= 0
    assert probabilities.max() <= 1
    # Rescaling keeps the order that the logits have.
    ordered = probabilities[:, ~acs].gather(1, logits[:, ~acs].argsort())
    assert (ordered.diff() >= 0).all()


def test_an_acs_of_everything_is_everything():
    assert torch.equal(line_probabilities(torch.randn(8), acs_mask(8, 8), 8), torch.ones(8))


@pytest.mark.parametrize(("count", "budget"), [(9, 8), (4, 21)])
def test_budgets_that_cannot_be_are_refused(count, budget):
    with pytest.raises(InputError, match=f"budget of {budget} lines"):
        line_probabilities(torch.zeros(20), acs_mask(20, count), budget)


@pytest.mark.parametrize("acceleration", [4.0, 8.0])
def test_training_may_start_from_the_variable_density_plan(acceleration):
    population = PopulationLogits(320, acs_fraction(acceleration), acceleration=acceleration)
    budget = line_budget(320, acceleration)
    plan = variable_density_lines(320, acceleration, population.acs)
    assert torch.equal(select_lines(population(320).detach(), population.acs, budget), plan)
    drawn = line_probabilities(population(320).detach(), population.acs, budget)[plan]
    assert float(drawn.min()) > 0.75


def test_draws_follow_the_probabilities():
    acs = acs_mask(64, 6)
    probabilities = line_probabilities(torch.randn(64), acs, 20)
    draws = draw_lines(probabilities.expand(4000, -1), torch.Generator().manual_seed(1)).float()
    # Five standard deviations of a mean of 4000 draws.
    assert (draws.mean(0) - probabilities).abs().max() < 5 * 0.5 / 4000**0.5
    assert (draws[:, acs] == 1).all()
    again = draw_lines(probabilities.expand(4000, -1), torch.Generator().manual_seed(1)).float()
    assert torch.equal(draws, again)


def test_straight_through_is_a_mask_with_a_gradient():
    population, acs = PopulationLogits(32, 0.1), acs_mask(32, 3)
    probabilities = line_probabilities(population(32), acs, 10)
    lines = draw_lines(probabilities)
    weights = straight_through(lines, probabilities)
    torch.testing.assert_close(weights, lines.float())
    wanted = torch.randn(32)
    (weights * wanted).sum().backward()
    found = population.logits.grad.clone()
    population.logits.grad = None
    (line_probabilities(population(32), acs, 10) * wanted).sum().backward()
    torch.testing.assert_close(found, population.logits.grad)
    assert (found[acs] == 0).all()


def test_the_gradient_of_a_line_is_what_the_step_from_0_to_1_changes():
    damping = 0.2
    measured, coil_maps = torch.randn(1, 1, 12, dtype=torch.complex128), torch.ones(1, 1, 12, dtype=torch.complex128)
    probabilities = torch.full((12,), 0.5, dtype=torch.float64, requires_grad=True)
    lines, wanted = torch.rand(12) < 0.5, torch.randn(12, dtype=torch.complex128)

    def seen(weights: Tensor) -> Tensor:
        operator = SenseOperator(coil_maps, weights)
        columns = operator.normal(torch.eye(12).reshape(12, 1, 12).to(coil_maps.dtype))[:, 0]
        image = torch.linalg.solve(columns.T + damping * torch.eye(12), operator.adjoint(measured)[0])
        return (wanted.conj() * image).real.sum()

    seen(straight_through(lines, probabilities, damping)).backward()
    for line in range(12):
        ends = [torch.where(torch.arange(12) == line, float(end), lines.double()) for end in (0, 1)]
        assert float(probabilities.grad[line]) == pytest.approx(
            float(seen(ends[1]) - seen(ends[0])), rel=1e-5, abs=1e-9
        )


def test_learning_moves_a_line_into_the_plan():
    population, acs = PopulationLogits(32, 0.1), acs_mask(32, 3)
    assert not select_lines(population(32).detach(), acs, 8)[30]
    optimiser = torch.optim.Adam(population.parameters(), lr=0.1)
    for _ in range(40):
        optimiser.zero_grad()
        probabilities = line_probabilities(population(32), acs, 8)
        (-straight_through(draw_lines(probabilities), probabilities)[30]).backward()
        optimiser.step()
    assert select_lines(population(32).detach(), acs, 8)[30]


@pytest.mark.parametrize("pe", [160, 200, 319, 321, 640])
def test_resampling_is_linear_interpolation(pe):
    logits = torch.randn(320)
    places, wanted = (np.arange(320) - 160) / 320, (np.arange(pe) - pe // 2) / pe
    np.testing.assert_allclose(resample_lines(logits, pe).numpy(), np.interp(wanted, places, logits.numpy()), atol=1e-5)


def test_the_same_number_of_lines_is_untouched():
    logits = torch.randn(320)
    assert resample_lines(logits, 320) is logits


@pytest.mark.parametrize("pe", [100, 256, 333])
def test_meaningless_acs_logits_do_not_reach_their_neighbours(pe):
    acs = acs_mask(320, 26)
    logits = torch.full((320,), 1.5).masked_fill(acs, -2000.0)
    torch.testing.assert_close(resample_lines(logits, pe, acs), torch.full((pe,), 1.5))
    population = PopulationLogits(320, 0.08)
    with torch.no_grad():
        population.logits.copy_(logits)
    torch.testing.assert_close(population(pe), torch.full((pe,), 1.5))


def test_gradients_pass_the_interpolation():
    population = PopulationLogits(32, 0.1)
    population(48).sum().backward()
    outside = ~acs_mask(32, 3)
    assert (population.logits.grad[outside] > 0).all()
