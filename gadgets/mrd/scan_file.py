"""An MRD file as the source of a scan: its header, and its acquisitions and waveforms as a scanner would send them."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import h5py
import ismrmrd
from ismrmrd import xsd
from ismrmrd.file import Acquisitions, Waveforms

from gadgets.mrd.header_xml import plain_xml, read_header
from pass_recon.common.hdf5 import open_hdf5
from pass_recon.types import InputError

BLOCK = 64  # acquisitions read at a time: few enough to start at once, enough for HDF5 to be fast
HEADS = 4096  # headers read at a time
Result = TypeVar("Result")


class ScanFile:
    """An MRD file, open for reading.

    Parameters
    ----------
    path
        The file.
    group
        The HDF5 group that holds the scan.

    Attributes
    ----------
    header_xml
        The MRD header as it is to be sent: without ``<version>``, which a server of another version may refuse. What
        else we do not know stays in it: the server may.
    header
        The same, parsed.

    Raises
    ------
    InputError
        If the file is missing, damaged, not HDF5, or not MRD.
    """

    def __init__(self, path: str | Path, group: str = "dataset") -> None:
        self.path = Path(path)
        self._file = open_hdf5(self.path, "an MRD file")
        try:
            scan = self._read(lambda: self._group(group.strip("/")), f"group {group!r}")
            self._acquisitions = Acquisitions(scan["data"])
            self._waveforms = Waveforms(scan["waveforms"]) if "waveforms" in scan else ()
            text = self._read(lambda: scan["xml"][0], "MRD header")
            self.header_xml = without_version(plain_xml(text if isinstance(text, bytes) else str(text)))
            self.header = self._parse(self.header_xml)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ScanFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._acquisitions)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def acquisition(self, number: int) -> ismrmrd.Acquisition:
        """One acquisition by its place in the file.

        Raises
        ------
        InputError
            If it cannot be read, or its data do not fit its header.
        """
        return self._read(lambda: self._acquisitions[number], f"acquisition {number}")

    def heads(self) -> Iterator[ismrmrd.AcquisitionHeader]:
        """The headers of all acquisitions in file order."""
        rows = self._acquisitions.data
        for first in range(0, len(self), HEADS):
            last = min(first + HEADS, len(self))
            for head in self._read(lambda: rows[first:last]["head"], f"headers {first} to {last - 1}"):  # noqa: B023
                yield ismrmrd.AcquisitionHeader.from_buffer_copy(head)

    def acquisitions(self) -> Iterator[ismrmrd.Acquisition]:
        """All acquisitions in file order."""
        for first in range(0, len(self), BLOCK):
            last = min(first + BLOCK, len(self))
            yield from self._read(lambda: self._acquisitions[first:last], f"acquisitions {first} to {last - 1}")  # noqa: B023

    def messages(self) -> Iterator[ismrmrd.Acquisition | ismrmrd.Waveform]:
        """All acquisitions and waveforms, merged by their time stamps as the stock client does."""
        waveforms = self.waveforms()
        waiting = next(waveforms, None)
        for acquisition in self.acquisitions():
            while waiting is not None and waiting.time_stamp < acquisition.acquisition_time_stamp:
                yield waiting
                waiting = next(waveforms, None)
            yield acquisition
        if waiting is not None:
            yield waiting
            yield from waveforms

    def waveforms(self) -> Iterator[ismrmrd.Waveform]:
        """All waveforms in file order."""
        for number in range(len(self._waveforms)):
            yield self._read(lambda: self._waveforms[number], f"waveform {number}")  # noqa: B023

    def _group(self, name: str) -> h5py.Group:
        scan = self._file.get(name)
        if not isinstance(scan, h5py.Group):
            found = ", ".join(self._file) or "nothing"
            raise InputError(f"{self.path} has no group {name!r} to read a scan from; it holds {found}")
        for member, meaning in (("xml", "header"), ("data", "acquisitions")):
            if not isinstance(scan.get(member), h5py.Dataset):
                raise InputError(f"{self.path} is not an MRD file: group {name!r} holds no {meaning} ({member!r})")
        rows = scan["data"]
        if not {"head", "traj", "data"} <= set(rows.dtype.names or ()) or rows.ndim != 1:
            raise InputError(f"{self.path} is not an MRD file: 'data' in group {name!r} does not hold acquisitions")
        found, wanted = rows.dtype["head"].itemsize, ctypes.sizeof(ismrmrd.AcquisitionHeader)
        if found != wanted:
            raise InputError(
                f"{self.path} is not an MRD file: headers of acquisitions have {wanted} bytes, those in group {name!r} "
                f"have {found}"
            )
        return scan

    def _parse(self, xml: bytes) -> xsd.ismrmrdHeader:
        try:
            header = read_header(xml)
        except InputError as error:
            raise InputError(f"the MRD header of {self.path} cannot be read: {error}") from error
        if not header.encoding:
            raise InputError(f"the MRD header of {self.path} describes no encoding")
        return header

    def _read(self, read: Callable[[], Result], what: str) -> Result:
        try:
            return read()
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, IndexError, MemoryError) as error:
            raise InputError(f"{what} of {self.path} cannot be read: {error}") from error


def without_version(xml: bytes) -> bytes:
    """The MRD header without its ``<version>``, for a Gadgetron throws, and hangs, if its own is another."""
    # The blanks before it are a search of their own: \s* at the front of one pattern is tried anew from each blank.
    found = re.search(rb"<((?:\w{1,64}:)?)version>[^<]{0,99}</\1version>", xml)
    return xml if found is None else xml[: found.start()].rstrip() + xml[found.end() :]
