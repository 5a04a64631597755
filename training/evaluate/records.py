"""What was measured, one line of JSON a slice, appended as soon as it is known: an interrupted evaluation goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pass_recon.types import InputError

Record = dict[str, Any]


class RecordFile:
    """Records by their key; each key is made of everything that the record depends on.

    Parameters
    ----------
    path
        The file; a last line that was cut off when its writer died is dropped.

    Raises
    ------
    InputError
        If another line is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[str, Record] = {}
        if path.exists():
            self._read()

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> Record:
        return self._records[key]

    def __len__(self) -> int:
        return len(self._records)

    def append(self, record: Record) -> None:
        """Add a record and write it out."""
        line = json.dumps(record, ensure_ascii=False) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._records[record["key"]] = record

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                record = json.loads(line)
                self._records[record["key"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"line {number} of {self.path} is no record of an evaluation: {error!r}") from error
