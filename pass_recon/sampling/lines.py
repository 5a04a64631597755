"""Fixed rules on line masks: the ACS, selecting by logits, and the plans that need no network (budgets: ``budget``).

Line masks are ``(..., pe)`` bool; the centre of k-space is line ``pe // 2``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pass_recon.sampling.budget import acs_count as acs_count
from pass_recon.sampling.budget import acs_fraction as acs_fraction
from pass_recon.sampling.budget import acs_range, line_budget
from pass_recon.types import InputError

# More lines would not make better coil maps.
MOST_FOR_MAPS = 24
_CENTRED_WILL_DO = 10


def acs_mask(pe: int, count: int) -> Tensor:
    """Mask ``(pe,)`` of the ``count`` lines around the centre of k-space."""
    if not 0 < count <= pe:
        raise InputError(f"the ACS must hold between 1 and {pe} lines, got {count}")
    mask = torch.zeros(pe, dtype=torch.bool)
    mask[list(acs_range(pe, count))] = True
    return mask


def calibration_lines(line_mask: Tensor) -> Tensor:
    """Mask of the unbroken run of lines around the centre of ``line_mask`` ``(..., pe)``; empty without the centre."""
    centre = line_mask.shape[-1] // 2
    below = line_mask[..., :centre].flip(-1).cumprod(-1).flip(-1)
    above = line_mask[..., centre:].cumprod(-1)
    return torch.cat((below, above), -1).bool() & line_mask[..., centre : centre + 1]


def calibration_width(line_mask: Tensor) -> int:
    """Largest number of lines, centred like the ACS, that are all acquired in ``line_mask`` ``(pe,)``."""
    pe = line_mask.shape[-1]
    run = calibration_lines(line_mask).nonzero().flatten()
    if not len(run):
        return 0
    below, above = pe // 2 - int(run[0]), int(run[-1]) - pe // 2
    # n centred lines reach n // 2 below the centre and (n - 1) // 2 above it.
    return min(2 * below + 1, 2 * above + 2)


def calibration_run(line_mask: Tensor) -> range:
    """The unbroken run of lines through the centre of ``line_mask`` ``(pe,)`` to estimate coil maps from.

    It is centred like the ACS. Where that leaves fewer than 10 lines, up to twice as many on one side of the centre as
    on the other are taken: coil maps depend on how neighbouring samples go together, which is the same all over
    k-space. From one side alone they cannot be told: what an object is made of evenly has no signal there.
    """
    pe, width = line_mask.shape[-1], calibration_width(line_mask)
    first, centre = pe // 2 - width // 2, pe // 2
    run = calibration_lines(line_mask).nonzero().flatten().tolist()
    if width >= _CENTRED_WILL_DO or not run:
        return range(first, first + width)
    below, above = centre - run[0], run[-1] - centre
    most = 2 * min(below, above) + 1
    return range(centre - min(below, most), centre + min(above, most) + 1)


def reachable_lines(pe: int, first: int, last: int) -> Tensor:
    """Mask ``(pe,)`` of lines ``first`` to ``last``, those that a partial Fourier or zero-padded scan can acquire."""
    lines = torch.arange(pe)
    return (first <= lines) & (lines <= last)


def select_lines(logits: Tensor, acs: Tensor, budget: int, reachable: Tensor | None = None) -> Tensor:
    """The ACS and the lines with the highest logits, exactly ``budget`` of them.

    Parameters
    ----------
    logits
        ``(..., pe)``, higher is more wanted. Of equal logits the lower index wins, on every device.
    acs
        ``(pe,)`` bool.
    budget
        Number of lines including the ACS.
    reachable
        ``(pe,)`` bool: the lines that the scanner can acquire, by default all. If they are fewer than the budget, all
        of them are chosen.

    Returns
    -------
    Tensor
        ``(..., pe)`` bool.

    Raises
    ------
    InputError
        If a logit is not finite or the budget does not fit.
    """
    pe = logits.shape[-1]
    excluded = acs if reachable is None else acs | ~reachable
    extra = min(budget - int(acs.sum()), pe - int(excluded.sum()))
    if acs.shape != (pe,):
        raise InputError(f"ACS mask of shape {tuple(acs.shape)} does not go with logits for {pe} lines")
    if extra < 0 or budget > pe:
        raise InputError(f"a budget of {budget} lines does not hold {int(acs.sum())} ACS lines or exceeds {pe} lines")
    if not torch.isfinite(logits).all():
        raise InputError("line logits hold NaN or infinity")
    wanted = logits.masked_fill(excluded.to(logits.device), -math.inf)
    chosen = wanted.sort(dim=-1, descending=True, stable=True).indices[..., :extra]
    lines = acs.to(logits.device).expand(logits.shape).clone()
    return lines.scatter(-1, chosen, torch.ones_like(chosen, dtype=torch.bool))


def acquisition_order(lines: Tensor, acs: Tensor) -> tuple[int, ...]:
    """Indices of ``lines`` ``(pe,)`` in the order of acquisition: first the ACS, then the others, from low to high."""
    first, rest = lines & acs.to(lines.device), lines & ~acs.to(lines.device)
    return tuple(first.nonzero().flatten().tolist() + rest.nonzero().flatten().tolist())


def equispaced_lines(pe: int, acceleration: float, acs: Tensor) -> Tensor:
    """The ACS and evenly spread lines outside it, ``(pe,)`` bool, exactly the budget."""
    return _by_density(torch.ones(pe), acs, line_budget(pe, acceleration))


def variable_density_lines(
    pe: int, acceleration: float, acs: Tensor, reachable: Tensor | None = None, *, budget: int | None = None
) -> Tensor:
    """The ACS and lines that thin out towards high frequencies: the population plan that needs no training.

    The density falls as ``(1 − |k|)^(R / 2)`` to a floor of one tenth: of the powers 1, 2, 3, 4 and 6 the best for
    CG-SENSE of real brain slices at 4× and at 8×. Lines stand at equal steps of its integral, so that gaps grow
    smoothly and the plan is the same every time.

    Parameters
    ----------
    pe
        Number of phase-encoding lines.
    acceleration
        R; exactly round(pe / R) lines are chosen.
    acs
        ``(pe,)`` bool.
    reachable
        As in ``select_lines``.
    budget
        Another number of lines than round(pe / R).

    Returns
    -------
    Tensor
        ``(pe,)`` bool.
    """
    radius = (torch.arange(pe) - pe // 2).abs() / (pe / 2)
    count = line_budget(pe, acceleration) if budget is None else budget
    return _by_density((1 - radius).clamp(min=0) ** (acceleration / 2) + 0.1, acs, count, reachable)


def _by_density(density: Tensor, acs: Tensor, budget: int, reachable: Tensor | None = None) -> Tensor:
    """Lines outside the ACS at equal steps of the integral of ``density`` ``(pe,)``, without repetition."""
    extra = budget - int(acs.sum())
    if extra < 0:
        raise InputError(f"a budget of {budget} lines does not hold {int(acs.sum())} ACS lines")
    free = (~acs if reachable is None else reachable & ~acs).nonzero().flatten()
    extra = min(extra, len(free))
    if extra == 0:
        return acs.clone()
    integral = density[free].double().cumsum(0)
    steps = (torch.arange(extra) + 0.5) * (integral[-1] / extra)
    places = torch.searchsorted(integral, steps)
    # Where the density asks for a line more than once, the next free one is taken, and none may run off the end.
    for i in range(1, extra):
        places[i] = max(int(places[i]), int(places[i - 1]) + 1)
    places = torch.minimum(places, len(free) - extra + torch.arange(extra))
    lines = acs.clone()
    lines[free[places]] = True
    return lines
