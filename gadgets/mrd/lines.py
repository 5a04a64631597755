"""Lines of one slice by encoding step, and where they lie on the grid once its centre is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from ismrmrd.acquisition import AcquisitionHeader
from numpy.typing import NDArray

from gadgets.mrd.centre import centre_of

Line = NDArray[np.complex64]


@dataclass
class LineSet:
    """Lines by encoding step, added up over averages."""

    sums: dict[int, Line] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    headers: dict[int, AcquisitionHeader] = field(default_factory=dict)
    strengths: dict[int, float] = field(default_factory=dict)

    def add(self, step: int, line: Line, header: AcquisitionHeader) -> None:
        """Add a line ``(coils, ro)``; the header kept is that of the first average."""
        if step in self.sums:
            self.sums[step] = self.sums[step] + line
        else:
            self.sums[step], self.headers[step] = line, header
            self.strengths[step] = float(np.linalg.norm(line))
        self.counts[step] = self.counts.get(step, 0) + 1

    def add_all(self, other: LineSet, steps: Iterable[int]) -> None:
        """Add those of another set's lines that have these steps."""
        for step in steps:
            if step in other.sums and (step not in self.sums or self.sums[step].shape == other.sums[step].shape):
                self.add(step, other.mean(step), other.headers[step])

    def mean(self, step: int) -> Line:
        """The line ``(coils, ro)`` averaged over how often it came."""
        count = self.counts[step]
        return self.sums[step] if count == 1 else self.sums[step] / np.float32(count)

    @property
    def shape(self) -> tuple[int, int]:
        """(coils, ro) of its lines; (0, 0) while there are none."""
        return next((line.shape for line in self.sums.values()), (0, 0))

    def centre(self, told: int, pe: int) -> int:
        """The step through the centre of k-space: what the header told unless the lines know better."""
        named = {int(header.idx.user[5]) for header in self.headers.values()}
        only = named.pop() if len(named) == 1 else 0
        return centre_of(self.strengths, told, pe, only if only in self.sums else None)


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
        return self.step_of(index) in self.lines.sums

    def indices(self) -> list[int]:
        """Lines of the grid that came."""
        return [index for index in range(self.pe) if index in self]

    def off_grid(self) -> list[int]:
        """Encoding steps that came and lie on no line of the grid."""
        first, last = self.step_of(0), self.step_of(self.pe - 1)
        return sorted(step for step in self.lines.sums if not first <= step <= last)

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
