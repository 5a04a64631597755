"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """Give a path to write to, renamed to ``path`` if all goes well and removed if not.

    The file lies in the folder of ``path``, for only there is the renaming atomic.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    aside.touch(exist_ok=False)  # a folder that cannot be written to is named here, and not by what writes the content
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: str | Path, values: Any) -> None:
    """Write plain, finite values for people and programs to read, whole or not at all; folders on the way are made.

    Raises
    ------
    ValueError, TypeError
        If a value is NaN, infinite, or nothing that JSON knows.
    """
    text = readable_json(values)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def readable_json(values: Any, width: int = 120) -> str:
    """JSON in which whatever fits into ``width`` columns stands on one line; raises as `write_json` does."""
    return f"{_fitted(values, width)}\n"


def _fitted(value: Any, width: int, indent: str = "", name: str = "") -> str:
    """``name`` and a value, on one line if it fits, else an item a line."""
    line = name + json.dumps(value, ensure_ascii=False, allow_nan=False)
    if len(indent) + len(line) <= width or not value or not isinstance(value, dict | list | tuple):
        return line
    within = f"{indent}  "
    if isinstance(value, dict):
        named = {f"{json.dumps(str(key), ensure_ascii=False)}: ": item for key, item in value.items()}
        items = [_fitted(item, width, within, key) for key, item in named.items()]
    elif any(isinstance(item, dict | list | tuple) for item in value):
        items = [_fitted(item, width, within) for item in value]
    else:
        items = _packed(value, width - len(within))
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    separator = f",\n{within}"
    return f"{name}{opening}\n{within}{separator.join(items)}\n{indent}{closing}"


def _packed(values: Sequence[Any], width: int) -> list[str]:
    """Plain values in lines that they fill."""
    lines: list[str] = []
    for item in (json.dumps(value, ensure_ascii=False, allow_nan=False) for value in values):
        if lines and len(lines[-1]) + len(item) + 3 <= width:
            lines[-1] += f", {item}"
        else:
            lines.append(item)
    return lines
