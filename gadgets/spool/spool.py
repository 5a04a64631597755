"""The folder of raw data: one file a scan, bounded in size and age, for its owner's eyes only.

``TIME-ID.scan`` is a recording: of a scan under way, or of one that was cut by a lost client or a killed server.
``TIME-ID.h5`` is the MRD file that a complete scan becomes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from gadgets import protocol
from gadgets.monitoring.observers import Kind, Outcome
from gadgets.mrd.deidentify import without_identity
from gadgets.protocol import Message, MessageId
from gadgets.spool.raw_file import write_raw_file
from gadgets.spool.recording import RecordingWriter, under_way
from pass_recon.common.files import remove_abandoned
from pass_recon.types import InputError

log = logging.getLogger(__name__)

RECORDING, RAW_FILE = ".scan", ".h5"
_AHEAD_BYTES = 64 << 20  # the folder is not to be looked through for each line
_KEPT = frozenset((MessageId.ACQUISITION, MessageId.WAVEFORM, MessageId.CLOSE))


class Spool:
    """Observes scans and keeps what comes.

    Parameters
    ----------
    folder
        Where; made if it is missing, for its owner only.
    most_bytes
        Of all files together; the oldest go first.
    most_seconds
        After which a file goes.
    deidentify
        Leave out of headers whatever tells who, where and when.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    """

    def __init__(self, folder: Path, most_bytes: int, most_seconds: float, *, deidentify: bool = False) -> None:
        self.folder, self.deidentify = folder, deidentify
        self._most_bytes, self._most_seconds = most_bytes, most_seconds
        self._pruning = threading.Lock()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the spool cannot be made: {error}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"the spool cannot be written to: {folder}")
        remove_abandoned(folder)  # MRD files that a server which was killed had begun; their recordings are still there
        self.make_room(0)
        if cut := [path.name for path in cut_scans(folder)]:
            log.warning("scans in the spool that were cut: %s; see pass-recon replay %s", ", ".join(cut), folder)

    def __call__(self, scan_id: str) -> _KeptScan:
        """The observer of a scan."""
        return _KeptScan(self, self.folder / f"{scan_id}{RECORDING}")

    def room_for(self, size: int) -> int:
        """Make room for at least so many bytes, better for some more; returns for how many there is, or 0."""
        ahead = max(size, min(_AHEAD_BYTES, self._most_bytes // 50))
        return next((wanted for wanted in (ahead, size) if self.make_room(wanted)), 0)

    def make_room(self, size: int) -> bool:
        """Remove what is too old, and the oldest until there is room for so many bytes; False if there is not."""
        with self._pruning:
            kept = []
            for path in scans(self.folder):
                try:
                    status = path.stat()
                except FileNotFoundError:  # a scan has ended meanwhile, and its recording has become another file
                    continue
                idle = path.suffix == RAW_FILE or not under_way(path)
                if idle and time.time() - status.st_mtime > self._most_seconds:
                    log.info("%s is too old and goes", path.name)
                    path.unlink(missing_ok=True)
                else:
                    kept.append((path, status.st_size, idle))
            total = sum(size for _path, size, _idle in kept)
            for path, its_size, idle in kept:
                if total + size <= self._most_bytes:
                    break
                if idle:
                    log.info("%s goes: the spool is full", path.name)
                    path.unlink(missing_ok=True)
                    total -= its_size
            return total + size <= self._most_bytes


class _KeptScan:
    """The raw data of one scan."""

    def __init__(self, spool: Spool, path: Path) -> None:
        self._spool, self._path = spool, path
        self._file: RecordingWriter | None = None
        self._room = 0
        self._complete = False

    def began(self, configuration: bytes, header: bytes, waiting: Callable[[], int]) -> None:
        self._file = RecordingWriter(self._path)
        kept = without_identity(header) if self._spool.deidentify else header
        self._write(protocol.config_script(configuration or b"<configuration/>") + protocol.header(kept))

    def received(self, message: Message) -> None:
        if self._file is not None and message.id in _KEPT:
            self._write(message.frame)
            self._complete |= message.id == MessageId.CLOSE

    def sent(self, message: Message) -> None:
        pass

    def told(self, kind: Kind, sentence: str) -> None:
        pass

    def ended(self, outcome: Outcome, seconds: float) -> None:
        if self._file is None:
            return
        try:
            if self._complete and write_raw_file(self._path, self._path.with_suffix(RAW_FILE)):
                self._path.unlink()
        finally:
            self._file.close()
        self._spool.make_room(0)

    def _write(self, frame: bytes) -> None:
        assert self._file is not None
        if len(frame) > self._room:
            self._room = self._spool.room_for(len(frame))
            if not self._room:
                self._file.close()
                raise InputError(f"the spool is full: what comes from here on of {self._path.name} is not kept")
        try:
            self._file.write(frame)
        except OSError as error:
            self._file.close()
            raise InputError(f"raw data are no longer kept: {error}") from error
        self._room -= len(frame)


def scans(folder: Path) -> list[Path]:
    """All files of scans, the oldest first."""
    return sorted(path for path in folder.iterdir() if path.suffix in (RECORDING, RAW_FILE) and path.name[0] != ".")


def cut_scans(folder: Path) -> list[Path]:
    """Recordings to which nobody writes any more."""
    recordings = [path for path in scans(folder) if path.suffix == RECORDING]
    return [path for path in recordings if not under_way(path) and path.exists()]
