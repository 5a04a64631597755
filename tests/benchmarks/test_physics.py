"""The benchmarks still run, and latency has not been lost on the way."""

from __future__ import annotations

import pytest

from tests.benchmarks.physics import benchmarks
from tests.benchmarks.timing import Benchmark, measure


def test_timing_takes_turns_and_keeps_the_fastest() -> None:
    order: list[str] = []
    timing = measure(Benchmark("work", lambda: order.append("ours"), lambda: order.append("peer"), "peer", repeats=3))
    assert order == ["ours", "peer"] * 4
    assert 0 < timing.ours < 100
    assert timing.ratio == timing.ours / timing.peer


@pytest.mark.slow
def test_coil_maps_and_sense_take_less_than_half_the_time_of_sigpy() -> None:
    ratios = {benchmark.name: measure(benchmark).ratio for benchmark in benchmarks() if "fft" not in benchmark.name}
    assert len(ratios) == 2
    assert max(ratios.values()) < 0.5, ratios
