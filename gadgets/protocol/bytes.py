"""Reading bytes that a peer sends: never more than a limit, never past the end of what came."""

from __future__ import annotations

import struct
from collections.abc import Callable

from pass_recon.types import InputError

TEXT_LIMIT = 16 << 20  # configurations, headers, texts, meta: the largest real ones are about 1 MB
DATA_LIMIT = 2 << 30  # one slice of 1024 x 1024 with 128 coils is 1 GiB
U16, U32, U64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")

Read = Callable[[int], bytes]


class PeerLost(ConnectionError):
    """The other end went away without CLOSE, or in the middle of a message."""


class PeerStalled(PeerLost):
    """The other end is there, but has sent or taken nothing for as long as we were ready to wait."""


class ProtocolError(InputError):
    """What arrived is no message of this protocol, or one of absurd size. Nothing after it can be understood."""


class Source:
    """What readers of `ismrmrd` and `gadgetron` read from: counts against a limit and keeps the bytes."""

    def __init__(self, read_exact: Read, limit: int, name: str) -> None:
        self._read_exact, self._left, self._limit, self._name = read_exact, limit, limit, name
        self.chunks: list[bytes] = []

    def read(self, count: int) -> bytes:
        """Exactly so many bytes; raises ProtocolError where a field asks for more than is left of the limit."""
        count = int(count)
        if not 0 <= count <= self._left:
            raise ProtocolError(f"{self._name} refused: a field asks for {count} bytes, the limit is {self._limit}")
        self._left -= count
        self.chunks.append(chunk := self._read_exact(count))
        return chunk

    def count(self, layout: struct.Struct) -> int:
        """A number."""
        return int(layout.unpack(self.read(layout.size))[0])
