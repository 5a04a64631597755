"""`pass-recon evaluate`: measure bundles on prepared data beside every baseline, all on the same k-space.

Compared are zero-filled, CG-SENSE and L1-wavelet images of the lines of PASS; the bundle's networks on equispaced,
random, population and personal lines; PASS without its anomaly map; and the published weights where they apply.

In the folder of results: results.md (tables), results.json (all figures, with intervals, settings, versions and
hashes), pictures, and records.jsonl with a line a slice. Interrupted, it goes on from there; what was measured with
other weights, data or settings is measured anew.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from training.evaluate.selection import EvaluationSettings

Settings = TypeVar("Settings", bound="EvaluationSettings")

EXAMPLES = """examples:
  pass-recon evaluate brain-flair-4x --data dataset -o results
  pass-recon evaluate ./my-bundle --data dataset -o look --quick
  pass-recon evaluate brain-t1-4x brain-t1-8x --data patient12 --split all --tuning dataset \\
      --published published -o results
  pass-recon evaluate knee-pd-8x --data simulated --faint --methods l1-wavelet pass -o faint
  pass-recon evaluate brain-flair-8x --second-look --data simulated --lesion-free healthy -o second
  pass-recon evaluate knee-pd-4x --vendor-lines 2 3 4 6 --data dataset --slices 1 -o vendor
  pass-recon train prepare --simulated 100 --lesions 0 -o healthy       the same patients without lesions
  pass-recon evaluate brain-flair-4x --data simulated --lesion-free healthy -o results
"""


class _ListMethods(argparse.Action):
    """``--list``: say what can be compared, and end; as an action, since nothing else must be given then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from training.evaluate.methods import METHODS

        for name, method in METHODS.items():
            sys.stdout.write(f"{name:12} {method.title}; lines: {method.lines}\n")
        parser.exit()


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `evaluate` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "evaluate",
        help="measure bundles on prepared data beside every baseline",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundles", nargs="+", metavar="bundle", help="name, or folder")
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[], metavar="DATASET", help="prepared; each is reported by itself"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RESULTS", help="folder; is added to")
    _add_choice_options(parser.add_argument_group("what is compared"))
    _add_data_options(parser.add_argument_group("other data"))
    _add_second_look_options(parser.add_argument_group("the second look"))
    _add_vendor_lines_options(parser.add_argument_group("vendors' lines"))
    _add_work_options(parser.add_argument_group("work"))
    return parser


def _add_choice_options(group: Any) -> None:
    group.add_argument(
        "--noise",
        type=float,
        nargs="+",
        default=[0.005, 0.015],
        metavar="SIGMA",
        help="of a coil image, fraction of the peak; measured cases keep theirs; default: 0.005 0.015",
    )
    group.add_argument("--methods", nargs="+", default=[], metavar="NAME", help="as --list tells them; default: all")
    group.add_argument("--list", nargs=0, action=_ListMethods, help="tell the methods, and end")
    group.add_argument(
        "--split",
        choices=("train", "validation", "test", "all"),
        default="test",
        help="which patients; default: %(default)s",
    )
    group.add_argument("--patients", type=int, default=0, metavar="N", help="at most so many; default: all")
    group.add_argument(
        "--slices",
        type=int,
        default=3,
        metavar="N",
        help="of each case, those with lesions first, then the middle ones; default: %(default)s",
    )
    group.add_argument(
        "--maps",
        choices=("true", "estimated"),
        default="true",
        help="coil maps: those of the case, or by ESPIRiT from the ACS as at a scanner; default: %(default)s",
    )
    group.add_argument(
        "--faint", action="store_true", help="paint faint blobs, and tell recovery and d′; doubles the time"
    )
    group.add_argument("--quick", action="store_true", help="2 patients, 1 slice of each case, the first noise level")


def _add_data_options(group: Any) -> None:
    group.add_argument(
        "--tuning",
        type=Path,
        metavar="DATASET",
        help="to tune λ of L1-wavelet on, never on patients that are evaluated; default: the validation split",
    )
    group.add_argument("--tuning-slices", type=int, default=4, metavar="N", help="how many; default: %(default)s")
    group.add_argument(
        "--published", default="", metavar="BUNDLE", help="the published weights, made by `bundle import-published`"
    )
    group.add_argument(
        "--lesion-free",
        type=Path,
        metavar="DATASET",
        help="the same cases without lesions, to see how lesions move lines",
    )


