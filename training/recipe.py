"""A recipe: every stage of training in one command, then the bundles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pass_recon.types import InputError
from training.bundles import make_bundles
from training.engine.settings import read_table
from training.stages.registry import STAGES


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
