"""Messages on a Gadgetron socket: their ids, where each one ends, one write a message, and a lost peer noticed at once.

Shared by the embedded server, the scanner and the gadget processes. A message travels as `Message(id, body)`, its bytes
untouched; `Message.item` decodes on demand, so that whoever only forwards pays nothing. The serialisation is that of
`ismrmrd` and `gadgetron`.

Two facts about Error (id 8) that the protocol does not show:

- A real server that receives an Error from a gadget sends CLOSE to that gadget **at once** and gives it nothing more. A
  gadget that wants the rest of the scan therefore keeps its Errors until its input has ended and sends them before its
  own CLOSE.
- A real server never sends Error to a client. It sends Text (id 5) "[location] ERROR: message", just before CLOSE: see
  `is_error_text`.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import ismrmrd
from gadgetron.external import writers
from gadgetron.types.recon_data import ReconData, write_recon_data

from gadgets.protocol.bytes import (
    CONFIG_FILE_BYTES,
    U16,
    U32,
    U64,
    MessageId,
    PeerLost,
    ProtocolError,
    name_of,
    read_body,
    read_recon_data,
)
from pass_recon.types import InputError

_READ_AHEAD = 1 << 16
_STEP = 1 << 20  # memory is taken as bytes arrive, never because a length field asks for it


def _decode_query(body: bytes) -> tuple[int, str]:
    return U64.unpack_from(body, U64.size)[0], body[3 * U64.size :].decode()


def _decode_response(body: bytes) -> tuple[int, str]:
    return U64.unpack_from(body)[0], body[2 * U64.size :].decode()


_DECODE: dict[int, Callable[[bytes], Any]] = {
    MessageId.CONFIG_FILE: lambda body: body.split(b"\0", 1)[0].decode(),
    MessageId.CONFIG_SCRIPT: lambda body: body[U32.size :],  # bytes: XML names its own encoding
    MessageId.HEADER: lambda body: body[U32.size :],
    MessageId.CLOSE: lambda body: None,
    MessageId.TEXT: lambda body: body[U32.size :].decode(errors="replace"),
    MessageId.QUERY: _decode_query,
    MessageId.RESPONSE: _decode_response,
    MessageId.ERROR: lambda body: body[U64.size :].decode(errors="replace"),
    MessageId.ACQUISITION: ismrmrd.Acquisition.from_bytes,
    MessageId.IMAGE: ismrmrd.Image.from_bytes,
    MessageId.RECON_DATA: lambda body: read_recon_data(BytesIO(body)),
    MessageId.WAVEFORM: ismrmrd.Waveform.from_bytes,
}


@dataclass(frozen=True)
class Message:
    """One message: its id and the bytes after it, exactly as they came."""

    id: int
    body: bytes

    @property
    def frame(self) -> bytes:
        """The bytes on the wire."""
        return U16.pack(self.id) + self.body

    @cached_property
    def item(self) -> Any:
        """What the message holds.

        Acquisition, Waveform, Image or ReconData; str for Text, Error and the name of a configuration file; bytes for a
        configuration script and the header; (correlation id, str) for Query and Response; None for CLOSE.

        Raises
        ------
        ProtocolError
            The bytes do not hold what the id promises.
        """
        try:
            return _DECODE[self.id](self.body)
        except (ValueError, TypeError, KeyError, OverflowError, struct.error) as error:
            raise ProtocolError(f"unreadable {name_of(self.id)}: {error}") from error


class Channel:
    """Messages over a connected socket.

    One thread reads; any number of threads send. The socket gets TCP_NODELAY, and TCP_QUICKACK around reads: without
    them Nagle and delayed acknowledgements cost 40 ms a message in each direction.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._ahead = bytearray()
        self._sending = threading.Lock()
        connected.settimeout(None)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    @classmethod
    def connect(cls, address: str, port: int, timeout: float = 10.0) -> Channel:
        """Connect to a listening peer within `timeout` seconds; raises OSError."""
        return cls(socket.create_connection((address, port), timeout))

    @property
    def reset(self) -> bool:
        """Whether the peer is known to be gone for good, not merely done with sending."""
        try:
            return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        except OSError:  # closed at this end
            return True

    def _receive(self, count: int) -> bytes:
        try:
            if hasattr(socket, "TCP_QUICKACK"):  # Linux; the kernel forgets it after a while, hence around every read
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            received = self.socket.recv(count)
        except OSError as error:
            raise PeerLost(f"the connection is broken: {error}") from error
        if not received:
            raise PeerLost("the peer closed the connection without CLOSE")
        return received

    def read_exact(self, count: int) -> bytes:
        """Exactly `count` bytes; raises PeerLost where the peer goes away first."""
        ahead = self._ahead
        while len(ahead) < count:
            ahead += self._receive(min(max(count - len(ahead), _READ_AHEAD), _STEP))
        taken = bytes(memoryview(ahead)[:count])
        del ahead[:count]
        return taken

    def read_message(self) -> Message:
        """The next message, CLOSE included.

        Raises
        ------
        PeerLost
            The peer went away.
        ProtocolError
            Unknown id, absurd size or unreadable structure: the stream cannot be followed any further.
        """
        identifier = U16.unpack(self.read_exact(U16.size))[0]
        return Message(identifier, read_body(identifier, self.read_exact))

    def send(self, frame: bytes) -> None:
        """One message in one write; raises PeerLost where nobody takes it."""
        try:
            with self._sending:
                self.socket.sendall(frame)
        except OSError as error:
            raise PeerLost(f"the peer no longer takes messages: {error}") from error

    def close(self) -> None:
        """Close the socket under whoever still reads or sends; CLOSE, if wanted, is sent before."""
        with contextlib.suppress(OSError):  # the peer may have been faster
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def config_file(name: str) -> bytes:
    """CONFIG FILE: the name of a configuration in a field of 1024 bytes."""
    encoded = name.encode()
    if len(encoded) >= CONFIG_FILE_BYTES:
        raise InputError(f"configuration name of {len(encoded)} bytes; the field holds {CONFIG_FILE_BYTES - 1}")
    return U16.pack(MessageId.CONFIG_FILE) + encoded.ljust(CONFIG_FILE_BYTES, b"\0")


