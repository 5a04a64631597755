"""How much memory a process may take, and refusing what needs more before it is asked for."""

from __future__ import annotations

import os
import re
import resource
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from pass_recon.types import InputError

VARIABLE = "PASS_RECON_MAX_MEMORY"
"""Environment variable that tells gadgets, which a server starts, what ``--max-memory`` was; in bytes."""

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
# Of the machine's memory, what one process may take unless somebody says otherwise.
_SHARE = 0.8
# A slice on its way: its k-space as bytes, as lines, as a buffer, and in the solvers; and, for each pixel, the features
# of the networks. Measured by peak memory: 8 coils at 512 x 512 take 245 MB, 32 at 256 x 256 take 84 MB.
_COPIES, _BYTES_OF_PIXEL = 12, 1000


def bytes_of(text: str) -> int:
    """The size that a text such as ``8G`` or ``500M`` means, in bytes; raises InputError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if match is None or not float(match[1]):
        raise InputError(f"{text!r} is not an amount of memory such as 8G or 500M")
    return int(float(match[1]) * _UNITS[match[2]])


def machine_memory() -> int:
    """What this machine, or this container, has, in bytes."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP:
        text = path.read_text().strip() if path.is_file() else ""
        sizes += [int(text)] if text.isdigit() else []
    return min(sizes)


def limit() -> int:
    """What this process may take, in bytes."""
    told = os.environ.get(VARIABLE, "")
    return int(told) if told.isdigit() else int(_SHARE * machine_memory())


def used() -> int:
    """What this process and those it has started hold, in bytes; what they share is counted for each. 0 if unknown."""
    pages, waiting = 0, [os.getpid()]
    while waiting:
        process = Path("/proc") / str(waiting.pop())
        with suppress(OSError):  # it is gone meanwhile, or this is no Linux
            pages += int((process / "statm").read_text().split()[1])
            for thread in (process / "task").iterdir():
                waiting += map(int, (thread / "children").read_text().split())
    return pages * os.sysconf("SC_PAGE_SIZE")


def device_used() -> int:
    """What torch holds on the GPUs, in bytes; torch is never imported for this."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.memory_reserved(number) for number in range(torch.cuda.device_count()))


def keep_to(size: int) -> None:
    """Let this process, and those it starts, take no more than ``size`` bytes: beyond that, what asks for more fails.

    With a CUDA device the operating system does not count what is asked for as we do; then only `refuse_slice` holds.
    """
    os.environ[VARIABLE] = str(size)
    if not Path("/dev/nvidia0").exists():
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


def keep_to_what_was_told() -> None:
    """`keep_to` what the server that has started this process was told."""
    if os.environ.get(VARIABLE, "").isdigit():
        keep_to(limit())


def needed_for_slice(coils: int, ro: int, pe: int) -> int:
    """Bytes that a slice of k-space ``(coils, ro, pe)`` takes at most on its way to an image."""
    return ro * pe * (8 * coils * _COPIES + _BYTES_OF_PIXEL)


def refuse_slice(what: str, coils: int, ro: int, pe: int, held: int) -> None:
    """Raise InputError where a slice needs more memory than there may be.

    Parameters
    ----------
    what
        Its name.
    coils, ro, pe
        Of its k-space.
    held
        Bytes of the slices that are not over.
    """
    needed, taken, allowed = needed_for_slice(coils, ro, pe) + held, _taken(), limit()
    if needed + taken > allowed:
        waiting = f", with {held / 1e9:.1f} GB of slices that are not over," if held else ""
        raise InputError(
            f"{what} of {coils} coils on {ro} by {pe} needs about {needed / 1e9:.1f} GB of memory{waiting} and "
            f"{allowed / 1e9:.1f} GB are allowed (--max-memory), of which {taken / 1e9:.1f} GB are taken"
        )


@cache
def _taken() -> int:
    """Bytes that this process took before its first slice: programs, networks, stacks of threads."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[5])
    except OSError:  # no Linux, where nothing is limited either
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
