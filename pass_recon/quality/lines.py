"""Lines that cannot be right: zeros, and lines around the centre that do not go with their neighbours."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pass_recon.sampling.lines import calibration_lines
from pass_recon.types import QualityFinding

_ZEROS = 0.1
# A line is predicted from the one before and the one after it, three samples along the readout, of at most 8 virtual
# coils. Of ordinary slices of 4 and more coils at most half of a line's energy stays unexplained, on most lines one
# hundredth; of a line of noise, of another place or of another sign, it is two to ten times its energy.
_TAPS = (-1, 0, 1)
_COILS = 8
_LEAST_COILS = 4
_HALF_WIDTH = 32
_MOST_LINES = 48
_LEAST_TRIPLES = 4
_RIDGE = 1e-3
_UNEXPLAINED = 0.7
_ABOVE_MEDIAN = 8.0
_NEGLIGIBLE = 1e-6
_LEAST_KEPT = 3
# Logarithms of unexplained energy, of the mean and of the worst line.
_AS_GOOD = 0.4
_AS_GOOD_AT_WORST = 0.7
_ROUNDS = 5
# Energy over that of the loudest of four neighbours: outside the ACS of ordinary scans, of R = 2 to 8, equispaced or
# not, it was at most 1.6. The peak in the centre, where lines are missing around it, may be a hundred times as high.
_LOUD = 100.0
_LOUD_OUTSIDE = 5.0
_OUTER = 16


def zero_lines(samples: Tensor) -> Tensor:
    """``(coils, lines)`` bool: lines ``(coils, ro, lines)`` with far more zeros than others of the coil have."""
    zero = samples == 0
    sampled = (~zero).any(0).any(1)
    fraction = zero[:, sampled].float().mean(1)
    return fraction > fraction.median(1, keepdim=True).values.clamp(max=0.5) + _ZEROS


class CentralLines:
    """The unbroken run of lines around the centre, each predicted from its two neighbours.

    Parameters
    ----------
    kspace
        ``(coils, ro, pe)``.
    line_mask
        ``(pe,)`` bool.
    """

    def __init__(self, kspace: Tensor, line_mask: Tensor) -> None:
        run = calibration_lines(line_mask).nonzero().flatten()
        middle = line_mask.shape[-1] // 2
        self.lines = run[(run - middle).abs() <= _MOST_LINES // 2]
        ro = kspace.shape[1]
        half = min(_HALF_WIDTH, ro // 2 - 1)
        self.rows = torch.arange(ro // 2 - half, ro // 2 + half, device=kspace.device)
        self.kspace = kspace

    @property
    def enough(self) -> bool:
        """Whether there are coils and lines enough to tell a bad line by."""
        return self.kspace.shape[0] >= _LEAST_COILS and len(self.lines) - 2 >= _LEAST_TRIPLES

    def bad(self, left_out: Tensor) -> tuple[list[int], bool]:
        """Indices of the lines that do not go with their neighbours, and whether all others then do.

        Parameters
        ----------
        left_out
            ``(pe,)`` bool: lines known to be bad, that nothing is predicted from.
        """
        if not self.enough:
            return [], True
        sources, targets = self._triples(_virtual(self.kspace[..., self.lines], _COILS))
        known = left_out[self.lines]
        bad = torch.zeros_like(known)
        found: list[int] = []
        for _ in range(_ROUNDS):
            gone = known | bad
            use = ~(gone[:-2] | gone[1:-1] | gone[2:])
            if int(use.sum()) < _LEAST_TRIPLES:
                break
            unexplained = _robust_residuals(sources[use], targets[use])
            limit = max(_UNEXPLAINED, _ABOVE_MEDIAN * float(unexplained.median()))
            if not bool((unexplained > limit).any()):
                return found, True
            place = self._culprit(sources, targets, gone, int(use.nonzero().flatten()[unexplained.argmax()]))
            bad[place] = True
            found.append(int(self.lines[place]))
        return found, False

    def filled(self, missing: Tensor) -> tuple[Tensor, Tensor]:
        """K-space with missing lines predicted where both neighbours are there, and the mask ``(pe,)`` of those."""
        gone = missing[self.lines]
        able = torch.zeros_like(missing)
        lacking = gone[1:-1] & ~gone[:-2] & ~gone[2:]
        use = ~(gone[:-2] | gone[1:-1] | gone[2:])
        if not bool(lacking.any()) or int(use.sum()) < _LEAST_TRIPLES:
            return self.kspace, able
        samples = self.kspace[..., self.lines]
        sources, targets = self._triples(samples)
        weights = _solved(sources[use], targets[use], torch.ones(int(use.sum()), device=use.device))
        filled = self.kspace.clone()
        for place in lacking.nonzero().flatten().tolist():
            every = torch.cat([samples.roll(-tap, 1)[..., side] for side in (place, place + 2) for tap in _TAPS])
            filled[..., self.lines[place + 1]] = (weights @ every.flatten(1)).unflatten(1, every.shape[1:]).squeeze(-1)
        able[self.lines[1:-1][lacking]] = True
        return filled, able

    def _culprit(self, sources: Tensor, targets: Tensor, gone: Tensor, first: int) -> int:
        """Which of the three lines from ``first`` on is bad: the one without which the others agree best."""
        kept, fits = {}, {}
        for place in range(first, first + 3):
            without = gone.clone()
            without[place] = True
            use = ~(without[:-2] | without[1:-1] | without[2:])
            if int(use.sum()) >= _LEAST_KEPT:
                kept[place] = use
                fits[place] = torch.full(use.shape, math.nan, device=use.device)
                fits[place][use] = _robust_residuals(sources[use], targets[use]).clamp(min=_NEGLIGIBLE).log()
        if not kept:
            return first + 1
        # Lines differ in how well they are predicted, so the same ones are compared. Those that go with one candidate
        # and not with another count by how bad they are: a bad line that is kept spoils those around it,
        # and another bad line farther away is none of this one's business.
        common = torch.stack(list(kept.values())).all(0)
        misfit = {place: float(fits[place][common].mean()) if bool(common.any()) else 0.0 for place in kept}
        near = torch.zeros_like(common)
        near[max(first - 3, 0) : first + 4] = True
        worst = {p: max([misfit[p], *fits[p][kept[p] & near].tolist()]) for p in kept}
        best = min(misfit.values()), min(worst.values())
        doing = [p for p in kept if misfit[p] <= best[0] + _AS_GOOD and worst[p] <= best[1] + _AS_GOOD_AT_WORST]
        # At the end of the run a bad line has few witnesses: of those that would do, the one with the fewest goes.
        ranks = [(-int(kept[p].sum()), misfit[p] + worst[p], p) for p in doing or kept]
        return min(ranks)[2]

    def _triples(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Neighbours ``(triples, 2 · taps · coils, rows)`` and the lines between them ``(triples, coils, rows)``."""
        shifted = torch.cat([samples.roll(-tap, 1)[:, self.rows] for tap in _TAPS])
        return torch.cat((shifted[..., :-2], shifted[..., 2:])).movedim(-1, 0), samples[:, self.rows, 1:-1].movedim(
            -1, 0
        )


