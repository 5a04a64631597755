"""`pass-recon train preview`: a contact sheet of a prepared dataset, findings framed and labelled."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `preview` to the training commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "preview", help="draw a contact sheet of a dataset", description=__doc__
    )
    parser.add_argument("dataset", help="folder that `train prepare` wrote")
    parser.add_argument("-o", "--outfile", default="preview.png", help="picture to write; default: %(default)s")
    parser.add_argument("--slices", type=int, default=24, metavar="N", help="how many; default: %(default)s")
    parser.add_argument(
        "--columns", type=int, default=0, metavar="N", help="how many in a row; default: by their number"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, other slices; default: %(default)s")
    return parser


def run(args: argparse.Namespace) -> int:
    """Choose and draw."""
    from pathlib import Path

    from pass_recon.report.contact_sheet import save_contact_sheet
    from training.data.manifest import read_manifest
    from training.data.preview import preview_tiles

    cases = read_manifest(args.dataset)["cases"]
    slices = sum(case["slices"] for case in cases)
    heading = f"{Path(args.dataset).resolve().name}: {len(cases)} cases, {slices} slices"
    tiles = preview_tiles(args.dataset, args.slices, seed=args.seed)
    save_contact_sheet(tiles, args.outfile, heading=heading, columns=args.columns)
    sys.stdout.write(f"{args.outfile}: {len(tiles)} slices\n")
    return 0
