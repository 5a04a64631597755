"""Random numbers of a patient: one stream a purpose, so that drawing lesions never changes the anatomy or the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pass_recon.types import InputError

_PER_PATIENT = 8192
_MASK = (1 << 64) - 1


def mixed_seed(*parts: int | str) -> int:
    """One 63-bit seed from numbers and words, well spread even where they differ by one (splitmix64).

    Python's own ``hash`` is salted for strings and differs between processes.
    """
    state = 0x9E3779B97F4A7C15
    for part in parts:
        value = int.from_bytes(part.encode(), "little") if isinstance(part, str) else part
        while True:
            state = (state + (value & _MASK) + 0x9E3779B97F4A7C15) & _MASK
            state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
            state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
            state ^= state >> 31
            value >>= 64
            if value in (0, -1):
                break
    return state >> 1


def device_generator(device: str | torch.device, *parts: int | str) -> torch.Generator:
    """A generator on the device for what has one value a pixel or more: noise and texture grain."""
    return torch.Generator(device=device).manual_seed(mixed_seed(*parts))


class Draws:
    """Independent uniform numbers for a batch of patients, taken in the order in which they are asked for.

    The numbers of a patient depend on its seed and the purpose alone: not on the batch it is part of, on the device, or
    on the number of threads.

    Parameters
    ----------
    seeds
        One seed a patient.
    purpose
        Name of the stream.
    device
        Where the numbers are wanted.
    """

    def __init__(self, seeds: Sequence[int], purpose: str, device: str | torch.device = "cpu") -> None:
        rows = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(mixed_seed(seed, purpose))
            rows.append(torch.rand(_PER_PATIENT, generator=generator))
        self._values = torch.stack(rows).to(device)
        self._next = 0
        self.patients = len(rows)
        self.device = self._values.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """``(patients, *shape)`` uniform numbers between low and high."""
        count = math.prod(shape)
        stop = self._next + count
        if stop > self._values.shape[1]:
            raise InputError(f"a patient has {self._values.shape[1]} random numbers a purpose, {stop} were asked for")
        taken = self._values[:, self._next : stop].reshape(self.patients, *shape)
        self._next = stop
        return low + (high - low) * taken

    def normal(self, mean: float, deviation: float, *shape: int) -> Tensor:
        """``(patients, *shape)`` normal numbers, cut at 2.5 deviations so that no patient is a monster."""
        quantile = 0.5 + 0.9876 * (self.uniform(0.0, 1.0, *shape) - 0.5)
        return mean + deviation * math.sqrt(2.0) * torch.erfinv(2.0 * quantile - 1.0)

    def sign(self, *shape: int) -> Tensor:
        """``(patients, *shape)`` of −1 and 1."""
        return torch.where(self.uniform(0.0, 1.0, *shape) < 0.5, -1.0, 1.0)


class Streams:
    """The streams of a batch of patients by purpose, so that what one part draws never shifts what another gets.

    Parameters
    ----------
    seeds
        One seed a patient.
    device
        Where the numbers are wanted.
    """

    def __init__(self, seeds: Sequence[int], device: str | torch.device = "cpu") -> None:
        self.seeds = tuple(seeds)
        self.device = torch.device(device)

    def __call__(self, purpose: str) -> Draws:
        """The stream of that purpose, from its beginning."""
        return Draws(self.seeds, purpose, self.device)
