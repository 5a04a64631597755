"""`pass-recon serve`: the embedded server, which runs the same XML as a Gadgetron."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from pass_recon_cli.load import add_load_options, check_load
from pass_recon_cli.monitoring import add_monitoring_options, monitored
from pass_recon_cli.properties import add_memory_option, keep_to_memory
from pass_recon_cli.spool import add_spool_options, spools

DESCRIPTION = """A server that speaks to Gadgetron clients and runs the chains of this project without a Gadgetron.
Configurations are found by name in the given folders, then among those that come with the package."""
EXAMPLE = "example: pass-recon serve --port 9002, then: gadgetron_ismrmrd_client -f scan.h5 -c pass_recon.xml"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `serve` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "serve", help="run the embedded server", description=DESCRIPTION, epilog=EXAMPLE
    )
    parser.add_argument("-p", "--port", type=int, default=9002, help="0 for any free one; default: %(default)s")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: %(default)s, this machine")
    parser.add_argument(
        "--configs", type=Path, action="append", default=[], metavar="DIR", help="folder of configurations; repeatable"
    )
    parser.add_argument(
        "--default-config",
        default="pass_recon_plain.xml",
        metavar="NAME",
        help="configuration for FIRE clients that name an unknown one, such as openrecon; default: %(default)s",
    )
    parser.add_argument(
        "--allow-client-configs", action="store_true", help="let clients send configurations, which name code to run"
    )
    parser.add_argument(
        "--allow-module",
        action="append",
        default=["gadgets"],
        metavar="NAME",
        help="module, or package of modules, that such configurations may start besides those of this project",
    )
    parser.add_argument(
        "--stock-client", action="store_true", help="errors as Text only: the stock client aborts at an Error message"
    )
    add_load_options(parser)
    parser.add_argument(
        "--idle-seconds",
        type=float,
        default=900.0,
        metavar="S",
        help="drop a scan in which no line comes for so long; default: %(default)g",
    )
    add_memory_option(parser)
    parser.add_argument(
        "--resident",
        action="store_true",
        help="run `pass-recon resident` beside it, for pass_recon_resident.xml, and start it again when it dies",
    )
    add_spool_options(parser)
    add_monitoring_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    from gadgets.server.configuration import find
    from gadgets.server.resident_child import ResidentChild
    from gadgets.server.server import serve
    from gadgets.server.settings import ServerSettings
    from pass_recon_cli.configurations import packaged_configurations

    log_to_stderr(quiet=args.quiet, format=args.log_format)
    keep_to_memory(args)
    check_load(args)
    folders = [*args.configs, packaged_configurations()]
    find(args.default_config, folders)  # complain before a scanner needs it

    started = threading.Event()

    def ready(port: int) -> None:
        # Whitening needs torch; imported now, its two seconds are not in the way of the first plan of the first scan.
        import_module("pass_recon.physics.coils")
        announce("serve", args.host, port)
        started.set()

    def serve_until(stop: threading.Event, drain: threading.Event) -> None:
        with ExitStack() as beside:
            watching = monitored(args, started, stop, beside)
            if args.resident:
                child = beside.enter_context(ResidentChild(["--log-format", args.log_format]))
                watching.readiness.require("resident", child.why_not_ready)
            settings = ServerSettings(
                stock_client=args.stock_client,
                default_config=args.default_config,
                allowed_modules=tuple(args.allow_module),
                max_scans=args.max_scans,
                drain_seconds=args.drain_seconds,
                silence_seconds=args.idle_seconds,
                observers=(*watching.observers, *spools(args)),
            )
            serve(
                args.host,
                args.port,
                folders,
                args.allow_client_configs,
                ready=ready,
                stop=stop,
                settings=settings,
                drain=drain,
            )

    return run_until_signal(serve_until)


def log_to_stderr(*, quiet: bool, format: str = "text") -> None:
    """Send log messages to stderr, with the time."""
    level = logging.WARNING if quiet else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    if format == "json":
        from gadgets.monitoring.logs import JsonFormatter

        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class _Printable(logging.Formatter):
    """What peers said may hold codes that steer a terminal, or make up lines of the log."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        from pass_recon.types import printable

        return printable(super().formatMessage(record))


def announce(command: str, host: str, port: int) -> None:
    """Say on stdout where clients can connect, at once, for whoever started this process and waits for it."""
    sys.stdout.write(f"pass-recon {command}: listening on {host}:{port}\n")
    sys.stdout.flush()


def run_until_signal(serve_until: Callable[[threading.Event, threading.Event], None]) -> int:
    """Run a server in an orderly way.

    Parameters
    ----------
    serve_until
        Gets an event that ends it at once, for Ctrl-C, and one that lets scans end first, for SIGTERM. Whoever is not
        patient sends a second signal.

    Returns
    -------
    int
        130 for Ctrl-C, as shells count, 128 + the signal where there was a second one, else 0.
    """
    stop, drain = threading.Event(), threading.Event()
    received: list[int] = []

    def handle(number: int, _frame: object) -> None:
        if number == signal.SIGTERM and not drain.is_set():
            drain.set()
        else:
            received.append(number)
            stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    serve_until(stop, drain)
    return 128 + received[0] if received else 0
