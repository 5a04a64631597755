"""What ismrmrd's library has under other names in the versions that Gadgetron images have than in those of today."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import ismrmrd

IMTYPE_RGB = getattr(ismrmrd.constants, "IMTYPE_RGB", 6)


def open_dataset(path: str | Path, group: str, mode: Literal["r", "a"]) -> ismrmrd.Dataset:
    """Open a group to read it or to add to it; the file of one that is added to is made if it is missing.

    Versions before 1.15 know no mode: there a file that is only read must be one that could be written to.
    """
    known = signature(ismrmrd.Dataset.__init__).parameters
    options: dict[str, Any] = {"mode": mode} if "mode" in known else {"create_if_needed": mode == "a"}
    return ismrmrd.Dataset(str(path), group, **options)


@contextmanager
def dataset(path: str | Path, group: str, mode: Literal["r", "a"]) -> Iterator[ismrmrd.Dataset]:
    """The same for the length of a block."""
    opened = open_dataset(path, group, mode)
    try:
        yield opened
    finally:
        opened.close()


def line_bytes(coils: int, samples: int) -> int:
    """What an acquisition takes of a file at most: its samples, a row, and what HDF5 rounds up to."""
    return 8 * coils * samples + 1024 + 4096


def mark_channels_active(acquisition: ismrmrd.Acquisition) -> None:
    """Set the bits of all channels that an acquisition has."""
    for coil in range(acquisition.active_channels):
        acquisition.channel_mask[coil // 64] |= 1 << (coil % 64)
