"""A recorded scan → an MRD file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import h5py

from gadgets.mrd.dataset import dataset
from gadgets.protocol import Message, MessageId
from gadgets.spool.recording import recording
from pass_recon.common.files import written_aside
from pass_recon.common.hdf5 import make_room, open_hdf5

GROUP, CONFIGURATION = "dataset", "configuration"
_TIMES = 2  # how many times the bytes of its messages an MRD file takes: 1.0 to 1.3, for lines of any size


def write_raw_file(source: Path, target: Path) -> bool:
    """Write the messages of a recording as an MRD file, which only its owner may read.

    The ``<configuration>`` with which it was reconstructed is the attribute ``configuration`` of the group.

    Returns
    -------
    bool
        Whether there was any acquisition; without one no file is written.

    Raises
    ------
    InputError
        If it is no recording, or there is no room for the file.
    """
    with recording(source) as scan, written_aside(target, private=True) as aside:
        make_room(aside, _TIMES * source.stat().st_size)
        empty = not _write(aside, scan.header_xml, scan.configuration, scan.messages())
    if empty:
        target.unlink()
    return not empty


def configuration_in(path: Path) -> bytes:
    """The ``<configuration>`` that was kept with an MRD file, empty where there is none; raises as `open_hdf5` does."""
    with open_hdf5(path, "an MRD file") as file:
        kept = file[GROUP].attrs.get(CONFIGURATION, b"") if GROUP in file else b""
    return kept.encode() if isinstance(kept, str) else bytes(kept)


def _write(path: Path, header_xml: bytes, configuration: bytes, messages: Iterable[Message]) -> int:
    count = 0
    with dataset(path, GROUP, "a") as opened:
        opened.write_xml_header(header_xml)
        for message in messages:
            if message.id == MessageId.ACQUISITION:
                opened.append_acquisition(message.item)
                count += 1
            elif message.id == MessageId.WAVEFORM:
                opened.append_waveform(message.item)
        # While the file is open the room that was made for it is its own.
        opened._file[GROUP].attrs.create(CONFIGURATION, configuration, dtype=h5py.string_dtype())
    return count
