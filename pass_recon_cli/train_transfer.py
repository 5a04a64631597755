"""`pass-recon train transfer`: detectors from a few annotated slices of one patient, tried on every other patient."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  pass-recon train transfer --config training/recipes/shipped.yaml --data mni --runs runs
  pass-recon train transfer --config training/recipes/shipped.yaml --data mni -o transfer.json \\
      --runs runs --set steps=60 examinations='[brain-flair]'
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `transfer` to the training commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "transfer",
        help="detectors from one patient, tried on the others",
        description=f"{__doc__}\n\nThe settings are those of `train netad`, the table of that name in a recipe.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="YAML", help="settings, or a recipe")
    parser.add_argument("--data", type=Path, required=True, metavar="DATASET", help="two patients or more, prepared")
    parser.add_argument("--runs", type=Path, default=Path(), metavar="DIR", help="where the backbone of a recipe is")
    parser.add_argument("-o", "--outfile", type=Path, metavar="JSON", help="figures to write")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N; default: %(default)s")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", dest="changes", help="settings to change")
    return parser


def run(args: argparse.Namespace) -> int:
    """Train, try, and tell."""
    from pass_recon.common.files import write_json
    from training.evaluate.statistics import as_plain
    from training.recipe import read_run
    from training.stages.few_shot_transfer import few_shot_transfer
    from training.stages.netad import NetADSettings
    from training.stages.registry import STAGES

    run = read_run(STAGES["netad"], args.config, args.runs / "transfer", args.changes)
    assert isinstance(run.settings, NetADSettings)
    found = few_shot_transfer(run.settings, args.data, args.device)
    for name, figures in found.items():
        told = ", ".join(f"{figure} {value:.3f}" for figure, value in figures.items() if figure != "slices")
        sys.stdout.write(f"{name}: {told} on {figures['slices']:.0f} slices\n")
    if args.outfile:
        write_json(args.outfile, as_plain(found))
    return 0
