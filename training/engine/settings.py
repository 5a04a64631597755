"""Settings of a training run: a dataclass a stage, read from YAML, checked by name and type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pass_recon.config import from_dict
from pass_recon.types import InputError

Settings = TypeVar("Settings", bound="TrainingSettings")


@dataclass(frozen=True)
class TrainingSettings:
    """What every stage needs.

    Attributes
    ----------
    steps
        Optimiser steps of the whole run; the learning rate falls along a cosine over them.
    batch
        Slices that go through the network together, in each process.
    accumulate
        Batches whose gradients are averaged for one step: a larger batch in the same memory.
    learning_rate
        At the top of the schedule.
    warmup
        Steps on which the learning rate rises from 0.
    weight_decay
        Of AdamW.
    gradient_clip
        Largest norm of the gradient of a step; longer ones are shortened to it.
    ema_decay
        The weights that are kept are an exponential moving average over steps with this decay.
    precision
        ``"auto"``: bfloat16 for the networks (never for Fourier transforms and CG) where the GPU has it, else
        ``"float32"``.
    seed
        Of weights, order of slices, noise and augmentation.
    workers
        Processes that read ahead; 0 reads in the training process.
    epoch
        Steps between validations.
    validation_slices
        How many slices a validation looks at.
    checkpoint_minutes
        At most so much work is lost when the process dies.
    initial
        Run folder whose weights this run starts from, or a bundle whose reconstructor it starts from; empty for
        random ones.
    """

    steps: int = 1000
    batch: int = 2
    accumulate: int = 1
    learning_rate: float = 1e-3
    warmup: int = 20
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    ema_decay: float = 0.99
    precision: str = "auto"
    seed: int = 0
    workers: int = 0
    epoch: int = 200
    validation_slices: int = 6
    checkpoint_minutes: float = 3.0
    initial: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "epoch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "gradient_clip", "checkpoint_minutes"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay must be at least 0 and below 1, got {self.ema_decay}")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise InputError(f"precision is auto, float32 or bfloat16, got {self.precision!r}")


def read_settings(
    kind: type[Settings], path: str | Path | None, changes: Sequence[str] = (), *, section: str = ""
) -> Settings:
    """Settings from a YAML file, with changes of the form ``name=value`` on top.

    A file with a table called ``section`` is a recipe of several stages, of which that table counts.

    Raises
    ------
    InputError
        If the file is missing or no table, a name is unknown, or a value is of the wrong type or out of range.
    """
    values = {} if path is None else read_table(path)
    if isinstance(values.get(section), dict):
        values = values[section]
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"a setting is changed with name=value, got {change!r}")
        _change(values, name.strip().split("."), yaml.safe_load(text))
    return from_dict(kind, values)


def read_table(path: str | Path) -> dict[str, Any]:
    """A YAML file whose top level is a table.

    Raises
    ------
    InputError
        If it is missing or is none.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no configuration {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must be a table of names and values, got {type(values).__name__}")
    return values


def _change(values: dict[str, Any], names: Sequence[str], value: Any) -> None:
    for name in names[:-1]:
        values = values.setdefault(name, {})
    values[names[-1]] = value
