"""All four stages in one process that is already warm, for the ``<connect>`` node of ``pass_recon_resident.xml``.

A gadget that a server starts pays seconds of imports for every scan; a resident one answers with the first plan in
milliseconds. Each connection is one scan. Of its threads one reads, one plans and one reconstructs, so that a plan
never waits for a reconstruction.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gadgetron.external.connection import Connection
from gadgetron.types.recon_data import ReconData

from gadgets.acs_buffer import buffer_lines
from gadgets.anomaly_overlay import overlay
from gadgets.mask_feedback import feed_back
from gadgets.monitoring.observers import Observer, Observers, Outcome
from gadgets.monitoring.scan_id import SCAN_ID, in_this_scan, new_scan_id
from gadgets.mrd import ScanContext
from gadgets.pacs import sent_to_pacs
from gadgets.pass_reconstruction import reconstruct
from gadgets.pipelines import pipeline_for, warm_up
from gadgets.properties import Properties
from gadgets.protocol import Message
from gadgets.protocol.admission import Admission, Refused, turn_away
from gadgets.protocol.bounded import BoundedQueue
from gadgets.protocol.bytes import U16
from gadgets.protocol.connection import GadgetConnection, Stage, converse, run_to_exit
from pass_recon.common.memory import limit
from pass_recon.common.process import prepare_process
from pass_recon.types import InputError, PassError

_log = logging.getLogger(__name__)
_POLL_S = 0.2
_MOST_WAITING = 128 << 20  # bytes of slices from a file that wait to be reconstructed
_LESS_PRIORITY = 5  # of a reconstruction: a scanner waits for the plan


def serve_resident(
    host: str = "127.0.0.1",
    port: int = 18100,
    *,
    properties: Properties | None = None,
    ready: Callable[[int], object] | None = None,
    stop: threading.Event | None = None,
    observers: Sequence[Observer] = (),
    drain: threading.Event | None = None,
    drain_seconds: float = 30.0,
    max_scans: int = 16,
    bundle_folders: Sequence[Path] = (),
) -> None:
    """Serve Gadgetron's ``<connect>`` nodes until ``stop`` is set or the main thread is interrupted.

    Parameters
    ----------
    host, port
        Address to listen on; port 0 takes any that is free. Whoever reaches it can use this process.
    properties
        What to be warm for; a scan with other properties loads what it needs when it comes.
    ready
        Called with the port once the networks are loaded and servers can connect.
    stop
        Ends the loop; scans that are under way are cut off.
    observers
        Who watches the scans.
    drain
        Ends it once the scans that are under way have ended, after ``drain_seconds`` at the latest.
    max_scans
        Scans at the same time; more are refused.
    bundle_folders
        Where bundles may lie beside those that come with the package, and the one to be warm for: a scan may not name
        any other folder of this machine.

    Raises
    ------
    InputError, BundleError
        If the address cannot be listened on, or there is no such bundle or device.
    """
    prepare_process()
    warm_up(properties or Properties())
    may_use = _Bundles((properties or Properties()).bundle, bundle_folders)
    stop = stop or threading.Event()
    with _listen(host, port) as listening:
        bound = listening.getsockname()[1]
        _log.info("resident gadget on %s:%d", host, bound)
        if ready is not None:
            ready(bound)
        _accept(listening, stop, drain or threading.Event(), drain_seconds, Admission(max_scans), may_use, observers)


def _accept(
    listening: socket.socket,
    stop: threading.Event,
    drain: threading.Event,
    seconds: float,
    admission: Admission,
    may_use: _Bundles,
    observers: Sequence[Observer],
) -> None:
    listening.settimeout(_POLL_S)
    deadline = math.inf
    while not stop.is_set() and time.monotonic() < deadline:
        if drain.is_set() and deadline == math.inf:
            deadline = time.monotonic() + seconds
            admission.drain()
        if deadline < math.inf and admission.wait(0.0):
            return
        try:
            connected, peer = listening.accept()
        except TimeoutError:
            continue
        except OSError as error:
            _log.warning("could not accept a scan: %s", error)
            stop.wait(_POLL_S)
            continue
        try:
            admission.begin()
        except Refused as error:
            turn_away(connected, str(error), client=False)
            continue
        try:
            arguments = (connected, peer, admission, may_use, observers)
            threading.Thread(target=_session, args=arguments, name="session", daemon=True).start()
        except (RuntimeError, MemoryError) as error:  # no more threads
            admission.end()
            turn_away(connected, f"this process cannot take one more scan ({error})", client=False)


class _Bundles:
    """The bundles that a scan may ask for: whoever reaches a port must not learn what lies where on this machine."""

    def __init__(self, warm: str, folders: Sequence[Path]) -> None:
        self._warm, self._folders = warm, [folder.resolve() for folder in folders]

    def checked(self, scan: ScanContext) -> ScanContext:
        """The scan; raises InputError where its bundle is none of them."""
        from pass_recon.bundles import shipped_bundles

        name = scan.properties.bundle
        if name in ("auto", "classical", self._warm, *shipped_bundles()):
            return scan
        if any(Path(name).resolve().is_relative_to(folder) for folder in self._folders):
            return scan
        raise InputError(
            f"there is no bundle {name!r} among the shipped ones, "
            "nor in a folder that this process was given (--bundles)"
        )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=16)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}:{port}: {error}") from error
    if not ipaddress.ip_address(listening.getsockname()[0]).is_loopback:
        _log.warning("%s is not a loopback address: whoever reaches it can use this process", host)
    return listening


def _session(
    connected: socket.socket, peer: object, admission: Admission, may_use: _Bundles, observers: Sequence[Observer]
) -> None:
    """One scan, from the handshake to CLOSE; nothing that happens in it concerns the others."""
    try:
        with connected:
            _scan(connected, peer, may_use, observers)
    finally:
        admission.end()


def _scan(connected: socket.socket, peer: object, may_use: _Bundles, observers: Sequence[Observer]) -> None:
    started = time.monotonic()
    try:
        connection = GadgetConnection.accept(connected)
    except (OSError, PassError) as error:  # PeerLost is an OSError
        _log.error("connection from %s ended: %s", peer, error)
        return
    connection.scan_id = connection.scan_id or new_scan_id()
    SCAN_ID.set(connection.scan_id)
    _log.info("scan %s from %s", connection.scan_id, peer)
    observed = Observers(observers, connection.scan_id, lambda said: _log.warning("not observed: %s", said))
    observed.began(b"", connection.header, lambda: connection.waiting)
    connection.on_sent = lambda frame: observed.sent(Message(U16.unpack_from(frame)[0], frame[U16.size :]))
    outcome: Outcome = "failed"
    try:
        succeeded = converse(connection, lambda scan: _all_stages(may_use.checked(scan), connection), whole_chain=True)
        for failure in connection.failures:
            observed.told("warning" if failure.severity == "warning" else "error", failure.message)
        errors = any(failure.severity != "warning" for failure in connection.failures)
        outcome = "failed" if not succeeded else "with_errors" if errors else "ok"
    except (OSError, PassError, RuntimeError) as error:  # RuntimeError: no more threads
        outcome = "cut"
        _log.error("scan %s ended: %s", connection.scan_id, error)
    finally:
        observed.ended(outcome, time.monotonic() - started)


def whole_chain(connection: Connection) -> None:
    """Run all stages as one gadget: ``python -m gadgetron PORT gadgets.resident whole_chain``."""
    run_to_exit(
        connection,
        lambda guarded: converse(guarded, lambda scan: _all_stages(scan, guarded), whole_chain=True),
    )


def _all_stages(scan: ScanContext, connection: GadgetConnection) -> Stage:
    pipeline = pipeline_for(scan)

    def stage(items: Iterator[Any]) -> Iterable[Any]:
        # The generator that is returned plans; what it would have to wait for happens on the thread of `_Worker`.
        planned = feed_back(buffer_lines(items, scan), scan, pipeline)
        # A scanner waits for the plans of the next slices however many are still to be reconstructed; a file does not.
        most = limit() // 4 if scan.properties.mode == "closed_loop" else _MOST_WAITING
        with _Worker(
            lambda slices: sent_to_pacs(overlay(reconstruct(slices, scan, pipeline)), scan), connection.send, most
        ) as worker:
            for item in planned:
                if isinstance(item, ReconData):
                    worker.put(item)
                else:
                    yield item
            worker.wait()

    return stage


def _give_way() -> None:
    """Let this thread, and those that torch starts for it, compute less while other threads want the cores."""
    if sys.platform == "linux":  # elsewhere all threads of a process have one priority
        this = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, this, os.getpriority(os.PRIO_PROCESS, this) + _LESS_PRIORITY)


class _Worker:
    """Runs a stage on a thread of its own and sends what comes out; an exception comes out of ``put`` or ``wait``.

    ``put`` waits while slices of more than ``most`` bytes are still to be reconstructed.
    """

    def __init__(self, stage: Stage, send: Callable[[Any], None], most: int) -> None:
        self._stage, self._send = stage, send
        self._slices: BoundedQueue[ReconData | None] = BoundedQueue(most)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=in_this_scan(self._work), name="reconstruction", daemon=True)

    def __enter__(self) -> _Worker:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._slices.put(None)

    def put(self, item: ReconData) -> None:
        """Hand over a slice."""
        self._raise()
        self._slices.put(item, _size(item))

    def wait(self) -> None:
        """Until everything handed over is sent."""
        self._slices.put(None)
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        _give_way()
        try:
            for item in self._stage(iter(self._slices.get, None)):
                self._send(item)
        except Exception as error:  # noqa: BLE001, handed over to the session's thread
            self._error = error
            self._slices.clear()  # nobody waits for room any more


def _size(item: ReconData) -> int:
    """Bytes of the k-space of a slice."""
    return sum(part.data.nbytes for bit in item for part in (bit.data, bit.ref) if part is not None)