def _add_second_look_options(group: Any) -> None:
    group.add_argument(
        "--second-look",
        action="store_true",
        help="instead of methods: more lines where something is seen, against a fixed acceleration of the same mean "
        "scan time, and the price (second_look.md)",
    )
    group.add_argument(
        "--accelerations",
        type=float,
        nargs=2,
        default=[8.0, 4.0],
        metavar="R",
        help="of the first round, and with the additional lines; default: 8 4",
    )
    group.add_argument(
        "--sick",
        type=float,
        default=0.3,
        metavar="SHARE",
        help="share of sick patients in the cohort; healthy ones come from --data and --lesion-free; "
        "default: %(default)g",
    )
    group.add_argument(
        "--threshold", type=float, metavar="SCORE", help="from which a slice is suspicious; default: that of the chain"
    )


def _add_vendor_lines_options(group: Any) -> None:
    group.add_argument(
        "--vendor-lines",
        type=float,
        nargs="+",
        metavar="R",
        help="instead of methods: one bundle on equispaced lines with ACS lines among them, and on its own, against "
        "CG-SENSE, L1-wavelet and GRAPPA, at the first noise level (vendor_lines.md)",
    )
    group.add_argument("--acs", type=int, default=26, metavar="N", help="lines around the centre; default: %(default)s")
    group.add_argument(
        "--cfl",
        type=Path,
        metavar="FILE",
        help="fully sampled k-space of a slice, in BART's form, in place of --data",
    )


def _add_work_options(group: Any) -> None:
    group.add_argument("--workers", type=int, default=0, metavar="N", help="processes; default: as the cores allow")
    group.add_argument("--threads", type=int, default=0, metavar="N", help="of each process; default: likewise")
    group.add_argument("--scheduler", default="", metavar="tcp://…", help="Dask scheduler whose workers do the work")
    group.add_argument("--device", default="cpu", help="where the networks run; default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Evaluate and say where the results are."""
    from training.evaluate.protocol import TABLES, evaluate
    from training.evaluate.selection import EvaluationSettings

    if args.vendor_lines:
        return _run_vendor_lines(args)
    if args.second_look:
        return _run_second_look(args)
    results = evaluate(_settings(args, EvaluationSettings))
    for label, reasons in results["left_out"].items():
        for name, reason in reasons.items():
            sys.stderr.write(f"{label}: without {name}: {reason}\n")
    for line in results["without_data"]:
        sys.stderr.write(f"{line}\n")
    for record in results["failed"]:
        sys.stderr.write(f"{record['case']} slice {record['slice']} failed: {record['failed']}\n")
    slices = sum(group["slices"] for group in results["groups"])
    sys.stdout.write(f"{args.output / TABLES}: {slices} slices in {len(results['groups'])} groups\n")
    return 0


def _run_second_look(args: argparse.Namespace) -> int:
    from training.evaluate.second_look import TABLES, SecondLookSettings, evaluate_second_look

    results = evaluate_second_look(_settings(args, SecondLookSettings))
    for record in results["failed"]:
        sys.stderr.write(f"{record['case']} slice {record['slice']} failed: {record['failed']}\n")
    sys.stdout.write(f"{args.output / TABLES}: {len(results['groups'])} groups\n")
    return 0


def _run_vendor_lines(args: argparse.Namespace) -> int:
    from pass_recon.types import InputError
    from training.evaluate.vendor_lines import TABLES, VendorLinesSettings, evaluate_vendor_lines

    if len(args.bundles) != 1:
        raise InputError(f"--vendor-lines compares one bundle, got {len(args.bundles)}")
    settings = VendorLinesSettings(
        bundle=args.bundles[0],
        output=args.output,
        data=tuple(args.data),
        cfl=args.cfl,
        accelerations=tuple(args.vendor_lines),
        acs=args.acs,
        methods=tuple(args.methods),
        noise=args.noise[0],
        split=args.split,
        patients=args.patients,
        slices=args.slices,
        threads=args.threads or 1,
        device=args.device,
        command=_command(),
    )
    results = evaluate_vendor_lines(settings)
    if results["missing"]:
        sys.stderr.write(f"{results['missing']}\n")
    sys.stdout.write(f"{args.output / TABLES}: {len(results['rows'])} rows\n")
    return 0


def _command() -> str:
    return shlex.join(["pass-recon", *sys.argv[1:]])


def _settings(args: argparse.Namespace, kind: type[Settings]) -> Settings:
    from pass_recon.common.settings import explained, from_dict

    known = dict(explained(kind))
    chosen = {name: value for name, value in vars(args).items() if name in known and value is not None}
    settings = from_dict(kind, {**chosen, "command": _command()})
    return settings.quick() if args.quick else settings
