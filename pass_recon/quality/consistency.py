"""Lines that do not go with their neighbours, and what is the matter with them: the simplest thing that explains it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from pass_recon.quality.lines import lines_finding
from pass_recon.quality.neighbours import Fit, Neighbours, Triple, unlike
from pass_recon.types import QualityFinding

# Energy of a line that its neighbours leave unexplained, by the distance between these two. Of 275 ordinary slices it
# was at most 0.015, 0.09 and, of six and more coils, 0.9 above four times the noise; of coils that see nearly the same
# it is more at the larger distances. Of a line of noise, of another place or of another sign it is 2 to 4.
_UNEXPLAINED = {2: 0.1, 3: 0.9, 4: 1.2}
_UNEXPLAINED_OF_FEW = {2: 0.15, 3: 0.9}
_FEW_COILS = 6
LEAST_COILS = 4
# By what factor one must exceed this before anything is looked for.
_PLAIN = 1.5
_NOISES, _MOST_NOISE = 4.0, 0.25
# Where most lines go together worse than that, it is the scan that is so.
_ABOVE_MEDIAN = 8.0
# Lines of two kinds go together this many times better by kind: of ordinary slices at most 1.24 times.
_BETTER_APART = 1.6
_LEAST_APART = 0.004
# Hardly any go together: of ordinary slices half of the lines had at most 0.08 unexplained, noise and all.
_NONE_FIT = 0.05
# Weights for lines of even and of odd number: of ordinary slices 0.4 and less, 0.6 and more of lines read to and fro.
_UNLIKE = 0.5
# Of a line that is sound, what two on one side of it leave unexplained.
_ONE_SIDED = 0.5
_LEAST_TRIPLES = 4
_ROUNDS = 5
_MOST_SUSPECTS = 10
_LEAST_SIDE = 6


@dataclass
class Explanation:
    """What is the matter with the lines of a slice.

    Attributes
    ----------
    wrong
        Lines that do not go with those around them.
    exchanged
        Pairs of lines that go with those around them once they change places.
    broken_at
        Lines from which on all others go together, and so do those before, but not the ones with the others.
    alternating
        Whether lines of odd number seem to have been read in another way than those of even number.
    unexplained
        Whether something remains.
    """

    wrong: list[int] = field(default_factory=list)
    exchanged: list[tuple[int, int]] = field(default_factory=list)
    broken_at: list[int] = field(default_factory=list)
    alternating: bool = False
    unexplained: bool = False


class LineConsistency:
    """Whether the lines of a slice go together.

    Parameters
    ----------
    kspace
        ``(coils, ro, pe)``.
    line_mask
        ``(pe,)`` bool.
    """

    def __init__(self, kspace: Tensor, line_mask: Tensor) -> None:
        self.neighbours = Neighbours(kspace, line_mask)
        self._limits = _UNEXPLAINED if kspace.shape[0] >= _FEW_COILS else _UNEXPLAINED_OF_FEW
        self.enough = kspace.shape[0] >= LEAST_COILS and int(self.neighbours.central.sum()) - 2 >= _LEAST_TRIPLES

    def bad(self, fit: Fit, noise: Tensor | None = None) -> dict[Triple, float]:
        """Triples that do not go together, and by what factor."""
        if not fit.triples:
            return {}
        noise = self.neighbours.noise if noise is None else noise
        noisy = noise[[line for _, line, _ in fit.triples]]
        found = {}
        for triple, value, part in zip(fit.triples, fit.unexplained.tolist(), noisy.tolist(), strict=True):
            limit = self._limits.get(triple[2] - triple[0])
            if limit is None or part > _MOST_NOISE:
                continue
            noises = _NOISES if triple[2] - triple[0] < 4 else 1.5 * _NOISES
            excess = value / (max(limit, _ABOVE_MEDIAN * self._usual) + noises * part)
            if excess > 1:
                found[triple] = excess
        return found

    @cached_property
    def _usual(self) -> float:
        """What more than noise is unexplained of a line around the centre."""
        fit = self.neighbours.first
        close = self.neighbours.central_and_close(fit)
        noise = self.neighbours.noise[[line for _, line, _ in fit.triples]]
        return float((fit.unexplained - noise)[close].median().clamp(min=0)) if bool(close.any()) else 0.0

    def explain(self, left_out: Tensor, *, alternating: bool = True, broken: bool = True) -> Explanation:
        """What is the matter.

        Parameters
        ----------
        left_out
            ``(pe,)`` bool: lines known to be bad.
        alternating
            Whether lines of odd number may have been read in another way.
        broken
            Whether to look for a break where no single line stands out.
        """
        if not self.enough:
            return Explanation()
        use = self.neighbours.acquired & ~left_out
        numbers = torch.arange(len(use), device=use.device)
        fit = self.neighbours.fit(use) if bool(left_out.any()) else self.neighbours.first
        if alternating and self._seems_alternating(fit, use, numbers % 2):
            return Explanation(alternating=True)
        found, left = self._search(use, fit)
        if broken and not left and not found.wrong and self._better_apart(fit, use, (numbers >= len(use) // 2).int()):
            return Explanation(broken_at=[self._two_parts(use)])
        if left:
            parts = self._two_parts(use)
            if self._better_apart(fit, use, (numbers >= parts).int()):
                return Explanation(broken_at=[parts])
            found.unexplained = True
            found.wrong = sorted({*found.wrong, *left})
        return found

    def _search(self, use: Tensor, fit: Fit) -> tuple[Explanation, list[int]]:
        """The fewest things that are the matter, and the lines that they do not explain."""
        found = Explanation()
        state = _State(use, self.neighbours.samples, self.neighbours.noise, ())
        bad = self._faults(self.bad(fit))
        if max(bad.values(), default=0.0) < _PLAIN:
            return found, []
        for _ in range(_ROUNDS):
            if not bad:
                break
            options = sorted(self._tried(state, bad), key=lambda option: option.score)
            if not options or len(options[0].bad) >= len(bad):
                break
            best = self._likeliest(options, state, bad)
            state, bad = best.state, self._faults(best.bad)
            found.wrong += best.wrong
            found.exchanged += best.exchanged
            found.broken_at += best.broken_at
        return found, [line for _, line, _ in bad]

    def _faults(self, bad: dict[Triple, float]) -> dict[Triple, float]:
        """Without those around a line that is missing or left out: they tell explanations apart, and are no faults.

        Coils that see nearly the same predict lines at such a distance badly.
        """
        central = self.neighbours.central.tolist()
        return {t: e for t, e in bad.items() if t[2] - t[0] == 2 or not (central[t[0]] and central[t[2]])}

    def _tried(self, state: _State, bad: dict[Triple, float]) -> Iterator[_Option]:
        """What is left of the bad triples if a line is bad, if two are exchanged, or if nothing fits across a gap."""
        middles = sorted(bad, key=lambda triple: -bad[triple])
        suspects = sorted({line for triple in middles[:_MOST_SUSPECTS] for line in triple})
        for line in suspects:
            use = state.use.clone()
            use[line] = False
            yield self._option(state.changed(use=use), wrong=[line])
        worst = sorted({triple[1] for triple in middles[:_MOST_SUSPECTS]})
        for number, first in enumerate(worst):
            for second in worst[number + 1 :]:
                order = torch.arange(state.use.shape[-1])
                order[[first, second]] = order[[second, first]]
                changed = state.changed(samples=state.samples[..., order], noise=state.noise[order])
                yield self._option(changed, exchanged=[(first, second)])
        lines = state.use.nonzero().flatten().tolist()
        for before, after in pairwise(lines[2:-2]):
            if any(before in triple and after in triple for triple in bad):
                yield self._broken(state, bad, before, after)

    @staticmethod
    def _broken(state: _State, bad: dict[Triple, float], before: int, after: int) -> _Option:
        left = {triple: excess for triple, excess in bad.items() if not (before in triple and after in triple)}
        return _Option(state.changed(gaps=(*state.gaps, (before, after))), left, broken_at=[after])

    def _likeliest(self, options: list[_Option], state: _State, bad: dict[Triple, float]) -> _Option:
        """The first of the options, the best first; of lines that explain as much the one that goes with no side of it.

        If that line, too, goes with one side, nothing is wrong with it, and the break is where it does not.
        """
        best = options[0]
        if not best.wrong:
            return best
        sides = [
            (min(self.neighbours.continues(option.wrong[0], side, state.use) for side in (-1, 1)), option)
            for option in options
            if option.wrong and len(option.bad) == len(best.bad)
        ]
        fits, best = max(sides, key=lambda pair: pair[0])
        line = best.wrong[0]
        for before, after, side in ((line - 1, line, 1), (line, line + 1, -1)):
            broken = self._broken(state, bad, before, after)
            goes = self.neighbours.continues(line, side, state.use) < _ONE_SIDED
            if fits < _ONE_SIDED and goes and len(broken.bad) <= len(best.bad):
                return broken
        return best

    def _option(self, state: _State, **about: list) -> _Option:
        bad = self.bad(self.neighbours.fit(state.use, state.samples), state.noise)
        across = {t: e for t, e in bad.items() if not any(one in t and other in t for one, other in state.gaps)}
        return _Option(state, across, **about)

    def _seems_alternating(self, fit: Fit, use: Tensor, parity: Tensor) -> bool:
        if self._usual > _NONE_FIT or self._better_apart(fit, use, parity):
            return True
        weights = self.neighbours.weights_of_parity()
        return weights is not None and unlike(*weights) > _UNLIKE

    def _better_apart(self, fit: Fit, use: Tensor, groups: Tensor) -> bool:
        """Whether lines of each group go together far better among themselves."""
        apart = self.neighbours.fit(use & self.neighbours.central, groups=groups)
        together, alone = (one.unexplained[self.neighbours.central_and_close(one)] for one in (fit, apart))
        if len(alone) < max(2 * _LEAST_TRIPLES, len(together) // 2):
            return False
        whole, parts = float(together.mean()), float(alone.mean())
        return whole > _BETTER_APART * parts and whole - parts > _LEAST_APART

    def _two_parts(self, use: Tensor) -> int:
        """The line from which on all go together best among themselves, and so do those before it."""
        central = (self.neighbours.central & use).nonzero().flatten().tolist()
        numbers = torch.arange(len(use), device=use.device)
        misfits = []
        for at in central[_LEAST_SIDE:-_LEAST_SIDE]:
            fit = self.neighbours.fit(use & self.neighbours.central, groups=(numbers >= at).int())
            inside = [
                value
                for (before, _, after), value, close in zip(
                    fit.triples, fit.unexplained.tolist(), self.neighbours.central_and_close(fit).tolist(), strict=True
                )
                if close and not before < at <= after
            ]
            misfits.append((sum(inside) / max(len(inside), 1), at))
        return min(misfits, default=(0.0, len(use) // 2))[1]


@dataclass(frozen=True)
class _State:
    """Lines that are used, as they are by now, and gaps across which nothing is expected to fit."""

    use: Tensor
    samples: Tensor
    noise: Tensor
    gaps: tuple[tuple[int, int], ...]

    def changed(self, **changes: object) -> _State:
        return _State(**(self.__dict__ | changes))


@dataclass(frozen=True)
class _Option:
    """One thing that may be the matter, and what it leaves."""

    state: _State
    bad: dict[Triple, float]
    wrong: list[int] = field(default_factory=list)
    exchanged: list[tuple[int, int]] = field(default_factory=list)
    broken_at: list[int] = field(default_factory=list)

    @property
    def score(self) -> tuple[int, int, float]:
        """The fewer bad triples the better; an exchange, which leaves out nothing, before a line before a break."""
        return len(self.bad), len(self.wrong) + 2 * len(self.broken_at), sum(self.bad.values())


def findings_of(found: Explanation, loud: list[int]) -> list[QualityFinding]:
    """``inconsistent_lines`` for each thing that is the matter, and for the lines ``loud`` that are too loud."""
    if found.unexplained:
        wrong = sorted({*loud, *found.wrong})
        what = "and others around the centre do not fit each other, as after motion; all are used"
        return [lines_finding("inconsistent_lines", wrong, what)]
    findings = []
    for at in found.broken_at:
        sentence = f"the lines from {at} on do not fit those before, as after motion; all are used"
        findings.append(QualityFinding("inconsistent_lines", sentence))
    for pair in found.exchanged:
        first, second = sorted(pair)
        sentence = f"lines {first} and {second} fit their neighbours in each other's place"
        sentence += "" if found.broken_at else ": exchanged"
        findings.append(QualityFinding("inconsistent_lines", sentence))
    wrong = [*loud, *found.wrong]
    if wrong:
        what = f"not fitting {'their' if len(wrong) > 1 else 'its'} neighbours"
        what += "" if found.broken_at else ", left out"
        findings.append(lines_finding("inconsistent_lines", wrong, what))
    return findings
