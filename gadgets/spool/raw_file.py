"""A recorded scan → an MRD file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import h5py

from gadgets.mrd.dataset import dataset
from gadgets.protocol import Message, MessageId
from gadgets.spool.recording import recording
from pass_recon.common.files import written_aside

GROUP, CONFIGURATION = "dataset", "configuration"


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
        If it is no recording.
    """
    with recording(source) as scan, written_aside(target) as aside:
        aside.chmod(0o600)
        empty = not _write(aside, scan.header_xml, scan.configuration, scan.messages())
    if empty:
        target.unlink()
    return not empty


def configuration_in(path: Path) -> bytes:
    """The ``<configuration>`` that was kept with an MRD file; empty where there is none."""
    with h5py.File(path, "r") as file:
        kept = file[GROUP].attrs.get(CONFIGURATION, b"") if GROUP in file else b""
    return kept.encode() if isinstance(kept, str) else bytes(kept)


def _write(path: Path, header_xml: bytes, configuration: bytes, messages: Iterable[Message]) -> int:
    count = 0
    h5py.File(path, "w").close()  # the library takes an existing empty file for none
    with dataset(path, GROUP, "a") as opened:
        opened.write_xml_header(header_xml)
        for message in messages:
            if message.id == MessageId.ACQUISITION:
                opened.append_acquisition(message.item)
                count += 1
            elif message.id == MessageId.WAVEFORM:
                opened.append_waveform(message.item)
    with h5py.File(path, "a") as file:
        file[GROUP].attrs.create(CONFIGURATION, configuration, dtype=h5py.string_dtype())
    return count
