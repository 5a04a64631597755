"""`pass-recon train bundles`: make bundles of what the stages trained, with what an evaluation measured on their cards.

The bundles of one recipe share their reconstructor and their backbone: one file each, in the folder `common`.
Bundles that are there already get other detectors, another reconstructor, or newly measured figures.
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
  pass-recon train bundles --detectors runs/netad -o bundles
  pass-recon train bundles --reconstructor runs/mixture --own-lines brain-t1-4x brain-t1-8x -o bundles
  pass-recon train bundles --results results/results.json -o bundles
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
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--runs", type=Path, metavar="DIR", help="what `train all` wrote")
    origin.add_argument(
        "--detectors", type=Path, metavar="DIR", help="a run of `train netad`: bundles in -o get its detectors, no more"
    )
    origin.add_argument(
        "--reconstructor", type=Path, metavar="DIR", help="a run of `train mixture`: bundles in -o get it for any lines"
    )
    parser.add_argument(
        "--own-lines", nargs="+", default=[], metavar="BUNDLE", help="for these bundles' own lines too: --reconstructor"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a folder for the bundles")
    parser.add_argument("--results", type=Path, nargs="+", default=[], metavar="JSON", help="metrics for the cards")
    parser.add_argument("--recipe", type=Path, metavar="YAML", help="what the runs were made by, for the cards")
    parser.add_argument(
        "--attribution", nargs="+", default=[], metavar="TEXT", help="for the cards: whose the data are"
    )
    parser.add_argument("--licence", metavar="TEXT", help="of the weights, for the cards")
    return parser


def run(args: argparse.Namespace) -> int:
    """Make them; the names go to standard output."""
    from pass_recon.types import InputError
    from training.bundle_updates import record_results, replace_detectors, replace_reconstructor
    from training.bundles import make_bundles

    if args.own_lines and not args.reconstructor:
        raise InputError("--own-lines says which bundles --reconstructor serves: give it a run")
    if args.detectors:
        folders = replace_detectors(args.detectors, args.output)
    elif args.reconstructor:
        folders = replace_reconstructor(args.reconstructor, args.output, own_lines=args.own_lines)
    elif args.runs:
        told = {"licence": args.licence} if args.licence else {}
        folders = make_bundles(
            args.runs, args.output, results=args.results, recipe=args.recipe, attribution=args.attribution, **told
        )
    elif args.results:
        folders = record_results(args.output, args.results)
    else:
        raise InputError("give --runs, --detectors, --reconstructor or --results: of what are bundles to be made?")
    for folder in folders:
        size = sum(path.stat().st_size for path in folder.iterdir())
        sys.stdout.write(f"{folder}  {size / 1e6:.2f} MB\n")
    return 0
