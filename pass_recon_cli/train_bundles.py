"""`pass-recon train bundles`: make bundles of what the stages trained, with what an evaluation measured on their cards.

The bundles of one recipe share their reconstructor and their backbone: one file each, in the folder `common`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  pass-recon train bundles --runs runs -o bundles
  pass-recon evaluate bundles/* --data held_out -o results
  pass-recon train bundles --runs runs -o bundles --results results/results.json
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `bundles` to the training commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bundles",
        help="make bundles of the networks that were trained",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="what `train all` wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a folder for the bundles")
    parser.add_argument("--results", type=Path, nargs="+", default=[], metavar="JSON", help="metrics for the cards")
    parser.add_argument("--recipe", type=Path, metavar="YAML", help="what the runs were made by, for the cards")
    return parser


def run(args: argparse.Namespace) -> int:
    """Make them; the names go to standard output."""
    from training.bundles import make_bundles

    for folder in make_bundles(args.runs, args.output, results=args.results, recipe=args.recipe):
        size = sum(path.stat().st_size for path in folder.iterdir())
        sys.stdout.write(f"{folder}  {size / 1e6:.2f} MB\n")
    return 0
