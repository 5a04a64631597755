"""What is told to people at a terminal: colours, which files and pipes never get."""

from __future__ import annotations

import os
from typing import TextIO

GREEN, YELLOW, RED, BOLD = "32", "33", "31", "1"


def painted(text: str, colour: str, stream: TextIO) -> str:
    """The text in a colour, if the stream is a terminal and nobody asked for none (NO_COLOR)."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{colour}m{text}\033[0m"
