"""One process or many: `torchrun` starts them, this module tells each its place and its device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from pass_recon.types import InputError

LOSS = "loss"


@dataclass(frozen=True)
class Processes:
    """The place of this process among those that train together.

    Attributes
    ----------
    rank, count
        Number of this process, and how many there are.
    device
        Where it computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0


class Together(nn.Module):
    """An objective in one of several processes, which tells the others through its gradients that it wants to stop.

    Gradients are averaged anyway, so this costs no further message. ``wishes`` is 0 and stays so; its gradient is the
    mean over the processes of what each gives to `forward`.
    """

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective
        self.wishes = nn.Parameter(torch.zeros(2, device=next(objective.parameters()).device))

    def forward(self, wishes: Tensor, *inputs: Any) -> dict[str, Tensor]:
        """The losses."""
        losses = dict(self.objective(*inputs))
        losses[LOSS] = losses[LOSS] + (self.wishes * wishes).sum()
        return losses


@contextmanager
def joined_processes(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that `torchrun` started, or be the only one.

    Parameters
    ----------
    device
        ``auto`` (CUDA if there is any), ``cpu``, ``cuda`` …; with several GPUs each process takes its own.

    Raises
    ------
    InputError
        If the device is not there.
    """
    count, rank, local = (int(os.environ.get(name, default)) for name, default in _TORCHRUN)
    place = _device(device, local)
    if count == 1 or distributed.is_initialized():
        # Joined already: a second group over the same rendezvous may never come together.
        yield Processes(rank, count, place)
        return
    # The others wait in the next step's gradients while the first validates.
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    try:
        yield Processes(rank, count, place)
    finally:
        distributed.destroy_process_group()


_TORCHRUN = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))


def _device(name: str, local: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"there is no device {name!r}: {error}") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(f"device {name!r} was asked for, but this machine has no CUDA device")
        device = torch.device("cuda", local if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device
