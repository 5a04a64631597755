"""Opening HDF5 files of others, and making files that a full disk cannot break."""

from __future__ import annotations

import math
from pathlib import Path

import h5py

from pass_recon.common.files import reserve
from pass_recon.types import InputError

# Compressed, nothing becomes smaller than by this factor: what declares more has never been written.
_BEST_COMPRESSION = 1100
_LARGEST_PIECE = 256 << 20  # bytes that are read at once to have one value
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
        If it is missing, truncated, damaged or not HDF5; if it leads to other files; if it asks for more memory than it
        can fill.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        state = "truncated or damaged" if h5py.is_hdf5(path) else f"not {what}, for it is not HDF5"
        raise InputError(f"{path} is {state} ({error})") from error
    try:
        # An exception from within such a visit breaks h5py.
        refused = file.visititems_links(_leads_outside) or file.visititems(_asks_for_too_much)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        file.close()
        raise InputError(f"{path} is truncated or damaged ({error})") from error
    if refused:
        file.close()
        raise InputError(f"{path} is refused: {refused}")
    return file


def _leads_outside(name: str, link: h5py.HardLink | h5py.SoftLink | h5py.ExternalLink) -> str | None:
    # Whoever reconstructs a file of somebody else must not be made to read a third person's for them.
    return f"{name!r} is a link to another file" if isinstance(link, h5py.ExternalLink) else None


def _asks_for_too_much(name: str, member: h5py.Group | h5py.Dataset) -> str | None:
    if not isinstance(member, h5py.Dataset):
        return None
    if member.external or member.is_virtual:
        return f"the data of {name!r} lie in another file"
    at_once = math.prod(member.chunks or (1,)) * member.dtype.itemsize
    if at_once > _LARGEST_PIECE:
        return f"{name!r} can only be read in pieces of {at_once} bytes, {_LARGEST_PIECE} are allowed"
    declared, stored = (member.size or 0) * member.dtype.itemsize, member.id.get_storage_size()
    if declared > max(_LARGEST_PIECE, stored * _BEST_COMPRESSION):
        return f"{name!r} declares {declared} bytes and holds {stored}"
    return None


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
