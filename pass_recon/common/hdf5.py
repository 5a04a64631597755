"""Opening HDF5 files of others, and making files that a full disk cannot break."""

from __future__ import annotations

from pathlib import Path

import h5py

from pass_recon.common.files import reserve
from pass_recon.types import InputError

_BOOKKEEPING = 1 << 18  # bytes, of an empty file
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def open_hdf5(path: str | Path, what: str) -> h5py.File:
    """Open a file for reading.

    Parameters
    ----------
    path
        The file.
    what
        What it should be, for the error: ``"an MRD file"``.

    Raises
    ------
    InputError
        If it is missing, truncated, damaged or not HDF5.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        state = "truncated or damaged" if h5py.is_hdf5(path) else f"not {what}, for it is not HDF5"
        raise InputError(f"{path} is {state} ({error})") from error


def make_room(path: str | Path, size: int) -> None:
    """Make sure that an HDF5 file, which nobody has open, can grow to so many bytes; made if it is missing.

    What is not used is given back when the file is closed, after it was opened to be written to. HDF5 does not survive
    a disk that is full in the middle of its own bookkeeping: it prints pages, and may end the process.

    Raises
    ------
    InputError
        If there is no such room.
    """
    path = Path(path)
    try:
        h5py.File(path, "a" if path.exists() and path.stat().st_size else "w").close()
        reserve(path, size + _BOOKKEEPING)
    except OSError as error:
        unit, name = next((one for one in _UNITS if size >= one[0]), (1.0, "bytes"))
        raise InputError(f"no room for {size / unit:.0f} {name} in {path.parent}: {error.strerror or error}") from error
