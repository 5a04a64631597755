"""What a benchmark is, and how it is timed: ours and a peer by turns, so that both meet the same machine."""

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
class Timing:
    """Seconds of the fastest run of each side."""

    ours: float
    peer: float

    @property
    def ratio(self) -> float:
        """Time of ours in units of that of the peer: below 1 is faster."""
        return self.ours / self.peer


def measure(benchmark: Benchmark) -> Timing:
    """Time both sides by turns."""
    sides = (benchmark.ours, benchmark.peer)
    for side in sides:
        side()
    runs = [[_seconds(side) for side in sides] for _ in range(benchmark.repeats)]
    ours, peer = (min(seconds) for seconds in zip(*runs, strict=True))
    return Timing(ours, peer)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
