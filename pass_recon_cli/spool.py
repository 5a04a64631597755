"""Options of `serve` for raw data that are kept."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gadgets.monitoring.observers import Observer

_GIB, _DAY = 1 << 30, 86400.0


def add_spool_options(parser: argparse.ArgumentParser) -> None:
    """Add `--spool` and what bounds it."""
    parser.add_argument(
        "--spool", type=Path, metavar="DIR", help="keep raw data there as they come; `pass-recon replay DIR` uses them"
    )
    parser.add_argument(
        "--spool-gb", type=float, default=50.0, metavar="GB", help="most of them, the oldest go; default: %(default)s"
    )
    parser.add_argument(
        "--spool-days", type=float, default=7.0, metavar="D", help="how long they are kept; default: %(default)s"
    )
    parser.add_argument(
        "--deidentify", action="store_true", help="keep them without subject, study, site, dates and identifiers"
    )


def spools(args: argparse.Namespace) -> tuple[Observer, ...]:
    """The keeper of raw data, if one is asked for; raises InputError."""
    from pass_recon.types import InputError

    if args.spool is None:
        if args.deidentify:
            raise InputError("--deidentify is about the raw data of --spool, and nothing is to be kept")
        return ()
    if not (0 < args.spool_gb < math.inf and 0 < args.spool_days < math.inf):
        raise InputError(f"--spool-gb {args.spool_gb:g} and --spool-days {args.spool_days:g} must be above 0")
    from gadgets.spool.spool import Spool

    size, age = int(args.spool_gb * _GIB), args.spool_days * _DAY
    return (Spool(args.spool, size, age, deidentify=args.deidentify),)
