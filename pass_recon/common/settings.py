"""Settings: frozen dataclasses that explain themselves, read from plain values and checked by name, type and range.

One mechanism for networks on a bundle's card, for the stages of training, for recipes and for the evaluation. pydantic
checks names and types, a class its own ranges in ``__post_init__``. Names and default values stand in the dataclass,
what they mean under ``Attributes`` of its docstring.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from pass_recon.types import InputError

Settings = TypeVar("Settings")

checked = with_config(ConfigDict(extra="forbid"))
"""Decorator of a settings class: names that it does not have are errors."""


def from_dict(settings_class: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Build settings from plain values, as JSON and YAML know them; what is left out takes its default.

    Raises
    ------
    InputError
        If a name is unknown or missing, or a value is of the wrong type or out of range.
    """
    name = settings_class.__name__
    if not isinstance(values, Mapping):
        raise InputError(f"{name} must be a table of names and values, got {values!r}")
    of: Any = settings_class
    adapter: TypeAdapter[Settings] = _adapter(of)
    try:
        # Of JSON, a strict check takes a list for a tuple and 2 for 2.0, but neither "3" nor true for a number.
        return adapter.validate_json(json.dumps(dict(values), default=_plain), strict=True)
    except ValidationError as error:
        raise InputError(f"{name}: {'; '.join(_words(item, settings_class) for item in error.errors())}") from error


def to_dict(settings: Any) -> dict[str, Any]:
    """Plain values, as JSON knows them, that ``from_dict`` turns back into ``settings``."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings), default=_plain))
    return plain


def read_table(path: str | Path) -> dict[str, Any]:
    """A YAML file whose top level is a table.

    Raises
    ------
    InputError
        If it is missing or is none.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file of settings {path}")
    try:
        values = parsed(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must be a table of names and values, got {type(values).__name__}")
    return values


def changed(values: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A copy of a table with changes of the form ``name=value`` or ``table.name=value`` on top, values in YAML.

    Raises
    ------
    InputError
        If a change has another form.
    """
    result: dict[str, Any] = json.loads(json.dumps(dict(values)))
    for change in changes:
        name, equals, text = change.partition("=")
        *tables, last = name.strip().split(".")
        if not equals or not last:
            raise InputError(f"a setting is changed with name=value, got {change!r}")
        table = result
        for step in tables:
            table = table.setdefault(step, {})
            if not isinstance(table, dict):
                raise InputError(f"{step} is no table, so {name.strip()} is no setting")
        table[last] = parsed(text)
    return result


def parsed(text: str) -> Any:
    """A value in YAML; ``1e-3`` is a number, as in YAML 1.2."""
    return yaml.load(text, _Loader)


def explained(settings_class: type[Any]) -> list[tuple[str, str]]:
    """The name of every setting and what it means, from the docstrings of the class and its bases."""
    words: dict[str, str] = {}
    for base in inspect.getmro(settings_class)[:-1]:
        words = {**_attributes(base.__dict__.get("__doc__") or ""), **words}
    return [(item.name, words.get(item.name, "")) for item in dataclasses.fields(settings_class)]


class _Loader(yaml.SafeLoader):
    """YAML without pickle, and with YAML 1.2's numbers."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


@cache
def _adapter(settings_class: Any) -> TypeAdapter[Any]:
    return TypeAdapter(settings_class)


def _words(error: Any, settings_class: type[Any]) -> str:
    place = ".".join(map(str, error["loc"]))
    if error["type"] == "unexpected_keyword_argument":
        known = sorted(item.name for item in dataclasses.fields(settings_class)) if len(error["loc"]) == 1 else []
        return f"there is no setting {place}" + (f", only {', '.join(known)}" if known else "")
    if error["type"] == "missing":
        return f"{place} is missing"
    return f"{place}{error['msg'].removeprefix('Input').replace(' should ', ' must ')}, got {error['input']!r}"


def _plain(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a setting is a number, a text, a list or a table, got {value!r}")


def _attributes(docstring: str) -> dict[str, str]:
    """Names under the ``Attributes`` of a docstring in numpy's style, with what is said of them."""
    found: dict[str, str] = {}
    _, _, section = inspect.cleandoc(docstring).partition("Attributes\n----------\n")
    for entry in re.split(r"\n(?=\S)", section):
        names, _, text = entry.partition("\n")
        if text.startswith(" "):
            found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found