def _string(identifier: MessageId, content: str | bytes, length: struct.Struct) -> bytes:
    encoded = content.encode() if isinstance(content, str) else content
    return U16.pack(identifier) + length.pack(len(encoded)) + encoded


def config_script(xml: str | bytes) -> bytes:
    """CONFIG SCRIPT: the configuration itself."""
    return _string(MessageId.CONFIG_SCRIPT, xml, U32)


def header(xml: str | bytes) -> bytes:
    """HEADER: the ISMRMRD header."""
    return _string(MessageId.HEADER, xml, U32)


def text(content: str) -> bytes:
    """TEXT."""
    return _string(MessageId.TEXT, content, U32)


def error(content: str) -> bytes:
    """ERROR."""
    return _string(MessageId.ERROR, content, U64)


def is_error_text(content: str) -> bool:
    """Whether a Text is the form in which a real server reports an error to its client."""
    return content.startswith("[") and "] ERROR: " in content


def is_warning_text(content: str) -> bool:
    """Whether a Text is a warning of the embedded server."""
    return content.startswith("[") and "] WARNING: " in content


def query(content: str, correlation: int = 0) -> bytes:
    """QUERY: a reserved zero, a correlation id for the answer, the question."""
    encoded = content.encode()
    return struct.pack("<HQQQ", MessageId.QUERY, 0, correlation, len(encoded)) + encoded


def response(correlation: int, content: str) -> bytes:
    """RESPONSE to the query with the same correlation id."""
    encoded = content.encode()
    return struct.pack("<HQQ", MessageId.RESPONSE, correlation, len(encoded)) + encoded


def close() -> bytes:
    """CLOSE: the last message in a direction."""
    return U16.pack(MessageId.CLOSE)


_WRITERS: tuple[tuple[type, Callable[[BytesIO, Any], None]], ...] = (
    (ismrmrd.Acquisition, writers.write_acquisition),
    (ismrmrd.Waveform, writers.write_waveform),
    (ismrmrd.Image, writers.write_image),
    (ReconData, write_recon_data),
)


def encode(item: object) -> bytes:
    """The whole message of an Acquisition, Waveform, Image or ReconData; raises TypeError for anything else."""
    for kind, write in _WRITERS:
        if isinstance(item, kind):
            write(buffer := BytesIO(), item)
            return buffer.getvalue()
    raise TypeError(f"no message carries a {type(item).__name__}")


def message_of(item: object) -> Message:
    """Same as `encode`, as a `Message`."""
    frame = encode(item)
    return Message(U16.unpack_from(frame)[0], frame[U16.size :])
