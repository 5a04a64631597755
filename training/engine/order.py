"""In which order training slices come: decided by the seed and the number of the step alone, so that runs can go on.

A case file is a shard: its slices lie in it in one piece, one after the other, and the manifest is the index of all.
With ``order=slices`` all slices of a source are shuffled, which reads here and there. With ``order=cases`` each process
has cases of its own and goes through them a few at a time, shuffling the slices of those: whole files are read once a
lap and by one process, as shared file systems like it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler

from pass_recon.phantom.draws import mixed_seed
from training.data.dataset import SliceDataset
from training.engine.processes import Processes
from training.engine.settings import ReadingSettings

Matrix = tuple[int, int]
"""``(ro, pe)``."""
Key = tuple[int, int]
"""Place in the order of all slices ever seen, and number of the slice in its dataset."""


@dataclass(frozen=True)
class Member:
    """Slices of one source that have one size: their numbers, and the case of each."""

    source: int
    numbers: tuple[int, ...]
    cases: tuple[str, ...]


class Order(Sampler[list[Key]]):
    """Keys of batch after batch for one process.

    A matrix size comes as often as it does in the sources, spread evenly over the batches; within a size sources take
    turns.

    Parameters
    ----------
    sources
        Datasets; numbers of slices go on from one to the next.
    settings
        Batch, accumulation, steps, seed and order.
    processes
        Each gets other slices.
    first
        Step to begin with.
    """

    def __init__(
        self, sources: Sequence[SliceDataset], settings: ReadingSettings, processes: Processes, first: int
    ) -> None:
        self._settings, self._processes, self._first = settings, processes, first
        self._shares: dict[Matrix, float] = {}
        self._members: dict[Matrix, list[Member]] = {}
        before = 0
        for place, source in enumerate(sources):
            matrices = source.matrices()
            for matrix, count in Counter(matrices).items():
                self._shares[matrix] = self._shares.get(matrix, 0.0) + count / len(source) / len(sources)
                chosen = [number for number, found in enumerate(matrices) if found == matrix]
                cases = tuple(source.entries[number][0] for number in chosen)
                numbers = tuple(before + number for number in chosen)
                self._members.setdefault(matrix, []).append(Member(place, numbers, cases))
            before += len(source)

    def __iter__(self) -> Iterator[list[Key]]:
        settings, processes = self._settings, self._processes
        done = dict.fromkeys(self._shares, 0)
        streams = {matrix: [self._by_cases(member) for member in members] for matrix, members in self._members.items()}
        begin = self._first * settings.accumulate * processes.count
        for batch in range(settings.steps * settings.accumulate * processes.count):
            matrix = max(done, key=lambda matrix: self._shares[matrix] * (batch + 1) - done[matrix])
            within = done[matrix] * settings.batch
            done[matrix] += 1
            if batch % processes.count != processes.rank or (batch < begin and settings.order == "slices"):
                continue
            places = range(batch * settings.batch, (batch + 1) * settings.batch)
            if settings.order == "slices":
                numbers = [self._slice(matrix, within + item) for item in range(settings.batch)]
            else:
                turns = streams[matrix]
                numbers = [next(turns[(within + item) % len(turns)]) for item in range(settings.batch)]
            if batch >= begin:
                yield list(zip(places, numbers, strict=True))

    def _slice(self, matrix: Matrix, place: int) -> int:
        """Within a source all slices come once, in a new order each time round."""
        members = self._members[matrix]
        turn, which = divmod(place, len(members))
        numbers = members[which].numbers
        lap, offset = divmod(turn, len(numbers))
        return numbers[self._shuffled(len(numbers), "order", members[which].source, lap)[offset]]

    def _by_cases(self, member: Member) -> Iterator[int]:
        """Slices of a source for this process, without end: some cases at a time, mixed; anew each time round."""
        slices: dict[str, list[int]] = {}
        for number, case in zip(member.numbers, member.cases, strict=True):
            slices.setdefault(case, []).append(number)
        names, lap = sorted(slices), 0
        rank, count, at_once = self._processes.rank, self._processes.count, self._settings.cases_at_once
        while True:
            lap += 1
            turn = [names[place] for place in self._shuffled(len(names), "cases", member.source, lap)]
            own = turn[rank::count] or [turn[rank % len(turn)]]
            for start in range(0, len(own), at_once):
                mixed = [number for name in own[start : start + at_once] for number in slices[name]]
                for place in self._shuffled(len(mixed), "mixed", member.source, lap, start, rank):
                    yield mixed[place]

    def _shuffled(self, count: int, *why: str | int) -> list[int]:
        chance = torch.Generator().manual_seed(mixed_seed(self._settings.seed, *why))
        order: list[int] = torch.randperm(count, generator=chance).tolist()
        return order
