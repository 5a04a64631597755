"""`pass-recon train backbone | netad | reconstruction | sampling | mixture | all`: the stages of training.

A run that is started again goes on where it stopped: Ctrl-C, a killed process or the end of a machine's time cost a few
minutes at most. Several GPUs or machines: `torchrun --nproc-per-node 4 -m pass_recon_cli.main train reconstruction …`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.stages import Stage

EXAMPLES = """examples:
  pass-recon train {name} --config training/recipes/shipped.yaml --data dataset -o runs{folder}
  pass-recon train {name} --config training/recipes/shipped.yaml --data brain knee -o runs{folder} --device cuda{change}
  tensorboard --logdir runs
"""
# Stages of `training.stages` that differ from these in their settings alone run as part of a recipe.
HELP = {
    "backbone": "a small CLIP of our own, for want of published weights: images against captions",
    "netad": "the anomaly detectors: adapters on a frozen CLIP, from few annotated cases",
    "reconstruction": "the reconstructor and the population's lines, together",
    "sampling": "the network that chooses each patient's lines; the reconstructor is fixed",
    "mixture": "one reconstructor for any lines, coils, sizes and noise, by the clock",
    "all": "every stage of a recipe in its order, then the bundles",
}


def add_parsers(subparsers: Any) -> None:
    """Add one command a stage, and `all`."""
    for name, words in HELP.items():
        change = " --set guided.batch=8" if name == "all" else " --set batch=8"
        folder = "" if name == "all" else f"/{name}"
        parser: argparse.ArgumentParser = subparsers.add_parser(
            name,
            help=words,
            description=f"Train {words}.\n\n{(__doc__ or '').split(chr(10), 2)[2]}",
            epilog=EXAMPLES.format(name=name, folder=folder, change=change),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--config", type=Path, required=name == "all", metavar="YAML", help="settings, or a recipe")
        parser.add_argument("--data", type=Path, nargs="+", metavar="DATASET", help="prepared datasets")
        parser.add_argument("-o", "--output", type=Path, metavar="RUN", help="run folder; goes on if there is one")
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N; default: %(default)s")
        setting = "STAGE.NAME=VALUE" if name == "all" else "NAME=VALUE"
        parser.add_argument("--set", nargs="+", default=[], metavar=setting, dest="changes", help="settings to change")
        if name != "all":
            parser.add_argument("--list", action="store_true", help="show all settings with their defaults, and end")
        parser.set_defaults(run_train=partial(_run, name))


def _run(name: str, args: argparse.Namespace) -> int:
    from pass_recon.types import InputError
    from training.stages import MIXTURE, STAGES, train_all

    stages = {**STAGES, MIXTURE.name: MIXTURE}
    if name != "all" and args.list:
        _list(stages[name])
        return 0
    if not args.data or not args.output:
        raise InputError("give prepared datasets with --data, and a run folder with -o")
    if name == "all":
        train_all(args.config, args.data, args.output, args.device, changes=args.changes)
        return 0
    stage = stages[name]
    stage.train(stage.settings(args.config, args.changes), args.data, args.output, args.device)
    return 0


def _list(stage: Stage) -> None:
    defaults = stage.kind()
    for item in fields(defaults):
        sys.stdout.write(f"{item.name:20} {getattr(defaults, item.name)!r}\n")
