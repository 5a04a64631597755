"""What happens to a site while it scans, each as a context that gives the port to scan through."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from gadgets.spool.recording import under_way
from gadgets.spool.spool import cut_scans
from tests.robustness.clock import COMPILER
from tests.robustness.proxy import FAULTS, Proxy
from tests.robustness.site import Command, Site

Strike = Callable[[Site, random.Random, Path, Path], contextlib.AbstractContextManager[int]]


class Fault(NamedTuple):
    """A kind of fault.

    Attributes
    ----------
    strike
        Makes it happen: of the site, what is random, the scan's file and that of its images.
    costs
        Whether it may cost images, if that is said.
    weight
        How often, among all kinds.
    scan
        The configuration to scan with; any where it is empty.
    clients
        How many scan at once, into one file.
    """

    strike: Strike
    costs: bool = False
    weight: int = 8
    scan: str = ""
    clients: int = 1


def through(fault: str) -> Strike:
    """A network with one of the proxy's faults."""

    def strike(site: Site, draw: random.Random, path: Path, out: Path) -> Proxy:
        return Proxy(site.server.port, fault, seed=draw.randrange(1 << 30))

    return strike


@contextlib.contextmanager
def _in_mid_scan(site: Site, seconds: float, act: Callable[[], object]) -> Iterator[int]:
    """Through a network that takes its time, so that what is done after so many seconds happens in mid-scan."""
    acting = threading.Timer(seconds, act)
    with Proxy(site.server.port, "delayed", seed=0) as port:
        acting.start()
        try:
            yield port
        finally:
            acting.join()


@contextlib.contextmanager
def _killed(site: Site, draw: random.Random, command: Command) -> Iterator[int]:
    """One of the processes is killed in mid-scan, and started again afterwards."""
    try:
        with _in_mid_scan(site, draw.random() / 2, command.process.kill) as port:
            yield port
    finally:
        command.again()


@contextlib.contextmanager
def resident_killed(site: Site, draw: random.Random, path: Path, out: Path) -> Iterator[int]:
    """The resident process; it is started again afterwards."""
    with _killed(site, draw, site.resident) as port:
        yield port


@contextlib.contextmanager
def server_killed(site: Site, draw: random.Random, path: Path, out: Path) -> Iterator[int]:
    """The server; what had come by then is in its spool, or it never began."""
    with _killed(site, draw, site.server) as port:
        yield port
    if out.exists():  # an image came back, so that lines must have come
        assert cut_scans(site.spool), "the spool of a killed server holds nothing of the scan"
    for recording in cut_scans(site.spool):
        recording.unlink()


@contextlib.contextmanager
def gadget_killed(site: Site, draw: random.Random, path: Path, out: Path) -> Iterator[int]:
    """One of the server's own gadgets, at any moment from its start on."""

    def kill() -> None:
        if children := site.server.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(children), signal.SIGKILL)

    with _in_mid_scan(site, 0.1 + 4 * draw.random(), kill) as port:
        yield port


def stopped(which: str) -> Strike:
    """A process that is stopped for a while, as on a machine that swaps."""

    @contextlib.contextmanager
    def strike(site: Site, draw: random.Random, path: Path, out: Path) -> Iterator[int]:
        process, seconds = getattr(site, which).process, 0.2 + draw.random()

        def stop() -> None:
            process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            process.send_signal(signal.SIGCONT)

        with _in_mid_scan(site, draw.random() / 2, stop) as port:
            yield port

    return strike


@contextlib.contextmanager
def client_killed(site: Site, draw: random.Random, path: Path, out: Path) -> Iterator[int]:
    """Another client, with the same output file; what it leaves is cleaned away by the one that follows."""
    command = [sys.executable, "-m", "pass_recon_cli.main", "scan", "-p", str(site.server.port)]
    command += ["-c", "classical.xml", "-f", str(path), "-o", str(out), "--tr", "20", "-q"]
    client = subprocess.Popen(command)
    time.sleep(1.0 + 2 * draw.random())
    client.kill()
    client.wait()
    yield site.server.port
    left = [one.name for one in out.parent.glob(f".{out.name}.*")]
    assert not left, f"a killed client has left {left}"


@contextlib.contextmanager
def _no_file_larger_than(size: int, process: int) -> Iterator[None]:
    """What a process finds on a full disk: nothing can be written beyond so many bytes."""
    before = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def client_disk_full(site: Site, draw: random.Random, path: Path, out: Path) -> Iterator[int]:
    """No room for all images."""
    with _no_file_larger_than(draw.randrange(450_000), os.getpid()):
        yield site.server.port


@contextlib.contextmanager
def server_disk_full(site: Site, draw: random.Random, path: Path, out: Path) -> Iterator[int]:
    """No room for all raw data in the spool, which costs no image.

    Unlike a full disk, the limit counts for room that a file has been given before: hence nothing is under way.
    """
    _nothing_under_way(site)
    with _no_file_larger_than(draw.randrange(400_000), site.server.process.pid):
        yield site.server.port
        _nothing_under_way(site)
    for recording in cut_scans(site.spool):
        recording.unlink()


def _nothing_under_way(site: Site) -> None:
    deadline = time.monotonic() + 30
    while any(one.suffix == ".partial" or (one.suffix == ".scan" and under_way(one)) for one in site.spool.iterdir()):
        assert time.monotonic() < deadline, "the raw data of a scan are still being written after half a minute"
        time.sleep(0.05)


@contextlib.contextmanager
def clock_jumps(site: Site, draw: random.Random, path: Path, out: Path) -> Iterator[int]:
    """The time of day, hours to and fro, several times in a scan."""
    over = threading.Event()

    def jump() -> None:
        while not over.wait(0.05 + 0.2 * draw.random()):
            site.clock.jump(draw.randrange(-100_000, 100_000))

    jumping = threading.Thread(target=jump)
    with Proxy(site.server.port, "delayed", seed=0) as port:
        jumping.start()
        try:
            yield port
        finally:
            over.set()
            jumping.join()


KINDS: dict[str, Fault] = {
    **{fault: Fault(through(fault), costs=fault in ("cut", "duplicated", "garbage")) for fault in FAULTS},
    "two, one output": Fault(through("none"), weight=4, clients=2),
    "resident killed": Fault(resident_killed, weight=3, scan="classical.xml"),
    "resident stopped": Fault(stopped("resident"), weight=3, scan="classical.xml"),
    "gadget killed": Fault(gadget_killed, weight=2, scan="gadgets.xml"),
    "server killed": Fault(server_killed, costs=True, weight=3),
    "server stopped": Fault(stopped("server"), weight=3),
    "client killed": Fault(client_killed, weight=2),
    "client's disk full": Fault(client_disk_full, costs=True, weight=4),
    "server's disk full": Fault(server_disk_full, weight=4),
}
if COMPILER is not None:
    KINDS["clock jumps"] = Fault(clock_jumps, weight=4)
