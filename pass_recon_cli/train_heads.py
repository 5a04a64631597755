"""`pass-recon train heads`: real heads for lesions to be painted into while detectors are trained."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  pass-recon train heads --volumes open_ms --slices training/recipes/heads.yaml -o runs/data/heads.safetensors
  pass-recon train heads --volumes open_ms --slices training/recipes/heads.yaml --full ch2.nii.gz ch2bet.nii.gz \\
      -o runs/data/heads.safetensors
  pass-recon train backbone --set heads=runs/data/heads.safetensors --config training/recipes/shipped.yaml --data images
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `heads` to the training commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "heads",
        help="real heads to paint lesions into",
        description=f"{__doc__}\n\nReads <scan>_FLAIR.nii.gz and, where it is, <scan>_T1W.nii.gz of the same session.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--volumes", type=Path, required=True, metavar="FOLDER", help="NIfTI, skull on")
    parser.add_argument(
        "--slices",
        type=Path,
        required=True,
        metavar="YAML",
        help="scans to read, and of each the slices that may show a lesion of the patient's own",
    )
    parser.add_argument(
        "--full",
        type=Path,
        nargs=2,
        metavar=("HEAD", "BRAIN"),
        default=(None, None),
        help="a T1w head of 1 mm with its face, and its brain alone (MRIcron's ch2 and ch2bet)",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="safetensors to write")
    return parser


def run(args: argparse.Namespace) -> int:
    """Read, and tell how many slices there are."""
    from pass_recon.common.settings import read_table
    from training.data.heads import prepare_heads

    count = prepare_heads(
        args.volumes, args.output, read_table(args.slices), full_head=args.full[0], full_brain=args.full[1]
    )
    sys.stdout.write(f"{args.output}: {count} slices of {args.volumes}\n")
    return 0
