"""Which slices come when, in one process and in several."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
import torch

from training.engine.order import Order
from training.engine.processes import Processes
from training.engine.settings import ReadingSettings

SETTINGS = ReadingSettings(steps=60)
SQUARE, NARROW = (320, 320), (320, 213)


class Source:
    """Stands for a dataset: cases of so many slices, of one size each."""

    def __init__(self, *cases: tuple[str, int, tuple[int, int]]) -> None:
        self.entries = [(name, number) for name, slices, _ in cases for number in range(slices)]
        self._matrices = [matrix for _, slices, matrix in cases for _ in range(slices)]

    def __len__(self) -> int:
        return len(self.entries)

    def matrices(self) -> list[tuple[int, int]]:
        return self._matrices


def order(sources, settings, rank=0, count=1, first=0):
    return list(Order(sources, settings, Processes(rank, count, torch.device("cpu")), first))


def one(slices: int) -> Source:
    return Source(("case", slices, SQUARE))


def test_a_batch_has_one_size_and_sizes_come_as_often_as_they_are():
    settings = replace(SETTINGS, steps=40, batch=2)
    source = Source(("a", 6, SQUARE), ("b", 2, NARROW))
    batches = [batch for rank in (0, 1) for batch in order([source], settings, rank, 2)]
    narrow = [sum(number >= 6 for _, number in batch) for batch in batches]
    assert set(narrow) == {0, 2}
    assert sum(narrow) == 40  # a quarter of 160
    assert len({place for batch in batches for place, _ in batch}) == 160


def test_kinds_take_turns_and_every_slice_comes_once_a_lap():
    keys = [key for batch in order([one(3), one(6)], replace(SETTINGS, steps=6, batch=2)) for key in batch]
    assert [place for place, _ in keys] == list(range(12))
    small, large = [number for _, number in keys[::2]], [number for _, number in keys[1::2]]
    assert sorted(small[:3]) == sorted(small[3:]) == [0, 1, 2]
    assert sorted(large) == list(range(3, 9))


@pytest.mark.parametrize("kind", ["slices", "cases"])
def test_order_goes_on_where_it_stopped(kind):
    settings = replace(SETTINGS, steps=9, batch=2, order=kind, cases_at_once=2)
    sources = [Source(("a", 3, SQUARE), ("b", 2, NARROW), ("c", 4, SQUARE)), one(5)]
    whole = order(sources, settings, 1, 2)
    assert order(sources, settings, 1, 2, first=4) == whole[4:]
    assert whole != order(sources, replace(settings, seed=1), 1, 2)


def test_slices_are_shared_out():
    settings = replace(SETTINGS, steps=4, batch=2)
    two = [order([one(5)], settings, rank, 2) for rank in (0, 1)]
    together = [first + second for first, second in zip(*two, strict=True)]
    assert together == order([one(5)], replace(settings, batch=4))


def test_cases_are_read_one_after_the_other_and_by_one_process():
    source = Source(*((f"case{number}", 4, SQUARE) for number in range(12)))
    settings = replace(SETTINGS, steps=12, batch=2, order="cases", cases_at_once=2)
    seen = []
    for rank in (0, 1):
        numbers = [number for batch in order([source], settings, rank, 2) for _, number in batch]
        assert sorted(numbers) == sorted(set(numbers))  # a lap of 24 slices
        cases = [source.entries[number][0] for number in numbers]
        assert all(len(set(cases[start : start + 8])) == 2 for start in range(0, 24, 8))
        assert cases[:8] != sorted(cases[:8])  # mixed
        seen.append(set(cases))
    assert not seen[0] & seen[1]
    assert len(seen[0] | seen[1]) == 12


def test_more_processes_than_cases_share_them():
    settings = replace(SETTINGS, steps=3, batch=1, order="cases")
    assert all(len(order([one(2)], settings, rank, 4)) == 3 for rank in range(4))
    endless = Order([one(2)], settings, Processes(3, 4, torch.device("cpu")), 0)
    assert len(list(islice(endless, 10))) == 3
