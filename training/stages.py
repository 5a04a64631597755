"""The stages of training in the order in which they build on each other, and a recipe of all of them in one command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from pass_recon.types import InputError
from training.engine.settings import TrainingSettings, read_settings, read_table


@dataclass(frozen=True)
class Stage:
    """One training script.

    Attributes
    ----------
    name
        Of the command and of the table in a recipe.
    module, settings_class, function
        Where it is.
    after
        Settings that name the run of another table of the recipe.
    """

    name: str
    module: str
    settings_class: str
    function: str
    after: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> type[TrainingSettings]:
        """The class of its settings."""
        found: type[TrainingSettings] = getattr(import_module(self.module), self.settings_class)
        return found

    def settings(self, config: Path | None, changes: Sequence[str] = ()) -> TrainingSettings:
        """Settings from a file or a recipe, with changes on top."""
        return read_settings(self.kind, config, changes, section=self.name)

    def train(self, settings: TrainingSettings, data: Sequence[Path], run_folder: Path, device: str) -> None:
        """Train, or go on."""
        script: Callable[..., Any] = getattr(import_module(self.module), self.function)
        script(settings, data, run_folder, device)


_STAGE_1 = ("training.train_reconstruction", "ReconstructionSettings", "train_reconstruction")
_SETTLED = (("netad", "netad"), ("sampling", "sampling"))
STAGES = {
    stage.name: stage
    for stage in (
        Stage("backbone", "training.train_backbone", "BackboneSettings", "train_backbone"),
        Stage("netad", "training.finetune_netad", "NetADSettings", "finetune_netad", (("backbone", "backbone"),)),
        # One script five times, each from the weights of one before: few iterations, which are quick; then more; when
        # lines are settled, with the maps of the trained detectors in place of simulated ones; and at each acceleration
        # alone, which gets a reconstructor of its own.
        Stage("pretraining", *_STAGE_1),
        Stage("reconstruction", *_STAGE_1, (("initial", "pretraining"),)),
        Stage(
            "sampling",
            "training.train_sampling",
            "SamplingSettings",
            "train_sampling",
            (("reconstruction", "reconstruction"), ("netad", "netad")),
        ),
        Stage("guided", *_STAGE_1, (("initial", "reconstruction"), *_SETTLED)),
        Stage("guided_4x", *_STAGE_1, (("initial", "guided"), *_SETTLED)),
        Stage("guided_8x", *_STAGE_1, (("initial", "guided"), *_SETTLED)),
    )
}

# By the clock, and so quick on a GPU and so slow without one that it is no part of a recipe run in one go.
MIXTURE = Stage("mixture", "training.train_mixture", "MixtureTraining", "train_mixture")


def train_all(
    recipe: Path, data: Sequence[Path], folder: Path, device: str = "auto", *, changes: Sequence[str] = ()
) -> None:
    """Every stage of a recipe, each in a run folder of its own below ``folder``, then the bundles.

    What is done already is not done again, and what was interrupted goes on.

    Parameters
    ----------
    recipe
        YAML with a table a stage.
    data
        Prepared datasets.
    folder
        Of the run folders and the bundles.
    device
        ``auto``, ``cpu``, ``cuda`` …
    changes
        Settings to change, ``stage.name=value``.

    Raises
    ------
    InputError
        If the recipe lacks a stage or has one that nobody knows, or a change is for none of them.
    """
    from training.make_bundles import make_bundles

    tables = read_table(recipe)
    if set(tables) != set(STAGES):
        raise InputError(f"a recipe has the tables {', '.join(STAGES)}; {recipe} has {', '.join(map(str, tables))}")
    of_stages = _by_stage(changes)
    # All of them first: a slip in the last table must not show after hours.
    settings = {name: stage.settings(recipe, of_stages[name]) for name, stage in STAGES.items()}
    for name, stage in STAGES.items():
        runs: dict[str, Any] = {setting: str(folder / run) for setting, run in stage.after}
        stage.train(replace(settings[name], **runs), data, folder / name, device)
    make_bundles(folder, folder / "bundles")


def _by_stage(changes: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in STAGES}
    for change in changes:
        stage, dot, rest = change.partition(".")
        if not dot or stage not in found:
            raise InputError(f"a setting of a stage is changed with stage.name=value, got {change!r}; stages are "
                             f"{', '.join(STAGES)}")  # fmt: skip
        found[stage].append(rest)
    return found
