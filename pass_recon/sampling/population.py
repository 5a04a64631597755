"""The population's lines (LOUPE): logits that are learned together with the reconstructor, and how lines are drawn.

Stage 1 of the training runs ``line_probabilities → draw_lines → straight_through`` and masks the k-space with the
result; at inference ``lines.select_lines`` takes the highest logits, exactly the budget.

References
----------
Bahadir et al., Deep-learning-based optimization of the under-sampling pattern in MRI, IEEE TCI 6 (2020).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pass_recon.sampling.lines import acs_count, acs_mask, variable_density_lines
from pass_recon.types import InputError

DEFAULT_SLOPE = 5.0
_CHOSEN = 0.8  # σ(5 · 0.8) = 0.98


def line_probabilities(
    logits: Tensor,
    acs: Tensor,
    budget: int | Tensor,
    *,
    slope: float = DEFAULT_SLOPE,
    reachable: Tensor | None = None,
) -> Tensor:
    """Probability of each line to be acquired: σ(slope · logit), rescaled so that the lines expected are the budget.

    With p̄ the mean outside the ACS and s the fraction that the budget leaves there, ``p·s/p̄`` where that is below p,
    else ``1 − (1 − p)·(1 − s)/(1 − p̄)``: both keep p between 0 and 1.

    Parameters
    ----------
    logits
        ``(..., pe)``.
    acs
        ``(..., pe)`` bool, on the CPU; these lines get probability 1 and no gradient.
    budget
        Number of lines including the ACS; ``(...)`` on the CPU where each item has its own.
    slope
        Steepness of the sigmoid.
    reachable
        ``(..., pe)`` bool: the lines that the scanner can acquire, by default all; the others get probability 0. If
        they are fewer than the budget, all of them get probability 1.

    Returns
    -------
    Tensor
        ``(..., pe)`` float, summing to the budget.

    Raises
    ------
    InputError
        If the budget does not hold the ACS or exceeds the number of lines.
    """
    pe, counts, budgets = logits.shape[-1], acs.sum(-1), torch.as_tensor(budget)
    if acs.shape[-1:] != (pe,) or bool(((counts > budgets) | (budgets > pe)).any()):
        raise InputError(
            f"a budget of {budgets.tolist()} lines does not go with {counts.tolist()} ACS lines of {tuple(acs.shape)} "
            f"in {pe}"
        )
    left, acs = (budgets - counts)[..., None].to(logits.device), acs.to(logits.device)
    free = ~acs if reachable is None else reachable & ~acs
    lines = free.sum(-1, keepdim=True).clamp(min=1)
    fraction = (left / lines).clamp(max=1)
    # In double precision, since a sigmoid close to 0 or 1 keeps few digits of what tells lines apart.
    probability = torch.sigmoid(slope * logits.double())
    mean = (probability * free).sum(-1, keepdim=True) / lines
    mean = mean.clamp(1e-14, 1 - 1e-14)
    fewer = probability * (fraction / mean)
    more = 1 - (1 - probability) * ((1 - fraction) / (1 - mean))
    return (torch.where(mean >= fraction, fewer, more) * free).masked_fill(acs, 1).float()


def draw_lines(probabilities: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw each line by itself: ``(..., pe)`` probabilities to ``(..., pe)`` bool, the budget on average."""
    return torch.rand(probabilities.shape, generator=generator, device=probabilities.device) < probabilities


def straight_through(lines: Tensor, probabilities: Tensor, damping: float | Tensor = math.inf) -> Tensor:
    """Lines ``(..., pe)`` bool as 0 and 1, with the gradient of their probabilities ``(..., pe)``.

    What is reconstructed by solving ``(AᴴA + λ) x = …`` follows the weight w of a line as ``w / (w + λ)``, steeply at 0
    and hardly at 1: derivatives there overrate lines left out, by (1 + λ) / λ, and underrate acquired ones as much,
    and training would forever swap one for the other. Given λ, both become what the step from 0 to 1 changes.

    Parameters
    ----------
    lines, probabilities
        What was drawn, and from what.
    damping
        λ; infinite where the result is linear in the weights.
    """
    steeper = 1 + 1 / damping
    gain = torch.where(lines, steeper, 1 / steeper)
    return lines.to(probabilities.dtype) + gain * (probabilities - probabilities.detach())


def resample_lines(logits: Tensor, pe: int, acs: Tensor | None = None) -> Tensor:
    """Logits for another number of lines, interpolated linearly at the same relative place in k-space.

    Line i of n lies at ``(i − n//2) / n``. Beyond the outermost line its own value holds.

    Parameters
    ----------
    logits
        ``(..., n)``.
    pe
        Number of lines wanted; for ``pe == n`` the logits come back as they are.
    acs
        ``(n,)`` bool: lines whose logits mean nothing and must not reach their neighbours.

    Returns
    -------
    Tensor
        ``(..., pe)``.
    """
    n = logits.shape[-1]
    if pe == n:
        return logits
    known = torch.arange(n) if acs is None or bool(acs.all()) else (~acs).nonzero().flatten().cpu()
    wanted = (torch.arange(pe).double() - pe // 2) * (n / pe) + n // 2
    above = torch.searchsorted(known.double(), wanted).clamp(max=len(known) - 1)
    below = (above - 1).clamp(min=0)
    low, high = known[below], known[above]
    weight = ((wanted - low) / (high - low).clamp(min=1)).clamp(0, 1).to(logits)
    low, high = low.to(logits.device), high.to(logits.device)
    return logits[..., low] * (1 - weight) + logits[..., high] * weight


class PopulationLogits(nn.Module):
    """One learned logit for every line, the same for all patients.

    Parameters
    ----------
    lines
        Number of lines it is learned at.
    acs_fraction
        Fraction of the lines that form the ACS. They are acquired anyway, so their logits are never learned.
    acceleration
        R. Given, training starts from the variable-density plan, each of whose lines is nearly always drawn: the
        highest logits of a smooth density would all lie at the centre, a plan that is poor and hard to learn away from.
    """

    acs: Tensor

    def __init__(self, lines: int, acs_fraction: float, *, acceleration: float | None = None) -> None:
        super().__init__()
        acs = acs_mask(lines, acs_count(lines, acs_fraction))
        self.register_buffer("acs", acs, persistent=False)
        radius = (torch.arange(lines) - lines // 2).abs() * (2 / lines)
        logits = 1 - 2 * radius
        if acceleration is not None:
            chosen = variable_density_lines(lines, acceleration, acs)
            logits = 0.05 * logits + torch.where(chosen, _CHOSEN, -_CHOSEN)
        self.logits = nn.Parameter(logits)

    def forward(self, pe: int) -> Tensor:
        """Logits ``(pe,)``; other numbers of lines than the learned one by ``resample_lines``."""
        return resample_lines(self.logits, pe, self.acs)
