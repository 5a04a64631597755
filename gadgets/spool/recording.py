"""A scan in a file of messages, exactly as a gadget gets them: configuration, header, data, and CLOSE if it was whole.

A file that ends anywhere, as a process that is killed leaves it, is read as far as its messages are whole.
"""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gadgets.protocol import Message, MessageId, PeerLost, ProtocolError
from gadgets.protocol.bytes import U16
from gadgets.protocol.messages import read_body
from pass_recon.types import InputError


class MessageReader:
    """Messages from a binary file or pipe.

    Parameters
    ----------
    file
        Where they come from, one after the other.
    """

    def __init__(self, file: BinaryIO | io.BufferedIOBase) -> None:
        self._file = file

    def read(self) -> Message | None:
        """The next message, CLOSE included; None at the end.

        Raises
        ------
        PeerLost
            The file ends in the middle of a message.
        ProtocolError
            What comes is no message.
        """
        start = self._file.read(U16.size)
        if not start:
            return None
        identifier = U16.unpack(start + self._exact(U16.size - len(start)))[0]
        return Message(identifier, read_body(identifier, self._exact))

    def _exact(self, count: int) -> bytes:
        content = self._file.read(count)
        if len(content) < count:
            raise PeerLost(f"the stream ends in the middle of a message, {count - len(content)} bytes are missing")
        return content


class RecordingWriter:
    """Appends messages to a file that only its owner may read, each with one call of the system.

    Parameters
    ----------
    path
        A file that does not exist. It is locked while this writes, so that readers know it is not over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = 0
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def write(self, frame: bytes) -> None:
        """Append a message; raises OSError where the disk is full."""
        rest = memoryview(frame)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self.written += len(frame)

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def under_way(path: Path) -> bool:
    """Whether somebody still writes to a recording; nobody does to one that is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


class Recording:
    """A recording, open for reading.

    Attributes
    ----------
    configuration, header_xml
        What the gadgets got.
    complete
        Whether CLOSE was seen; known once all messages have been read.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._reader, self._name = MessageReader(file), name
        self.complete = False
        self.configuration = self._expected(MessageId.CONFIG_SCRIPT)
        self.header_xml = self._expected(MessageId.HEADER)

    def messages(self) -> Iterator[Message]:
        """All data messages that are whole."""
        while (message := self._next()) is not None:
            if message.id == MessageId.CLOSE:
                self.complete = True
                return
            yield message

    def _expected(self, identifier: MessageId) -> bytes:
        message = self._next()
        if message is None or message.id != identifier:
            raise InputError(f"{self._name} holds no scan: it ends before the {identifier.name}, or is no recording")
        return bytes(message.item)

    def _next(self) -> Message | None:
        try:
            return self._reader.read()
        except PeerLost:  # the end of what came before the crash
            return None
        except ProtocolError as error:
            raise InputError(f"{self._name} is no recording of a scan: {error}") from error


@contextmanager
def recording(path: Path) -> Iterator[Recording]:
    """Open a recording; raises InputError if it is none."""
    with path.open("rb") as file:
        yield Recording(file, str(path))