def _virtual(samples: Tensor, coils: int) -> Tensor:
    """``(min(coils, …), ro, lines)``: the first principal components over the coils."""
    if samples.shape[0] <= coils:
        return samples
    flat = samples.flatten(1)
    flat = flat / flat.abs().max()
    basis = torch.linalg.eigh(flat @ flat.mH).eigenvectors[:, -coils:]
    return (basis.mH @ samples.flatten(1)).unflatten(1, samples.shape[1:])


def _solved(sources: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """``(coils, unknowns)`` least squares over triples, each with its weight."""
    # Each triple counts by its energy, which falls steeply from the centre outwards, unless it is divided by it.
    scale = (weights / targets.abs().square().sum((1, 2)).clamp(min=1e-30)).sqrt()[:, None, None]
    sources = (sources * scale).movedim(0, 1).flatten(1)
    targets = (targets * scale).movedim(0, 1).flatten(1)
    gram = sources @ sources.mH
    ridge = _RIDGE * gram.diagonal().real.mean().clamp(min=1e-30)
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram), device=gram.device), sources @ targets.mH).mH


def _robust_residuals(sources: Tensor, targets: Tensor) -> Tensor:
    """``(triples,)`` energy left unexplained over energy, by iteratively reweighted least squares."""
    energy = targets.abs().square().sum((1, 2)).clamp(min=1e-30)
    weights = torch.ones_like(energy)
    for _ in range(4):
        residual = targets - _solved(sources, targets, weights) @ sources
        unexplained = residual.abs().square().sum((1, 2)) / energy
        weights = 1 / unexplained.square().clamp(min=1e-4)
        weights = weights / weights.max()
    return unexplained


def loud_lines(samples: Tensor, lines: Tensor, line_mask: Tensor) -> Tensor:
    """``(lines,)`` bool: lines far louder than the two acquired lines on either side.

    Parameters
    ----------
    samples
        ``(coils, ro, lines)``.
    lines
        ``(lines,)`` their indices.
    line_mask
        ``(pe,)`` bool: all that were acquired.
    """
    energy = samples.abs().square().sum((0, 1))
    if len(energy) < 8:
        return torch.zeros_like(energy, dtype=torch.bool)
    padded = torch.nn.functional.pad(energy[None], (2, 2), mode="reflect")[0]
    around = torch.stack([padded[:-4], padded[1:-3], padded[3:-1], padded[4:]]).amax(0)
    pe = len(line_mask)
    outer = ((lines - pe // 2).abs() > pe / _OUTER) & ~calibration_lines(line_mask).to(lines.device)[lines]
    return energy > torch.where(outer, _LOUD_OUTSIDE, _LOUD) * around


def lines_finding(word: str, lines: list[int], what: str) -> QualityFinding:
    """``line(s) 3, 4 …``."""
    shown = ", ".join(map(str, sorted(lines)[:12])) + (f" and {len(lines) - 12} more" if len(lines) > 12 else "")
    return QualityFinding(word, f"line{'s' if len(lines) > 1 else ''} {shown} {what}")
