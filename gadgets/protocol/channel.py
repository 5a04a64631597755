"""Messages over a socket: one write a message, and a lost peer noticed at once."""

from __future__ import annotations

import contextlib
import math
import selectors
import socket
import struct
import threading
import time

from gadgets.protocol.bytes import U16, PeerLost, PeerStalled
from gadgets.protocol.messages import Message, read_body

_READ_AHEAD = 1 << 16
_TIMEVAL = struct.Struct("@ll")
_SLOWEST = 10_000  # bytes a second: what drips in more slowly is no network but somebody who means harm
_STEP = 1 << 20  # memory is taken as bytes arrive, never because a length field asks for it


class Channel:
    """Messages over a connected socket.

    One thread reads; any number of threads send. The socket gets TCP_NODELAY, and TCP_QUICKACK around reads: without
    them Nagle and delayed acknowledgements cost 40 ms a message in each direction.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._ahead = bytearray()
        self._silence = self._within = self._due = math.inf
        self._sending = threading.Lock()
        connected.settimeout(None)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    @classmethod
    def connect(cls, address: str, port: int, timeout: float = 10.0) -> Channel:
        """Connect to a listening peer within `timeout` seconds; raises OSError."""
        return cls(socket.create_connection((address, port), timeout))

    def give_up_after(self, *, reading: float = 0.0, sending: float = 0.0) -> None:
        """Raise `PeerStalled` once a peer has sent nothing, or taken nothing, for so many seconds; 0 waits for ever."""
        for option, seconds in ((socket.SO_RCVTIMEO, reading), (socket.SO_SNDTIMEO, sending)):
            whole, fraction = divmod(seconds, 1.0)
            self.socket.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(int(whole), int(1e6 * fraction)))

    def expect(self, *, silence: float, within: float) -> None:
        """Raise `PeerStalled` when no message begins for ``silence`` seconds, or one does not end in time.

        A message has ``within`` seconds, and more for its size at the slowest rate that is taken for a network's.
        """
        self._silence, self._within = silence, within

    @property
    def reset(self) -> bool:
        """Whether the peer is known to be gone for good, not merely done with sending."""
        try:
            return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        except OSError:  # closed at this end
            return True

    def readable(self, seconds: float) -> bool:
        """Whether there is something to read, or the end, waiting for it so long."""
        return bool(self._ahead) or self.readable_now(seconds)

    def readable_now(self, seconds: float) -> bool:
        """The same of what has not been read ahead."""
        with selectors.DefaultSelector() as selector:
            try:
                selector.register(self.socket, selectors.EVENT_READ)
            except ValueError:  # closed at this end: whoever reads will hear of it
                return True
            return bool(selector.select(None if seconds == math.inf else max(seconds, 0.0)))

    def take(self) -> int:
        """Take what there is without understanding it; returns how many bytes, 0 at the end; raises PeerLost."""
        taken, self._ahead = len(self._ahead), bytearray()
        if taken:
            return taken
        try:
            return len(self.socket.recv(_STEP))
        except OSError as error:
            raise PeerLost(f"the connection is broken: {error}") from error

    def _receive(self, count: int) -> bytes:
        if self._due < math.inf and not self.readable_now(self._due - time.monotonic()):
            raise PeerStalled(f"a message has begun and not ended within {self._within:g} s")
        try:
            if hasattr(socket, "TCP_QUICKACK"):  # Linux; the kernel forgets it after a while, hence around every read
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            received = self.socket.recv(count)
        except BlockingIOError:  # how the kernel tells that its time is up, see `give_up_after`
            raise PeerStalled("the peer has stopped sending") from None
        except OSError as error:
            raise PeerLost(f"the connection is broken: {error}") from error
        if not received:
            raise PeerLost("the peer closed the connection without CLOSE")
        self._due += len(received) / _SLOWEST
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
        if self._silence < math.inf and not self.readable(self._silence):
            raise PeerStalled(f"nothing has come for {self._silence:g} s, while a message was awaited")
        self._due = time.monotonic() + self._within
        identifier = U16.unpack(self.read_exact(U16.size))[0]
        return Message(identifier, read_body(identifier, self.read_exact))

    def send(self, frame: bytes) -> None:
        """One message in one write; raises PeerLost where nobody takes it."""
        try:
            with self._sending:
                self.socket.sendall(frame)
        except BlockingIOError:
            raise PeerStalled("the peer has stopped taking messages") from None
        except OSError as error:
            raise PeerLost(f"the peer no longer takes messages: {error}") from error

    def close(self) -> None:
        """Close the socket under whoever still reads or sends; CLOSE, if wanted, is sent before."""
        with contextlib.suppress(OSError):  # the peer may have been faster
            self.socket.shutdown(socket.SHUT_RDWR)
        with self._sending:  # a number that is free again may be another connection's: no sender may still hold it
            self.socket.close()
