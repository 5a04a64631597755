"""`pass-recon train detection`: how well detectors find anomalies in images, of many patients in minutes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  pass-recon train detection brain-t1-4x brain-flair-4x knee-pd-4x --data detection
  pass-recon train detection my_bundle --data detection --training images -o detection.json
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `detection` to the training commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "detection",
        help="areas under curves and calibration of detectors",
        description=f"{__doc__}\n\nImages are looked at as they are, as reconstructions, and as the ACS of 4× and 8× "
        "shows them;\n`pass-recon evaluate` measures the same on what was really reconstructed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="name or folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DATASET", help="test slices, prepared")
    parser.add_argument(
        "--training", type=Path, metavar="DATASET", help="whose training slices say how often lesions are where"
    )
    parser.add_argument("-o", "--outfile", type=Path, metavar="JSON", help="figures to write")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N; default: %(default)s")
    return parser


def run(args: argparse.Namespace) -> int:
    """Look, and tell."""
    from pass_recon.common.files import write_json
    from training.evaluate.detectors import evaluate_detectors
    from training.evaluate.report import detector_table

    found = evaluate_detectors(args.bundles, args.data, training=args.training, device=args.device)
    sys.stdout.write(detector_table(found) + "\n")
    if args.outfile:
        write_json(args.outfile, found)
    return 0
