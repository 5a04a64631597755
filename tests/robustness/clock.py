"""A clock that jumps: the time of day of other processes, by a library that is compiled here and preloaded there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

COMPILER = shutil.which("cc")
VARIABLE = "JUMPING_CLOCK"
_SOURCE = Path(__file__).with_name("clock.c")


class Clock:
    """The time of day of processes that have its environment.

    Parameters
    ----------
    folder
        For the library, and for the file that tells how far ahead the clock is.

    Attributes
    ----------
    environment
        Of the processes; empty where there is no compiler.
    """

    def __init__(self, folder: Path) -> None:
        self._ahead = Path(os.environ.get(VARIABLE, folder / "clock"))
        self.environment: dict[str, str] = {}
        if COMPILER is None:
            return
        library = folder / "clock.so"
        subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", library, _SOURCE], check=True)
        self.environment = {"LD_PRELOAD": str(library), VARIABLE: str(self._ahead)}
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """Be so many seconds ahead of what is right."""
        aside = self._ahead.with_suffix(".new")
        aside.write_text(str(seconds))
        aside.replace(self._ahead)
