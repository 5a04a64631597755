"""Texts of others on their way to people: nothing in them that hides, reverses or steers what stands beside it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from pass_recon.types import printable

_LONGEST = 1000
Record = TypeVar("Record")


def with_plain_texts(record: Record) -> Record:
    """The same record, of dataclasses, tuples and dicts, with each text in it on one line, printable and not too long.

    Control characters, such as those that turn the direction of reading, are replaced by U+FFFD.
    """
    plain: Record = _plain(record)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        text = printable(" ".join(value.split()))
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        items = map(_plain, value)
        return value._make(items) if hasattr(value, "_make") else tuple(items)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _plain(getattr(value, field.name)) for field in fields(value)})
    return value
