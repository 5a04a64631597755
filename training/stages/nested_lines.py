"""One order of lines for every acceleration, learned for a reconstructor that is fixed (LOUPE with shared logits).

A plan of k lines is the ACS and the first lines of the order. Each sample gets another acceleration; where its budget
ends, the logits are shifted to zero, so that the lines near the end are the uncertain ones and all budgets pull at the
same logits.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import torch
from torch import Tensor

from pass_recon.sampling.budget import acs_count, acs_fraction, line_budget
from pass_recon.sampling.lines import acs_mask, select_lines
from pass_recon.sampling.population import draw_lines, line_probabilities, straight_through

_SPAN = 8.0  # between the first line's logit and the last's


def merged_order(logits: Mapping[float, Tensor]) -> Tensor:
    """Logits ``(pe,)`` whose plans hold those learned for single accelerations, the highest acceleration first.

    Parameters
    ----------
    logits
        ``(pe,)`` by the acceleration that they were learned for.
    """
    order: list[int] = []
    for acceleration in sorted(logits, reverse=True):
        of_this = logits[acceleration]
        pe = len(of_this)
        acs = acs_mask(pe, acs_count(pe, acs_fraction(acceleration)))
        plan = select_lines(of_this, acs, line_budget(pe, acceleration)) & ~acs
        inside = [line for line in of_this.argsort(descending=True).tolist() if plan[line]]
        order += [line for line in inside if line not in order]
    slowest = logits[min(logits)]
    order += [line for line in slowest.argsort(descending=True).tolist() if line not in order]
    scores = torch.empty(len(order))
    scores[torch.tensor(order)] = torch.linspace(_SPAN / 2, -_SPAN / 2, len(order))
    return scores


def nested_lines(scores: Tensor, acceleration: float) -> Tensor:
    """``(pe,)`` bool: the plan at an acceleration."""
    pe = len(scores)
    acs = acs_mask(pe, acs_count(pe, acs_fraction(acceleration)))
    return select_lines(scores, acs, line_budget(pe, acceleration))


def drawn_nested_lines(
    scores: Tensor, acceleration: float, damping: float, generator: torch.Generator | None = None
) -> Tensor:
    """``(pe,)`` 0 and 1, drawn by their place in the order, with the gradient of their probabilities."""
    pe = len(scores)
    acs = acs_mask(pe, acs_count(pe, acs_fraction(acceleration)))
    budget = line_budget(pe, acceleration)
    free = scores.detach()[~acs].sort(descending=True).values
    chosen = budget - int(acs.sum())
    end = (free[max(chosen - 1, 0)] + free[min(chosen, len(free) - 1)]) / 2
    probabilities = line_probabilities(scores - end, acs, budget)
    return straight_through(draw_lines(probabilities.detach(), generator), probabilities, damping)


def drawn_acceleration(chance: random.Random) -> float:
    """From 2 to 10, every fourth time each of 4 and 8."""
    value = chance.random()
    if value < 0.5:
        return 4.0 if value < 0.25 else 8.0
    return math.exp(chance.uniform(math.log(2.0), math.log(10.0)))
