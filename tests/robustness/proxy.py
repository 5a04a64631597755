"""A network between a client and a server that does what networks do."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable

FAULTS = ("none", "delayed", "split", "cut", "duplicated", "slow reader", "garbage")


class Proxy:
    """Passes bytes on to a port, with one of the `FAULTS`; used as a context that gives its own port."""

    def __init__(self, port: int, fault: str, seed: int) -> None:
        self._target, self._fault, self._draw = port, fault, random.Random(seed)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> int:
        self._start(self._serve)
        return int(self._listening.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join(10)
        for one in self._sockets:
            _cut(one)
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        self._threads.append(thread := threading.Thread(target=target, args=args, daemon=True))
        thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listening.accept()
            self._sockets.append(client)
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                _cut(client)
                return
            self._sockets.append(server)
            self._start(self._pass, client, server, True)
            self._start(self._pass, server, client, False)

    def _most(self, to_server: bool) -> int:
        if self._fault == "split":
            return self._draw.choice((1, 7, 300))
        return 1 << (13 if self._fault == "slow reader" and not to_server else 16)

    def _pass(self, source: socket.socket, target: socket.socket, to_server: bool) -> None:
        passed, where = 0, self._draw.randrange(2_000, 300_000)
        try:
            while chunk := source.recv(self._most(to_server)):
                struck = to_server and passed <= where < passed + len(chunk)
                if self._fault == "delayed":
                    time.sleep(self._draw.random() / 200)
                elif self._fault == "slow reader" and not to_server:
                    time.sleep(0.1)
                elif struck and self._fault == "cut":
                    target.sendall(chunk[: where - passed])
                    break
                elif struck and self._fault == "duplicated":
                    chunk += chunk[: self._draw.randrange(1, len(chunk) + 1)]
                elif struck and self._fault == "garbage":
                    chunk = chunk[: where - passed] + self._draw.randbytes(len(chunk) - where + passed)
                target.sendall(chunk)
                passed += len(chunk)
            if self._fault == "cut" and to_server:
                for one in (source, target):
                    _cut(one)
            else:
                target.shutdown(socket.SHUT_WR)
        except OSError:  # one end is gone for good, which the other one is to notice
            for one in (source, target):
                _cut(one)


def _cut(one: socket.socket) -> None:
    """Close a connection under whoever waits for its bytes, who does not notice otherwise."""
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
