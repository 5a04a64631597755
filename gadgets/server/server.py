"""Accepts clients. Everything else happens in their sessions."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gadgets.protocol import Channel
from gadgets.protocol.admission import Admission, turn_away
from gadgets.server.session import Session
from gadgets.server.settings import ServerSettings
from pass_recon.common.memory import limit
from pass_recon.types import InputError

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_STOP_SECONDS = 1.0


def serve(
    host: str = "127.0.0.1",
    port: int = 9002,
    config_folders: Sequence[Path | str] = (),
    allow_client_configs: bool = False,
    ready: Callable[[int], object] | None = None,
    stop: threading.Event | None = None,
    settings: ServerSettings | None = None,
    drain: threading.Event | None = None,
) -> None:
    """Serve clients until `stop` is set or the main thread is interrupted.

    Parameters
    ----------
    host, port
        Address to listen on; port 0 takes any that is free.
    config_folders
        Where configurations are looked up by name, the first folder that has one wins.
    allow_client_configs
        Whether clients may send configurations, and with them names of Python modules to run.
    ready
        Called with the port once clients can connect.
    stop
        Ends the server within a second or two, together with all sessions and the processes they started.
    drain
        Ends the server once the scans that are running have ended, after ``settings.drain_seconds`` at the latest. New
        ones are refused meanwhile.
    settings
        Further settings; the two above take precedence.

    Raises
    ------
    InputError
        If a folder is missing or the address cannot be listened on.
    """
    folders = tuple(Path(folder) for folder in config_folders)
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise InputError(f"no such configuration folder: {', '.join(missing)}")
    settings = replace(settings or ServerSettings(), config_folders=folders, allow_client_configs=allow_client_configs)
    settings = _within_memory(settings)
    with _listen(host, port) as listening:
        bound = listening.getsockname()[1]
        log.info("listening on %s:%d, configurations from %s", host, bound, ", ".join(map(str, folders)) or "nowhere")
        if not _is_loopback(host):
            log.warning("%s is not a loopback address: whoever reaches it can use this server", host)
        if ready is not None:
            ready(bound)
        with _terminated_like_interrupted():
            _accept(listening, settings, stop or threading.Event(), drain or threading.Event())


def _within_memory(settings: ServerSettings) -> ServerSettings:
    """The settings with what each scan may hold bounded by its share of the memory that there is."""
    share = limit() // max(settings.max_scans, 1)
    return replace(
        settings,
        waiting_bytes=min(settings.waiting_bytes, share // 16),
        kept_bytes=min(settings.kept_bytes, share // 4),
    )


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 65536:
        raise InputError(f"cannot listen on {host}:{port}: ports are 0 to 65535")
    try:
        families = [entry[0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        # The stock client resolves "localhost" to IPv4 only.
        family = socket.AF_INET if socket.AF_INET in families else families[0]
        return socket.create_server((host, port), family=family, backlog=64)
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port}: {error}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, as a container gets it, must not leave gadgets behind either."""
    in_main_thread = threading.current_thread() is threading.main_thread()  # no other may ask for signals
    if not in_main_thread or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield  # whoever has arranged something else also has `stop`
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _accept(listening: socket.socket, settings: ServerSettings, stop: threading.Event, drain: threading.Event) -> None:
    sessions: dict[threading.Thread, Session] = {}
    admission = Admission(settings.max_scans)
    listening.settimeout(_POLL_SECONDS)
    try:
        deadline = math.inf
        while not stop.is_set() and time.monotonic() < deadline:
            if drain.is_set() and deadline == math.inf:
                log.info("scans that are running have %g s to end", settings.drain_seconds)
                deadline = time.monotonic() + settings.drain_seconds
                admission.drain()
            if deadline < math.inf and admission.wait(0.0):
                break
            sessions = {thread: session for thread, session in sessions.items() if thread.is_alive()}
            try:
                connected, address = listening.accept()
            except TimeoutError:
                continue
            except OSError as error:  # a client that is gone already, or no more descriptors: neither ends the server
                log.warning("could not accept a client: %s", error)
                stop.wait(_POLL_SECONDS)
                continue
            if len(sessions) >= admission.connections:
                log.warning("%s:%d is turned away: %d connections", *address[:2], len(sessions))
                turn_away(connected, f"the server has {len(sessions)} connections and takes no more")
                continue
            try:
                session = Session(Channel(connected), f"{address[0]}:{address[1]}", settings, admission)
                thread = threading.Thread(target=session.run, name=f"session-{address[1]}", daemon=True)
                thread.start()
            except (OSError, RuntimeError, MemoryError) as error:  # RuntimeError: no more threads
                log.warning("no session for %s:%d: %s", *address[:2], error)
                turn_away(connected, f"the server cannot take one more client ({error})")
            else:
                sessions[thread] = session
    except KeyboardInterrupt:
        log.info("interrupted")
    finally:
        _stop(sessions)


def _stop(sessions: dict[threading.Thread, Session]) -> None:
    for session in sessions.values():
        session.stop()
    for thread, session in sessions.items():
        thread.join(_STOP_SECONDS / len(sessions))
        session.kill()
        thread.join(_STOP_SECONDS / len(sessions))
