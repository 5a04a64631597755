"""`pass-recon train backbone | netad | reconstruction | sampling | all`: the stages of training, one after the other.

A run that is started again goes on where it stopped: Ctrl-C, a killed process or the end of a machine's time cost a few
minutes at most. Several GPUs or machines: `torchrun --nproc-per-node 4 -m pass_recon_cli.main train reconstruction …`.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.stages.registry import Stage

EXAMPLES = """examples:
  pass-recon train {name} --config training/recipes/shipped.yaml --data dataset -o runs{folder}
  pass-recon train {name} --config training/recipes/shipped.yaml --data brain knee -o runs{folder} --device cuda{change}
  tensorboard --logdir runs
"""
HELP = {
    "backbone": "a small CLIP of our own, for want of published weights: images against captions",
    "netad": "the anomaly detectors: adapters on a frozen CLIP, from few annotated cases",
    "reconstruction": "the reconstructor and the population's lines, together",
    "sampling": "the network that chooses each patient's lines; the reconstructor is fixed",
    "mixture": "one reconstructor for any lines, coils, sizes and noise, by the clock",
    "all": "every run of a recipe in its order, then the bundles",
}


def add_parsers(subparsers: Any) -> None:
    """Add one command a stage, and `all`."""
    for name, words in HELP.items():
        whole = name == "all"
        parser: argparse.ArgumentParser = subparsers.add_parser(
            name,
            help=words,
            description=f"Train {words}.\n\n{(__doc__ or '').split(chr(10), 2)[2]}",
            epilog=EXAMPLES.format(
                name=name,
                folder="" if whole else f"/{name}",
                change=" --set finetune.batch=8" if whole else " --set batch=8",
            ),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument(
            "--config",
            type=Path,
            required=whole,
            metavar="YAML",
            help="settings, a recipe, or its name, such as shipped",
        )
        parser.add_argument("--data", type=Path, nargs="+", metavar="DATASET", help="prepared datasets")
        parser.add_argument("-o", "--output", type=Path, metavar="RUN", help="run folder; goes on if there is one")
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N; default: %(default)s")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="tell steps, memory, disk and hours, run nothing; without --data for 320 × 320, 16 coils",
        )
        parser.add_argument("--processes", type=int, default=1, metavar="N", help="of a --dry-run; default: 1")
        setting = "RUN.NAME=VALUE" if whole else "NAME=VALUE"
        parser.add_argument("--set", nargs="+", default=[], metavar=setting, dest="changes", help="settings to change")
        if not whole:
            parser.add_argument("--table", default="", metavar="NAME", help="of a recipe; default: the stage's name")
            parser.add_argument("--list", action="store_true", help="explain all settings, and end")
        parser.set_defaults(run_train=partial(_run, name))


def _run(name: str, args: argparse.Namespace) -> int:
    from pass_recon.types import InputError
    from training.bundles import train_all
    from training.recipe import read_run
    from training.stages.registry import STAGES

    if name != "all" and args.list:
        _list(STAGES[name])
        return 0
    if args.dry_run:
        return _dry_run(name, args)
    if not args.data or not args.output:
        raise InputError("give prepared datasets with --data, and a run folder with -o")
    if name == "all":
        train_all(args.config, args.data, args.output, args.device, changes=args.changes)
        return 0
    run = read_run(STAGES[name], args.config, args.output, args.changes, table=args.table)
    run.stage.train(run.settings, args.data, run.folder, args.device)
    return 0


def _dry_run(name: str, args: argparse.Namespace) -> int:
    from training.dry_run import dry_run
    from training.recipe import read_recipe, read_run
    from training.stages.registry import STAGES

    folder = args.output or Path("runs") / ("" if name == "all" else name)
    if name == "all":
        runs = read_recipe(args.config, folder, args.changes)
    else:
        runs = [read_run(STAGES[name], args.config, folder, args.changes, table=args.table)]
    sys.stdout.write(dry_run(runs, args.data or [], args.processes))
    return 0


def _list(stage: Stage) -> None:
    from pass_recon.common.settings import explained, to_dict

    defaults = to_dict(stage.settings_class())
    for name, words in explained(stage.settings_class):
        told = textwrap.fill(words, 100, initial_indent="    ", subsequent_indent="    ")
        sys.stdout.write(f"{name}={defaults[name]!r}\n{told}\n")
