"""What a checkpoint holds of networks and optimisers, as tensors by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def above(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with a prefix before their names."""
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter, by ``number.name``."""
    states = optimiser.state_dict()["state"]
    return {f"{number}.{name}": value for number, state in states.items() for name, value in state.items()}


def load_optimiser_state(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Let an optimiser remember what `optimiser_state` gave; its settings stay."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        weight = weights[int(number)]
        # Fused optimisers go through the memory of both side by side, so its order must be the same too.
        alike = value.shape == weight.shape
        states.setdefault(int(number), {})[name] = torch.empty_like(weight).copy_(value) if alike else value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
