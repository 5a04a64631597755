"""Lines predicted from the acquired ones on either side of them: what several coils see is a little redundant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pass_recon.sampling.lines import calibration_lines

# A line is predicted from the nearest one on either side, three samples along the readout, of at most 8 virtual coils,
# with the same weights everywhere in k-space, as in GRAPPA (Griswold et al., MRM 47:1202, 2002). The lines around the
# centre, without those that do not go with the others, teach the weights.
_TAPS = (-1, 0, 1)
_COILS = 8
_HALF_WIDTH = 32
_MOST_LINES = 48
_LEAST_TRIPLES = 4
_WIDEST = 4
_RIDGE = 1e-3
_EDGE = 16
_DROWNED = 10.0
_ROUNDS = 4
_LEFT_OF_NOISE = 2.0

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Fit:
    """How well lines go with their neighbours.

    Attributes
    ----------
    triples
        The line before, the line, and the line after it.
    unexplained
        ``(triples,)``: energy of the line that its neighbours do not explain, over its energy.
    """

    triples: tuple[Triple, ...]
    unexplained: Tensor


class Neighbours:
    """Predicts lines.

    Parameters
    ----------
    kspace
        ``(coils, ro, pe)``.
    line_mask
        ``(pe,)`` bool: the acquired lines.
    rounds
        Of reweighted least squares; with 1, bad lines count like all others.
    """

    def __init__(self, kspace: Tensor, line_mask: Tensor, *, rounds: int = _ROUNDS) -> None:
        self._rounds = rounds
        ro = kspace.shape[1]
        self.acquired = line_mask
        self.central = run = lines_around_centre(line_mask) & line_mask
        half = min(_HALF_WIDTH, ro // 2 - 1)
        self._rows = torch.arange(ro // 2 - half, ro // 2 + half, device=kspace.device)
        # The same virtual coils for all lines, those that hold most of the signal around the centre.
        self._basis = _principal(kspace[..., run], _COILS)
        self.samples = self._around(self.virtual(kspace))
        edge = max(1, ro // _EDGE)
        ends = self.virtual(torch.cat((kspace[:, :edge], kspace[:, -edge:]), 1)[..., line_mask])
        noise = ends.abs().square().mean(1).median()  # of one sample
        # What is wrong with a line shows away from the few strong samples in its middle: all count by what they hold.
        strength = self._targets(self.samples)[..., run].abs().square().mean((0, 2))
        self._row_weights = 1 / (strength + _DROWNED * noise).clamp(min=1e-30).sqrt()
        self._row_weights = self._row_weights / self._row_weights.max()
        energy = (self._targets(self.samples) * self._row_weights[:, None]).abs().square().sum((0, 1))
        self._noise = noise * self._basis.shape[1] * self._row_weights.square().sum() / energy.clamp(min=1e-30)

    @cached_property
    def first(self) -> Fit:
        """How well all lines that were acquired go together."""
        return self.fit(self.acquired)

    @cached_property
    def noise(self) -> Tensor:
        """``(pe,)``: of each line, what of its energy is noise."""
        close = self.central_and_close(self.first)
        if not bool(close.any()):
            return self._noise
        # Detail may reach the ends of the readouts: there is no more noise than what the neighbours leave unexplained.
        known = self._noise[[line for _, line, _ in self.first.triples]][close]
        most = _LEFT_OF_NOISE * float(self.first.unexplained[close].median()) / max(float(known.median()), 1e-30)
        return self._noise * min(1.0, most)

    def fit(self, use: Tensor, samples: Tensor | None = None, groups: Tensor | None = None) -> Fit:
        """How well the lines ``use`` ``(pe,)`` go with each other.

        Parameters
        ----------
        samples
            As ``self.samples``, of lines that are changed on trial.
        groups
            ``(pe,)`` int: lines of different groups are predicted with weights of their own.
        """
        samples = self.samples if samples is None else samples
        lines = use.nonzero().flatten().tolist()
        found, unexplained = [], []
        by_spacing: dict[tuple[int, int, int], list[Triple]] = {}
        for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
            if after - before <= _WIDEST:
                group = 0 if groups is None else int(groups[line])
                by_spacing.setdefault((line - before, after - line, group), []).append((before, line, after))
        for (below, above, group), triples in by_spacing.items():
            of_group = None if groups is None else groups == group
            weights = self._weights(samples, use, (-below, above), of_group)
            if weights is not None:
                found += triples
                unexplained.append(_unexplained(weights, *self._of(samples, triples)))
        values = torch.cat(unexplained) if found else torch.zeros(0)
        order = sorted(range(len(found)), key=lambda number: found[number])
        return Fit(tuple(found[number] for number in order), values[order])

    def continues(self, line: int, step: int, use: Tensor) -> float:
        """Energy of a line that the two on one side of it leave unexplained; infinite where these are not used.

        Parameters
        ----------
        step
            1 for those of higher number, −1 for those of lower number.
        """
        offsets = (step, 2 * step)
        weights = self._weights(self.samples, use, offsets)
        if weights is None or not all(0 <= line + o < len(use) and bool(use[line + o]) for o in offsets):
            return math.inf
        return float(_unexplained(weights, *self._of(self.samples, [(line + step, line, line + 2 * step)])))

    def weights_of_parity(self) -> tuple[Tensor, Tensor] | None:
        """Weights for the lines of even number and for those of odd number, ``(coils, unknowns)`` each.

        They are the same where all lines were read in the same way. None if there are too few lines around the centre.
        """
        parity = torch.arange(len(self.acquired), device=self.acquired.device) % 2
        even, odd = (self._weights(self.samples, self.acquired, (-1, 1), parity == number) for number in (0, 1))
        return None if even is None or odd is None else (even, odd)

    def central_and_close(self, fit: Fit) -> Tensor:
        """``(triples,)`` bool: those of three lines in a row around the centre."""
        central = self.central.tolist()
        return torch.tensor(
            [after - before == 2 and central[line] for before, line, after in fit.triples], dtype=torch.bool
        )

    def predict(self, kspace: Tensor, lines: list[int], use: Tensor) -> dict[int, Tensor]:
        """What the nearest of the lines ``use`` say of others, ``(coils, ro)`` each, where they are near enough."""
        known = use.nonzero().flatten()
        predicted = {}
        for line in lines:
            below, above = known[known < line], known[known > line]
            if not len(below) or not len(above) or int(above[0] - below[-1]) > _WIDEST:
                continue
            sides = int(below[-1]), int(above[0])
            weights = self._weights(self._around(kspace), use, (sides[0] - line, sides[1] - line))
            if weights is not None:
                every = torch.cat([kspace.roll(-tap, 1) for tap in _TAPS])[..., list(sides)]
                predicted[line] = weights @ torch.cat((every[..., 0], every[..., 1]))
        return predicted

    def _weights(
        self, samples: Tensor, use: Tensor, offsets: tuple[int, int], targets: Tensor | None = None
    ) -> Tensor | None:
        """Weights for two lines that are so far from the one between or beside them; None if too few teach them."""
        usable = (self.central & use).tolist()
        middle = usable if targets is None else (self.central & use & targets).tolist()
        triples = [
            (line + offsets[0], line, line + offsets[1])
            for line in range(max(0, -min(offsets)), len(usable) - max(0, *offsets))
            if middle[line] and usable[line + offsets[0]] and usable[line + offsets[1]]
        ]
        if len(triples) < _LEAST_TRIPLES:
            return None
        return _robust_weights(*self._of(samples, triples), self._rounds)

    def _of(self, samples: Tensor, triples: list[Triple]) -> tuple[Tensor, Tensor]:
        """Neighbours ``(triples, 2 · taps · coils, rows)`` and the lines between them ``(triples, coils, rows)``."""
        before, line, after = torch.tensor(triples, device=samples.device).T
        sources = torch.cat((samples[..., before].flatten(0, 1), samples[..., after].flatten(0, 1)))
        weighted = self._row_weights[:, None]
        return (sources * weighted).movedim(-1, 0), (self._targets(samples)[..., line] * weighted).movedim(-1, 0)

    def virtual(self, kspace: Tensor) -> Tensor:
        """``(virtual coils, ...)`` of ``(coils, ...)``."""
        return (self._basis.mH @ kspace.flatten(1)).unflatten(1, kspace.shape[1:])

    def _around(self, kspace: Tensor) -> Tensor:
        """``(taps, coils, rows, pe)``."""
        return torch.stack([kspace.roll(-tap, 1)[:, self._rows] for tap in _TAPS])

    @staticmethod
    def _targets(samples: Tensor) -> Tensor:
        return samples[len(_TAPS) // 2]


def lines_around_centre(line_mask: Tensor) -> Tensor:
    """``(pe,)`` bool: the run of lines around the centre, at most 48, unbroken but for lines that did not come.

    These are single ones and pairs, between two neighbours on either side.
    """
    run, centre = calibration_lines(_without_holes(line_mask)), line_mask.shape[-1] // 2
    run[: max(centre - _MOST_LINES // 2, 0)] = False
    run[centre + _MOST_LINES // 2 :] = False
    return run


def _without_holes(line_mask: Tensor) -> Tensor:
    """The lines, and single ones and pairs that are missing among others: between two neighbours on either side."""
    lines = torch.nn.functional.pad(line_mask, (3, 3))
    before, after = lines[2:-4] & lines[1:-5], lines[4:-2] & lines[5:-1]
    single = before & after
    first = before & lines[5:-1] & torch.nn.functional.pad(line_mask, (0, 3))[3:]
    second = torch.nn.functional.pad(first, (1, 0))[:-1]
    return line_mask | single | first | second


def _principal(kspace: Tensor, coils: int) -> Tensor:
    """``(coils, virtual coils)``: the first principal components over the coils."""
    flat = kspace.flatten(1)
    if kspace.shape[0] <= coils or not flat.shape[1]:
        return torch.eye(kspace.shape[0], dtype=kspace.dtype, device=kspace.device)
    flat = flat / flat.abs().max().clamp(min=1e-30)
    return torch.linalg.eigh(flat @ flat.mH).eigenvectors[:, -coils:]


def _solved(sources: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """``(coils, unknowns)`` least squares over triples, each with its weight."""
    # Each triple counts by its energy, which falls steeply from the centre outwards, unless it is divided by it.
    scale = (weights / targets.abs().square().sum((1, 2)).clamp(min=1e-30)).sqrt()[:, None, None]
    sources = (sources * scale).movedim(0, 1).flatten(1)
    targets = (targets * scale).movedim(0, 1).flatten(1)
    gram = sources @ sources.mH
    ridge = _RIDGE * gram.diagonal().real.mean().clamp(min=1e-30)
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram), device=gram.device), sources @ targets.mH).mH


def _unexplained(weights: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
    """``(triples,)`` energy left over, relative to that of the line."""
    energy = targets.abs().square().sum((1, 2)).clamp(min=1e-30)
    return (targets - weights @ sources).abs().square().sum((1, 2)) / energy


def _robust_weights(sources: Tensor, targets: Tensor, rounds: int) -> Tensor:
    """By iteratively reweighted least squares: few bad lines among them do not count."""
    weights = torch.ones(len(targets), device=targets.device)
    for _ in range(rounds):
        solved = _solved(sources, targets, weights)
        weights = 1 / _unexplained(solved, sources, targets).square().clamp(min=1e-4)
        weights = weights / weights.max()
    return solved


def unlike(one: Tensor, other: Tensor) -> float:
    """How unlike weights are, but for a phase: 0 to 1."""
    return 1 - float((one * other.conj()).sum().abs() / (one.norm() * other.norm()).clamp(min=1e-30))
