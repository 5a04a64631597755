"""What is told to people at a terminal: colours, which files and pipes never get, and nothing else that steers it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

GREEN, YELLOW, RED, BOLD = "32", "33", "31", "1"


def painted(text: str, colour: str, stream: TextIO) -> str:
    """The text in a colour, if the stream is a terminal and nobody asked for none (NO_COLOR)."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{colour}m{text}\033[0m"


_COLOURS = re.compile(r"(\033\[(?:0|1|3[1-3])m)")


class _Plain:
    """A text stream that lets through what is printable, ends of lines, and the colours of `painted`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what of it steers nothing; the rest is replaced by U+FFFD."""
        return self._stream.write(text if text.isprintable() else _plain(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _plain(text: str) -> str:
    parts = _COLOURS.split(text)  # the colours are every other one
    return "".join(part if number % 2 else "".join(map(_letter, part)) for number, part in enumerate(parts))


def _letter(letter: str) -> str:
    return letter if letter.isprintable() or letter in "\n\r\t" else "\N{REPLACEMENT CHARACTER}"


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """Nothing that a command writes steers the terminal: names in files of others may be made to hide or forge."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Plain(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
