"""Health over HTTP, for those who start and stop servers by it: ``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pass_recon.types import InputError

log = logging.getLogger(__name__)

_JSON = "application/json"


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
def health_server(host: str, port: int, readiness: Readiness, metrics: Callable[[], bytes]) -> Iterator[int]:
    """Answer on a port of its own; the value is the port.

    Parameters
    ----------
    host, port
        Address; port 0 takes any that is free.
    readiness
        For ``/readyz``: 200 or 503, and the conditions as JSON.
    metrics
        Gives ``/metrics`` in Prometheus' text format.

    Raises
    ------
    InputError
        If the address cannot be listened on.
    """

    class Handler(_Handler):
        pages = {  # noqa: RUF012, made anew for each server
            "/healthz": lambda: (200, _JSON, b'{"alive": true}\n'),
            "/readyz": lambda: _ready_page(readiness),
            "/metrics": lambda: (200, "text/plain; version=0.0.4; charset=utf-8", metrics()),
        }

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}:{port} for health and metrics: {error}") from error
    server.daemon_threads = True
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


def _ready_page(readiness: Readiness) -> tuple[int, str, bytes]:
    unmet = readiness.unmet()
    told = {"ready": not unmet, "conditions": {name: unmet.get(name, "ok") for name in readiness.conditions}}
    return (503 if unmet else 200), _JSON, json.dumps(told, ensure_ascii=False).encode() + b"\n"


class _Handler(BaseHTTPRequestHandler):
    pages: dict[str, Callable[[], tuple[int, str, bytes]]]
    timeout = 10

    def do_GET(self) -> None:
        page = self.pages.get(self.path.partition("?")[0])
        if page is None:
            self.send_error(404, f"here are {', '.join(self.pages)}")
            return
        status, kind, content = page()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        log.debug(format, *arguments)
