"""`pass-recon train lesions`: detectors lesion by lesion, on simulated patients or on real volumes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  pass-recon train lesions brain-t1-4x brain-flair-4x knee-pd-4x --data detection
  pass-recon train lesions brain-t1-4x brain-flair-4x --volumes lgg -o lgg.json
  pass-recon train lesions brain-flair-4x --volumes lgg --few-shot 12 --set steps=150
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `lesions` to the training commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "lesions",
        help="detectors lesion by lesion, on simulated patients or real volumes",
        description=f"{__doc__}\n\n--volumes: a folder of <patient>_<contrast>.nii.gz and <patient>_lesions.nii.gz; "
        "slices go through the\ndetector as they are. With --few-shot N, adapters go on on N of its patients and are "
        "tried on the others.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="name or folder")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", type=Path, metavar="DATASET", help="test slices, prepared")
    where.add_argument("--volumes", type=Path, metavar="FOLDER", help="real volumes (NIfTI) with lesion masks")
    parser.add_argument("--few-shot", type=int, metavar="N", help="patients of --volumes to learn from")
    parser.add_argument("--config", type=Path, metavar="YAML", help="a recipe, for the settings of --few-shot")
    parser.add_argument("--runs", type=Path, default=Path(), metavar="DIR", help="where the runs of that recipe are")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", dest="changes", help="settings to change")
    parser.add_argument("-o", "--outfile", type=Path, metavar="JSON", help="figures to write")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N; default: %(default)s")
    return parser


def run(args: argparse.Namespace) -> int:
    """Look, and tell."""
    from pass_recon.common.files import write_json
    from pass_recon.types import InputError
    from training.evaluate.lesion_detection import evaluate_lesions, free_response_table

    if args.few_shot and not args.volumes:
        raise InputError("--few-shot learns from real volumes: name them with --volumes")
    if args.data:
        found: dict[str, Any] = dict(evaluate_lesions(args.bundles, args.data, device=args.device))
        sys.stdout.write(free_response_table(found) + "\n")
    else:
        found = _on_volumes(args)
    if args.outfile:
        write_json(args.outfile, found)
    return 0


def _on_volumes(args: argparse.Namespace) -> dict[str, Any]:
    from training.evaluate.annotated_volumes import annotated_table, evaluate_volumes
    from training.evaluate.lesion_detection import free_response_table

    if args.few_shot:
        from training.recipe import read_run
        from training.stages.few_shot_volumes import evaluate_few_shot
        from training.stages.netad import NetADSettings
        from training.stages.registry import STAGES

        settings = read_run(STAGES["netad"], args.config, args.runs / "few_shot", args.changes).settings
        assert isinstance(settings, NetADSettings)
        found = evaluate_few_shot(args.bundles, args.volumes, settings, cases=args.few_shot, device=args.device)
        rows = {f"{label}, {when}": trial[when] for label, trial in found.items() for when in ("before", "after")}
    else:
        rows = found = evaluate_volumes(args.bundles, args.volumes, device=args.device)
    lesions = {name: row["lesions"] for name, row in rows.items()}
    sys.stdout.write(f"{annotated_table(rows)}\n\n{free_response_table(lesions)}\n")
    return found
