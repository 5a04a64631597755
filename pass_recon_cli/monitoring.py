"""Options of servers for those who watch them: logs, health and metrics."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gadgets.monitoring.health import Readiness
    from gadgets.monitoring.observers import Observer


def add_monitoring_options(parser: argparse.ArgumentParser) -> None:
    """Add `--metrics-port`, `--metrics-host`, `--monitor-everywhere`, `--log-format` and `--quiet`."""
    parser.add_argument(
        "--metrics-port",
        type=int,
        metavar="PORT",
        help="answer /healthz, /readyz, /metrics and, with the monitor page, / on this port, 0 for any free one; "
        "needs .[metrics]; default: nowhere",
    )
    parser.add_argument(
        "--metrics-host",
        default="127.0.0.1",
        metavar="HOST",
        help="address for them; default: %(default)s, this machine",
    )
    parser.add_argument(
        "--monitor-everywhere",
        action="store_true",
        help="show the monitor page, with images of patients, to whoever reaches the port; default: this machine",
    )
    parser.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="json: one object a line, with the scan's id"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="log warnings only")


@dataclass(frozen=True)
class Monitored:
    """Who watches, and what must be so before the server is ready."""

    readiness: Readiness
    observers: tuple[Observer, ...]


def monitored(
    args: argparse.Namespace, started: threading.Event, stop: threading.Event, beside: ExitStack, device: str = "auto"
) -> Monitored:
    """Answer on the metrics port for as long as `beside` lasts, if one is asked for.

    Parameters
    ----------
    args
        With the options.
    started, stop
        Set once the server is warm and listens, and once it is to end.
    beside
        Ends what is started here.
    device
        Where the server computes.
    """
    from gadgets.monitoring.health import Once, Readiness, health_server

    readiness = Readiness()
    if args.metrics_port is None:
        return Monitored(readiness, ())
    from gadgets.monitoring.live import LiveScans
    from gadgets.monitoring.metrics import Metrics
    from gadgets.monitoring.pages import monitor_pages

    metrics = Metrics()
    readiness.require("warm", lambda: "" if started.is_set() else "it is being started")
    readiness.require("staying", lambda: "it is about to end" if stop.is_set() else "")
    pages = monitor_pages(live := LiveScans(), readiness)
    everywhere = args.monitor_everywhere
    beside.enter_context(
        health_server(args.metrics_host, args.metrics_port, readiness, metrics.text, pages, everywhere=everywhere)
    )
    readiness.require("bundles", Once(after(started, stop, _verify_bundles), "bundles are being verified"))
    readiness.require(
        "device", Once(after(started, stop, lambda: _find_device(device)), "the device is being looked for")
    )
    return Monitored(readiness, (metrics, live))


def after(started: threading.Event, stop: threading.Event, work: Callable[[], object]) -> Callable[[], None]:
    """The work, once the server is warm: until then it has no processor to spare."""

    def run() -> None:
        while not started.wait(0.2):
            if stop.is_set():
                return
        work()

    return run


def _verify_bundles() -> None:
    from pass_recon.bundles import load_bundle, shipped_bundles

    for name in shipped_bundles():
        load_bundle(name)


def _find_device(name: str) -> None:
    from gadgets.pipelines import device_of

    device_of(name)
