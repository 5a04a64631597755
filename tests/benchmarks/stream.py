"""251 MB of acquisitions through the stages without networks, against a gadget that only reads them."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from gadgetron.external.connection import Connection

from gadgets import protocol
from gadgets.acs_buffer import buffer_lines
from gadgets.mask_feedback import feed_back
from gadgets.mrd.scan_file import ScanFile
from gadgets.protocol.connection import GadgetConnection, converse
from pass_recon import Pipeline
from tests.benchmarks.timing import Benchmark
from tests.gadgets.scans import write_scan

SLICES, SHAPE, COILS = 8, (640, 384), 16  # without oversampling, as Gadgetron's own nodes before ours leave it


def benchmarks() -> Iterator[Benchmark]:
    """What travels is made once; each side has it from a thread of its own, over TCP."""
    with tempfile.TemporaryDirectory() as folder:
        generator = np.random.default_rng(0)
        kspace = generator.normal(size=(SLICES, COILS, *SHAPE, 2)).astype(np.float32).view(np.complex64)[..., 0]
        path = write_scan(Path(folder) / "scan.h5", kspace)
        with ScanFile(path, "dataset") as source:
            head = protocol.header(source.header_xml)
            lines = b"".join(protocol.encode(acquisition) for acquisition in source.acquisitions())
    sent = protocol.config_script("<configuration/>") + head + lines + protocol.close()
    name = f"{len(lines) / 1e6:.0f} MB through buffering and planning without networks"
    pipeline = Pipeline("classical")

    def buffered(ours: socket.socket) -> None:
        connection = GadgetConnection.accept(ours)
        converse(connection, lambda scan: lambda items: _nothing(feed_back(buffer_lines(items, scan), scan, pipeline)))

    yield Benchmark(
        name, lambda: _over_tcp(sent, buffered), lambda: _over_tcp(sent, _only_read), "a gadget that reads", 3
    )


def _nothing(items: Iterator[object]) -> Iterator[object]:
    """Take what a stage yields, and hand nothing on."""
    for _ in items:
        pass
    return iter(())


def _only_read(ours: socket.socket) -> None:
    for _ in Connection(ours):
        pass


def _over_tcp(sent: bytes, receive: Callable[[socket.socket], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    with ours, theirs:
        sender = threading.Thread(target=theirs.sendall, args=(sent,))
        sender.start()
        receive(ours)
        sender.join()
