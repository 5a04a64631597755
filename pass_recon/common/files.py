"""Files that are there whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A path beside the target to write to: it takes the target's name at the end, and is removed where that fails.

    A process that dies leaves ``<name>.partial``, which the next one overwrites.
    """
    path = Path(path)
    aside = path.with_name(f"{path.name}.partial")
    try:
        yield aside
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, found: Any) -> None:
    """Figures for people and programs to read, whole or not at all; folders on the way are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        aside.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
