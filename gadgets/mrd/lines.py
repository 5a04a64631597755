"""Lines of one slice by encoding step, and where they lie on the grid once its centre is known."""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from ismrmrd.acquisition import AcquisitionHeader
from numpy.typing import NDArray

from gadgets.mrd.centre import centre_of

Line = NDArray[np.complex64]


# A repeat that correlates less than that with what it repeats shows something else, or nothing.
_ALIKE = 0.3
# The phase beyond which it is turned before it is averaged, in rad: scanners alternate the sign of excitations.
_ANOTHER_PHASE = 0.5


@dataclass
class LineSet:
    """Lines by encoding step, each as often as it came.

    Attributes
    ----------
    first
        ``(coils, ro)`` of each step, as it came first.
    counts
        How often it came.
    headers
        Of the first.
    strengths
        Square root of its energy.
    """

    first: dict[int, Line] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    headers: dict[int, AcquisitionHeader] = field(default_factory=dict)
    strengths: dict[int, float] = field(default_factory=dict)
    _repeats: list[dict[int, Line]] = field(default_factory=list)
    _weights: list[complex] | None = None

    def add(self, step: int, line: Line, header: AcquisitionHeader) -> None:
        """Add a line ``(coils, ro)``."""
        count = self.counts[step] = self.counts.get(step, 0) + 1
        if count == 1:
            self.first[step], self.headers[step] = line, header
            self.strengths[step] = float(np.linalg.norm(line))
            return
        if len(self._repeats) < count - 1:
            self._repeats.append({})
        self._repeats[count - 2][step] = line
        self._weights = None

    def add_all(self, other: LineSet, steps: Iterable[int]) -> None:
        """Add those of another set's lines that have these steps."""
        for step in steps:
            if step in other.first and (step not in self.first or self.first[step].shape == other.first[step].shape):
                self.add(step, other.mean(step), other.headers[step])

    def mean(self, step: int) -> Line:
        """The line ``(coils, ro)`` averaged over how often it came, each time with the phase of the first."""
        if self.counts[step] == 1:
            return self.first[step]
        used = [(weight, of[step]) for weight, of in zip(self._phases(), self._repeats, strict=True) if step in of]
        total = self.first[step] + sum(np.complex64(weight) * line for weight, line in used if weight)
        mean: Line = (total / np.float32(1 + sum(weight != 0 for weight, _ in used))).astype(np.complex64)
        return mean

    def about_repeats(self) -> str:
        """What is to be known of repeats beside their number; empty where they are what they repeat."""
        left_out = [number for number, weight in enumerate(self._phases(), start=2) if not weight]
        turned = {
            number: math.degrees(-cmath.phase(weight))
            for number, weight in enumerate(self._phases(), start=2)
            if weight not in (0, 1)
        }
        said = [f"number {number} shows something else and is left out" for number in left_out]
        said += [f"number {number} has a phase of {phase:.0f}°, which is undone" for number, phase in turned.items()]
        return "; ".join(said)

    def _phases(self) -> list[complex]:
        """What each repeat is multiplied by: 1, a phase, or 0 where it is unlike the first."""
        if self._weights is None:
            self._weights = [_weight(self.first, repeat) for repeat in self._repeats]
        return self._weights

    @property
    def shape(self) -> tuple[int, int]:
        """(coils, ro) of its lines; (0, 0) while there are none."""
        return next((line.shape for line in self.first.values()), (0, 0))

    def centre(self, told: int, pe: int) -> int:
        """The step through the centre of k-space: what the header told unless the lines know better."""
        named = {int(header.idx.user[5]) for header in self.headers.values()}
        only = named.pop() if len(named) == 1 else 0  # which is what it is where nobody wrote anything
        return centre_of(self.strengths, told, pe, only if only and only in self.first else None)


@dataclass(frozen=True)
class PlacedLines:
    """Lines on a grid.

    Attributes
    ----------
    lines
        By encoding step.
    centre_step
        The step that lies on line ``pe // 2``.
    pe
        Lines of the grid.
    """

    lines: LineSet
    centre_step: int
    pe: int

    def step_of(self, index: int) -> int:
        """The encoding step of a line of the grid."""
        return index + self.centre_step - self.pe // 2

    def __contains__(self, index: int) -> bool:
        return self.step_of(index) in self.lines.first

    def indices(self) -> list[int]:
        """Lines of the grid that came."""
        return [index for index in range(self.pe) if index in self]

    def off_grid(self) -> list[int]:
        """Encoding steps that came and lie on no line of the grid."""
        first, last = self.step_of(0), self.step_of(self.pe - 1)
        return sorted(step for step in self.lines.first if not first <= step <= last)

    def around_centre(self, most: int) -> range:
        """The longest unbroken run of lines that is centred like an ACS, of ``most`` lines if it is longer."""
        below = above = 0
        centre = self.pe // 2
        while below < most and centre - below - 1 in self:
            below += 1
        while above < most and centre + above in self:
            above += 1
        # n centred lines reach n // 2 below the centre and (n - 1) // 2 above it.
        count = min(2 * below + 1, 2 * above, most)
        return range(centre - count // 2, centre - count // 2 + count)


def _weight(first: dict[int, Line], repeat: dict[int, Line]) -> complex:
    product = sum(complex(np.vdot(line, first[step])) for step, line in repeat.items())
    energies = [sum(float(np.vdot(of[step], of[step]).real) for step in repeat) for of in (first, repeat)]
    size = abs(product) / max(math.sqrt(energies[0] * energies[1]), 1e-300)
    if size < _ALIKE:
        return 0
    return product / abs(product) if abs(cmath.phase(product)) > _ANOTHER_PHASE else 1
