"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
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
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        aside.write_text(f"{text}\n", encoding="utf-8")
