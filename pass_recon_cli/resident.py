"""`pass-recon resident`: all four stages warm in one process, for the `<connect>` node of pass_recon_resident.xml."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

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
        "--bundles",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder of bundles that scans may name; repeatable; default: only those that come with the package",
    )
    parser.add_argument(
        "--max-scans", type=int, default=16, metavar="N", help="scans at the same time; default: %(default)s"
    )
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="how long scans may go on after SIGTERM; new ones are refused; default: %(default)g",
    )
    add_memory_option(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="log warnings only")
    return parser


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    from gadgets.resident import serve_resident
    from pass_recon_cli.serve import announce, log_to_stderr, run_until_signal

    log_to_stderr(quiet=args.quiet)
    keep_to_memory(args)
    properties = properties_of(args)
    return run_until_signal(
        lambda stop, drain: serve_resident(
            args.host,
            args.port,
            properties=properties,
            ready=lambda port: announce("resident", args.host, port),
            stop=stop,
            drain=drain,
            drain_seconds=args.drain_seconds,
            max_scans=args.max_scans,
            bundle_folders=args.bundles,
        )
    )
