"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from pass_recon.types import InputError

PARTIAL = ".partial"
_POLL_S = 0.05


@contextmanager
def written_aside(path: str | Path, *, private: bool = False) -> Iterator[Path]:
    """Give a path to write to, renamed to ``path`` if all goes well and removed if not.

    The file lies in the folder of ``path``, for only there is the renaming atomic. Its name tells the process that
    writes it: what processes that were killed have left is removed first, see `remove_abandoned`. What is ``private``,
    as all is that shows a patient, is for its owner alone; a file that is there already keeps its permissions.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    aside = path.with_name(f".{path.name}.{_this_machine()}-{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    remove_abandoned(path.parent, path.name)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600 if private else 0o666
    # A folder that cannot be written to is named here, and not by what writes the content.
    aside.touch(mode, exist_ok=False)
    try:
        yield aside
        aside.replace(path)
    except OSError as error:  # a full disk does not tell which file it is about, and of this one nobody knows the name
        if error.errno is not None and error.filename in (None, str(aside)):
            error.filename = str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)


def remove_abandoned(folder: str | Path, name: str = "") -> None:
    """Remove what processes of this machine that were killed have left while they wrote ``name``, or any file there."""
    of_process = re.compile(rf".*\.{re.escape(_this_machine())}-(\d+)-[0-9a-f]+{re.escape(PARTIAL)}")
    for left in Path(folder).glob(f".{escape(name) or '*'}.*{PARTIAL}"):
        match = of_process.fullmatch(left.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            left.unlink(missing_ok=True)


def _this_machine() -> str:
    """Short for the machine: a process id means nothing on another one, or in another container."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


@contextmanager
def locked(path: str | Path, patience_s: float = 60.0) -> Iterator[None]:
    """Keep others, who ask in the same way, from changing ``path`` meanwhile.

    Raises
    ------
    InputError
        If somebody else has kept it for ``patience_s`` seconds.
    OSError
        If the folder cannot be written to.
    """
    lock = Path(path).with_name(f".{Path(path).name}.lock")
    deadline = time.monotonic() + patience_s
    while True:
        # Not through a link, by which somebody else would let us make a file where only we may.
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(lock, descriptor):  # who had it before us has removed it at the end
                break
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise InputError(f"another process has been writing to {path} for {patience_s:g} s") from None
            time.sleep(_POLL_S)
        os.close(descriptor)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def reserve(path: str | Path, size: int) -> None:
    """Make sure that the disk has room for the file to grow to ``size`` bytes; raises OSError where it has not.

    A library that finds the disk full in the middle of its own bookkeeping may lose what it has written before.
    """
    with Path(path).open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, size)


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
