"""Options of servers for how much they take, and for how they end."""

from __future__ import annotations

import argparse
import math


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """Add `--max-scans` and `--drain-seconds`."""
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


def check_load(args: argparse.Namespace) -> None:
    """Raise InputError for limits that no server can keep."""
    from pass_recon.types import InputError

    if args.max_scans < 1 or not 0 <= args.drain_seconds < math.inf:
        raise InputError(
            f"--max-scans must be at least 1 and --drain-seconds not negative, got {args.max_scans} and "
            f"{args.drain_seconds:g}"
        )
