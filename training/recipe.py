"""A recipe: the runs of training in their order, a YAML table each.

The name of a table is that of its run folder. ``stage`` says which script it is for; by default the one of the table's
name. Settings that are run folders (`RunPath`) name tables further up. ``base`` names a recipe whose tables are taken
where this one says nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pass_recon.common.settings import changed, from_dict, read_table
from pass_recon.types import InputError
from training.engine.settings import TrainingSettings, run_settings
from training.stages.registry import STAGES, Stage

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Run:
    """A table of a recipe: a stage with its settings, and the folder of the run."""

    stage: Stage
    settings: TrainingSettings
    folder: Path


def recipe_file(name: Path) -> Path:
    """A recipe that comes with the package by its name, such as ``shipped``; any other path as it is."""
    own = RECIPES / f"{name}.yaml"
    return own if not name.exists() and name.parent == Path() and own.is_file() else name


def read_recipe(recipe: Path, folder: Path, changes: Sequence[str] = ()) -> list[Run]:
    """All runs of a recipe, every setting checked: a slip in the last table must not show after hours.

    Raises
    ------
    InputError
        If a table is not understood, a run builds on one that comes later, or bundles would lack a part.
    """
    tables = _tables(recipe)
    for change in changes:
        if change.partition("=")[0].strip().split(".")[0] not in tables:
            raise InputError(f"a setting of a recipe is changed with run.name=value, got {change!r}; runs are "
                             f"{', '.join(tables)}")  # fmt: skip
    tables = _without_unused_backbones(changed(tables, [*changes, *_instead_of_backbones(changes)]))
    runs = [_run(name, tables, folder, before) for before, name in enumerate(tables)]
    if missing := {"reconstruction", "sampling"} - {run.stage.name for run in runs}:
        raise InputError(f"bundles need a run of every stage but backbone and netad; {recipe} has none of "
                         f"{', '.join(sorted(missing))}")  # fmt: skip
    return runs


def _tables(recipe: Path) -> dict[str, Any]:
    """What a file says, on top of what its base says."""
    tables = read_table(recipe_file(recipe))
    base = tables.pop("base", None)
    if base is None:
        return tables
    beside = recipe_file(recipe).parent / f"{base}.yaml"
    below = _tables(beside if beside.is_file() else Path(str(base)))
    return {name: {**below.get(name, {}), **tables.get(name, {})} for name in {**below, **tables}}


def _instead_of_backbones(changes: Sequence[str]) -> list[str]:
    """A published CLIP, given by name or as files, takes the place of the recipe's own backbone."""
    given = [change.partition("=")[0].strip() for change in changes if change.partition("=")[2].strip()]
    ends = [(name.rpartition(".")[0], name.rpartition(".")[2]) for name in given]
    return [f"{table}{'.' if table else ''}backbone=''" for table, setting in ends if setting in ("clip", "path")]


def _without_unused_backbones(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables without backbones that no run is built on."""
    used = {value for table in tables.values() if isinstance(table, dict) for value in table.values()
            if isinstance(value, str)}  # fmt: skip
    return {
        name: table
        for name, table in tables.items()
        if not (isinstance(table, dict) and table.get("stage", name) == "backbone" and name not in used)
    }


def read_run(stage: Stage, path: Path | None, folder: Path, changes: Sequence[str] = (), *, table: str = "") -> Run:
    """One run, from a table of a recipe or from a file with the settings of one stage alone.

    Parameters
    ----------
    stage
        The script.
    path
        The file; without one, defaults.
    folder
        Of the run. Other runs of a recipe lie beside it.
    changes
        Settings to change, ``name=value``.
    table
        Of the recipe; by default the stage's name.

    Raises
    ------
    InputError
        If a setting is not understood, or there is no such table.
    """
    values, name = ({} if path is None else _tables(path)), table or stage.name
    recipe = {key: entry for key, entry in values.items() if isinstance(entry, dict)}
    if name not in recipe and (table or recipe.keys() == values.keys() != set()):
        raise InputError(f"{path} has no table {name}, only {', '.join(values)}")
    of_run = changed(recipe.get(name, values), [*changes, *_instead_of_backbones(changes)])
    if of_run.pop("stage", stage.name) != stage.name:
        raise InputError(f"the table {name} of {path} is for another stage than {stage.name}")
    others = [key for key in recipe if key != name] if name in recipe else []
    return Run(stage, from_dict(stage.settings_class, _with_folders(stage, of_run, others, folder.parent)), folder)


def _run(name: str, tables: Mapping[str, Any], folder: Path, before: int) -> Run:
    values = tables[name]
    if not isinstance(values, dict):
        raise InputError(f"a recipe is a table of tables, but {name} is {values!r}")
    values = dict(values)
    stage = values.pop("stage", name)
    if stage not in STAGES:
        raise InputError(f"{name}: there is no stage {stage!r}, only {', '.join(STAGES)}; give one with 'stage'")
    settings_class = STAGES[stage].settings_class
    earlier = list(tables)[:before]
    for setting in run_settings(settings_class):
        if values.get(setting) in tables and values[setting] not in earlier:
            raise InputError(f"{name}.{setting} is {values[setting]}, which comes later in the recipe")
    try:
        settings = from_dict(settings_class, _with_folders(STAGES[stage], values, earlier, folder))
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return Run(STAGES[stage], settings, folder / name)


def _with_folders(stage: Stage, values: Mapping[str, Any], runs: Sequence[str], folder: Path) -> dict[str, Any]:
    """The same table, with folders in place of the names of other runs."""
    named = [name for name in run_settings(stage.settings_class) if values.get(name) in runs]
    return {**values, **{name: str(folder / values[name]) for name in named}}
