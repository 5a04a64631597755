"""`pass-recon train`: prepare data, look at it, export it; train networks on it."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

from pass_recon_cli.train_stage import add_parsers

# One file a command, as in main.py: `add_parser(subparsers)` and `run(args) -> int`. In the order of the help page.
COMMANDS = (
    "pass_recon_cli.train_prepare",
    "pass_recon_cli.train_heads",
    "pass_recon_cli.train_preview",
    "pass_recon_cli.train_export_mrd",
    "pass_recon_cli.train_detection",
    "pass_recon_cli.train_lesions",
    "pass_recon_cli.train_transfer",
    "pass_recon_cli.train_bundles",
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `train` and the commands below it."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train", help="prepare data and train networks", description=__doc__
    )
    below = parser.add_subparsers(title="commands", metavar="COMMAND", dest="train_command", required=True)
    for name in COMMANDS:
        module = import_module(name)
        module.add_parser(below).set_defaults(run_train=module.run)
    add_parsers(below)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command below."""
    return int(args.run_train(args))
