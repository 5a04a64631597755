"""Networks of fixed weights inside an objective: moved with it, but no part of what a run learns and keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class Frozen(nn.Module):
    """Holds networks that a stage only looks through.

    They follow the objective to its device. Copies of the objective, such as its moving average, share them: nothing in
    them moves. Runs neither save nor load them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return self


def learned_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module without that of frozen networks in it."""
    fixed = _fixed(module)
    return {name: value for name, value in module.state_dict().items() if not name.startswith(fixed)}


def load_learned_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `learned_state` gave, every name of it.

    Raises
    ------
    RuntimeError
        If names are missing or too many.
    """
    fixed = _fixed(module)
    present = {name: value for name, value in module.state_dict().items() if name.startswith(fixed)}
    module.load_state_dict({**present, **state})


def _fixed(module: nn.Module) -> tuple[str, ...]:
    return tuple(f"{name}." for name, part in module.named_modules() if isinstance(part, Frozen) and name)
