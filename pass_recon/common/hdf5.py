"""Opening HDF5 files of others."""

from __future__ import annotations

from pathlib import Path

import h5py

from pass_recon.types import InputError


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
