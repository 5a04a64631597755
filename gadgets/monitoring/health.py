"""Health over HTTP, for those who start and stop servers by it: ``/healthz``, ``/readyz`` and ``/metrics``.

Pages that show images of patients are for this machine alone, whatever address the port has, unless told otherwise.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from pass_recon.types import InputError

log = logging.getLogger(__name__)

JSON = "application/json"
_MOST_REQUESTS = 32  # at a time
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Answer = tuple[int, str, bytes]
"""Status, type of the content, content."""


class Readiness:
    """What must be so before scans are sent here: conditions by name, each an empty text or why it is not met."""

    def __init__(self) -> None:
        self._conditions: dict[str, Callable[[], str]] = {}

    def require(self, name: str, why_not: Callable[[], str]) -> None:
        """Add a condition."""
        self._conditions[name] = why_not

    def unmet(self) -> dict[str, str]:
        """Why scans should not be sent here, by condition; empty if they may."""
        told = {name: why_not() for name, why_not in self._conditions.items()}
        return {name: reason for name, reason in told.items() if reason}

    @property
    def conditions(self) -> list[str]:
        """Their names."""
        return list(self._conditions)


class Once:
    """A condition that is met once some work has been done, on a thread of its own."""

    def __init__(self, work: Callable[[], object], meanwhile: str) -> None:
        self._reason = meanwhile
        threading.Thread(target=self._run, args=(work,), name="readiness", daemon=True).start()

    def __call__(self) -> str:
        return self._reason

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
            self._reason = ""
        except Exception as error:  # noqa: BLE001, whatever it is, it is why this server is not ready
            self._reason = str(error) or type(error).__name__
            log.error("not ready: %s", self._reason)


@contextmanager
def health_server(
    host: str,
    port: int,
    readiness: Readiness,
    metrics: Callable[[], bytes],
    confidential: Mapping[str, Callable[[str], Answer]] | None = None,
    *,
    everywhere: bool = False,
) -> Iterator[int]:
    """Answer on a port of its own; the value is the port.

    Parameters
    ----------
    host, port
        Address; port 0 takes any that is free.
    readiness
        For ``/readyz``: 200 or 503, and the conditions as JSON.
    metrics
        Gives ``/metrics`` in Prometheus' text format.
    confidential
        Pages by their paths, made from what follows the question mark.
    everywhere
        Show these to whoever reaches the port, not only to this machine.

    Raises
    ------
    InputError
        If the address cannot be listened on.
    """

    class Handler(_Handler):
        pages = {  # noqa: RUF012, made anew for each server
            "/healthz": lambda: (200, JSON, b'{"alive": true}\n'),
            "/readyz": lambda: _ready_page(readiness),
            "/metrics": lambda: (200, "text/plain; version=0.0.4; charset=utf-8", metrics()),
        }

    Handler.confidential, Handler.everywhere = confidential or {}, everywhere

    try:
        server = _Server((host, port), Handler)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}:{port} for health and metrics: {error}") from error
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    bound = int(server.server_address[1])
    log.info("health and metrics on http://%s:%d", host, bound)
    try:
        yield bound
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    """With no more threads than a few: whoever opens connections and says nothing costs the scans none."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(_MOST_REQUESTS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError as error:  # no more threads
            self._free.release()
            log.warning("a request to health and metrics is turned away: %s", error)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


def _ready_page(readiness: Readiness) -> Answer:
    unmet = readiness.unmet()
    told = {"ready": not unmet, "conditions": {name: unmet.get(name, "ok") for name in readiness.conditions}}
    return (503 if unmet else 200), JSON, json.dumps(told, ensure_ascii=False).encode() + b"\n"


class _Handler(BaseHTTPRequestHandler):
    pages: Mapping[str, Callable[[], Answer]]
    confidential: Mapping[str, Callable[[str], Answer]]
    everywhere: bool
    timeout = 10

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path in self.pages:
            self._answer(*self.pages[path]())
        elif path not in self.confidential:
            self.send_error(404, f"here are {', '.join([*self.pages, *self.confidential])}")
        elif not self.everywhere and not (_is_loopback(self.client_address[0]) and self._asked_for_this_machine()):
            self.send_error(403, "images are shown on this machine alone (--monitor-everywhere)")
        else:
            self._answer(*self.confidential[path](query))

    def _asked_for_this_machine(self) -> bool:
        """Whether the browser knows us under a name of this machine: a page of others may have lent it theirs."""
        try:
            name = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        except ValueError:
            return False
        return name == "localhost" or _is_loopback(name)

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **_HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        log.debug(format, *arguments)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
