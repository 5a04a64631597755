"""What a process that computes with torch sets for itself before it begins."""

from __future__ import annotations

import ctypes
import os

# Of glibc's malloc.h, as ctypes cannot read it.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def prepare_process() -> None:
    """Let torch's threads sleep while they wait, and keep memory that was freed.

    To be called before torch and numpy are imported, which read the environment then.

    OpenMP threads that spin while they wait for each other make torch 30 times slower as soon as something else wants
    the same cores, as in a chain of processes. It is read when torch is imported; processes started here inherit it.

    The matrices that numpy multiplies are those of one line: its threads, awake beside torch's, made that 15 times as
    long.

    The C library gives arrays of more than some megabytes back to the system as soon as they are freed, and a third of
    a reconstruction was spent on having the next ones filled with zeros. Now it keeps what a slice needs for the next
    one, in one heap for all threads; the peak is the same.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:  # another C library has its own ways
        set_option(_M_MMAP_THRESHOLD, 256 << 20)
        set_option(_M_TRIM_THRESHOLD, 128 << 20)
        set_option(_M_ARENA_MAX, 1)
