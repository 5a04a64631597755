"""What a benchmark is, and how it is measured: ours and a peer by turns, so that both meet the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Benchmark:
    """A piece of work, and who else does it.

    Attributes
    ----------
    name
        What is computed, with sizes.
    ours, peer
        Do it once.
    peer_name
        Whose ``peer`` is.
    repeats
        How often each is timed after one run to warm up; the fastest counts.
    """

    name: str
    ours: Callable[[], object]
    peer: Callable[[], object]
    peer_name: str
    repeats: int = 10


@dataclass(frozen=True)
class Measured:
    """What was measured of both sides.

    Attributes
    ----------
    name, peer_name
        Of what, and against whom.
    ours, peer
        The least of several runs, or one number.
    spread
        The greatest of ours over the least; 1 for one number.
    unit
        Of both.
    """

    name: str
    ours: float
    peer: float
    peer_name: str
    spread: float = 1.0
    unit: str = "ms"

    @property
    def ratio(self) -> float:
        """Ours in units of the peer's: below 1 is faster, or less."""
        return self.ours / self.peer


def measure(benchmark: Benchmark | Measured) -> Measured:
    """Time both sides by turns; what was measured elsewhere stays as it is."""
    if isinstance(benchmark, Measured):
        return benchmark
    sides = (benchmark.ours, benchmark.peer)
    for side in sides:
        side()
    runs = [[1e3 * _seconds(side) for side in sides] for _ in range(benchmark.repeats)]
    ours, peers = zip(*runs, strict=True)
    return Measured(benchmark.name, min(ours), min(peers), benchmark.peer_name, max(ours) / min(ours))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
