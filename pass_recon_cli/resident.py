"""`pass-recon resident`: all four stages warm in one process, for the `<connect>` node of pass_recon_resident.xml."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from pass_recon_cli.load import add_load_options, check_load
from pass_recon_cli.monitoring import add_monitoring_options, monitored
from pass_recon_cli.properties import add_memory_option, add_property_options, keep_to_memory, properties_of

DESCRIPTION = """Keep all four stages warm in one process. A server that runs pass_recon_resident.xml connects to it for
each scan, and has the first plan in milliseconds instead of seconds. The options say what to be warm for; what counts
for a scan are the properties of its configuration."""
EXAMPLE = "example: pass-recon resident --port 18100, then: pass-recon scan -f scan.h5 -c pass_recon_resident.xml"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `resident` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "resident", help="keep all stages warm in one process", description=DESCRIPTION, epilog=EXAMPLE
    )
    parser.add_argument("-p", "--port", type=int, default=18100, help="0 for any free one; default: %(default)s")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: %(default)s, this machine")
    add_property_options(parser, "bundle", "acceleration", "device")
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end when standard input does: with whoever started this"
    )
    parser.add_argument(
        "--bundles",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder of bundles that scans may name; repeatable; default: only those that come with the package",
    )
    add_load_options(parser)
    add_memory_option(parser)
    add_monitoring_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    from gadgets.resident import serve_resident
    from pass_recon_cli.serve import announce, log_to_stderr, run_until_signal

    log_to_stderr(quiet=args.quiet, format=args.log_format)
    keep_to_memory(args)
    check_load(args)
    properties = properties_of(args)
    started = threading.Event()

    def ready(port: int) -> None:
        announce("resident", args.host, port)
        started.set()

    def serve_until(stop: threading.Event, drain: threading.Event) -> None:
        if args.until_stdin_closes:
            threading.Thread(target=_stop_at_end_of_stdin, args=(stop,), name="stdin", daemon=True).start()
        with ExitStack() as beside:
            watching = monitored(args, started, stop, beside, properties.device)
            serve_resident(
                args.host,
                args.port,
                properties=properties,
                ready=ready,
                stop=stop,
                drain=drain,
                drain_seconds=args.drain_seconds,
                max_scans=args.max_scans,
                bundle_folders=args.bundles,
                observers=watching.observers,
            )

    return run_until_signal(serve_until)


def _stop_at_end_of_stdin(stop: threading.Event) -> None:
    descriptor = sys.stdin.fileno()
    with suppress(OSError):
        while os.read(descriptor, 1 << 12):  # unlike sys.stdin, holds no lock that the end of the program waits for
            pass
    stop.set()
