"""How many scans a server runs at the same time, and what it says to those that it does not take."""

from __future__ import annotations

import contextlib
import socket
import threading

from gadgets.protocol import messages as protocol
from pass_recon.types import InputError

# Connections beside the scans: queries, and clients that have not yet sent their header.
_OTHERS = 32


class Refused(InputError):
    """The server takes no scan at present."""


class Admission:
    """Counts the scans that are running.

    Parameters
    ----------
    scans
        Most of them at the same time.
    """

    def __init__(self, scans: int) -> None:
        self._scans = scans
        self._running = 0
        self._draining = False
        self._changed = threading.Condition()

    @property
    def connections(self) -> int:
        """Most connections at the same time, those that are no scan yet included."""
        return self._scans + _OTHERS

    def begin(self) -> None:
        """A scan begins; raises Refused where there are enough, or the server is about to end."""
        with self._changed:
            if self._draining:
                raise Refused("the server is about to end and takes no new scans")
            if self._running >= self._scans:
                raise Refused(f"the server runs {self._running} scans already and takes no more (--max-scans)")
            self._running += 1

    def end(self) -> None:
        """A scan has ended."""
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def drain(self) -> None:
        """Take no more scans."""
        with self._changed:
            self._draining = True

    def wait(self, seconds: float) -> bool:
        """Whether no scan is running any more, waiting for it so long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, seconds)


def turn_away(connected: socket.socket, sentence: str, *, client: bool = True) -> None:
    """Say why to somebody who gets no session, without waiting for anything, and hang up; servers know no Text."""
    content = f"[server] ERROR: {sentence}"
    with connected, contextlib.suppress(OSError):
        connected.setblocking(False)
        connected.send(protocol.text(content) * client + protocol.error(content) + protocol.close())
        connected.shutdown(socket.SHUT_WR)
        with contextlib.suppress(BlockingIOError):  # what lies unread when a socket is closed destroys what was sent
            while connected.recv(1 << 16):
                pass
