"""Settings that every stage of training has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_type_hints

from pass_recon.common.settings import checked
from pass_recon.types import InputError
from training.engine.trackers import TRACKERS

RunPath = Annotated[str, "run"]
"""Folder of another run; in a recipe, the name of one of its tables. Empty for none."""


@checked
@dataclass(frozen=True)
class TrainingSettings:
    """What every stage needs.

    Attributes
    ----------
    steps
        Optimiser steps of the whole run; the learning rate falls along a cosine over them. A run goes on with more.
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
    keep
        Which weights the next stage and bundles get: those of the ``last`` validation, or of the ``best``. Both are in
        the run folder.
    patience
        Validations without a better one after which a run ends; 0 for never.
    fraction
        Share of the training cases of each dataset and examination that is used, always the same ones.
    trackers
        Where numbers and pictures are shown: ``tensorboard``, ``wandb``.
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
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0
    workers: int = 0
    epoch: int = 200
    validation_slices: int = 6
    keep: Literal["last", "best"] = "last"
    patience: int = 0
    fraction: float = 1.0
    trackers: tuple[str, ...] = ("tensorboard",)
    checkpoint_minutes: float = 3.0
    initial: RunPath = ""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "epoch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("workers", "warmup", "weight_decay", "validation_slices", "patience"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("learning_rate", "gradient_clip", "checkpoint_minutes"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.fraction <= 1:
            raise InputError(f"fraction must be above 0 and at most 1, got {self.fraction}")
        if unknown := sorted(set(self.trackers) - set(TRACKERS)):
            raise InputError(f"there is no tracker {', '.join(unknown)}, only {', '.join(TRACKERS)}")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay must be at least 0 and below 1, got {self.ema_decay}")


@checked
@dataclass(frozen=True)
class ReadingSettings(TrainingSettings):
    """Of stages that read k-space slice by slice.

    Attributes
    ----------
    order
        ``slices``: all are shuffled; ``cases``: each process goes through case files of its own, some at a time, and
        shuffles the slices of those, which reads every file in one go.
    cases_at_once
        Case files whose slices are mixed with ``order=cases``.
    """

    order: Literal["slices", "cases"] = "slices"
    cases_at_once: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cases_at_once < 1:
            raise InputError(f"cases_at_once must be at least 1, got {self.cases_at_once}")


def run_settings(settings_class: type[TrainingSettings]) -> list[str]:
    """The settings that are folders of other runs."""
    hints = get_type_hints(settings_class, include_extras=True)
    return [name for name, hint in hints.items() if hint == RunPath]
