"""`pass-recon simulate`: a simulated patient as an MRD file, the ground truth in the same file."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from pass_recon.anatomies import ANATOMIES, CONTRASTS

EXAMPLE = "example: pass-recon simulate --anatomy brain --contrast flair --lesions 2 --slices 3 --seed 1 -o patient.h5"


def add_patient_options(parser: argparse.ArgumentParser) -> None:
    """The options that describe a simulated patient."""
    parser.add_argument("--anatomy", choices=tuple(ANATOMIES), default="brain", help="default: %(default)s")
    parser.add_argument("--contrast", choices=tuple(CONTRASTS), help="default: flair for brain, pd for knee")
    parser.add_argument("--lesions", type=int, default=2, metavar="N", help="lesions; default: %(default)s")
    parser.add_argument("--coils", type=int, default=12, metavar="N", help="receiver coils; default: %(default)s")
    parser.add_argument("--slices", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--matrix", type=int, nargs=2, default=(320, 320), metavar=("RO", "PE"), help="pixels; default: 320 320"
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=0.01,
        metavar="SIGMA",
        help="noise of a coil image, as a fraction of the image peak; default: %(default)s",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same patient; default: %(default)s")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `simulate` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "simulate", help="write a simulated patient as an MRD file", description=__doc__, epilog=EXAMPLE
    )
    add_patient_options(parser)
    parser.add_argument("-o", "--outfile", default="patient.h5", help="MRD file to write; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="say what was written as JSON")
    return parser


def simulated_patient(args: argparse.Namespace) -> Any:
    """The patient that these options describe."""
    from pass_recon.phantom import simulate_patient

    contrast: Any = args.contrast or ANATOMIES[args.anatomy].contrasts[0]
    return simulate_patient(
        anatomy=args.anatomy,
        contrast=contrast,
        lesions=args.lesions,
        coils=args.coils,
        slices=args.slices,
        shape=tuple(args.matrix),
        noise=args.noise,
        seed=args.seed,
    )


def run(args: argparse.Namespace) -> int:
    """Simulate and write."""
    from tqdm import tqdm

    from gadgets.converters.patient_file import write_patient

    lines = args.slices * args.matrix[1]
    with tqdm(
        total=lines, unit="line", desc="simulate", disable=True if args.json else None
    ) as bar:  # None: a terminal
        patient = simulated_patient(args)
        write_patient(args.outfile, patient, progress=bar.update)
    lesions = sum(len(boxes) for boxes in patient.boxes)
    if args.json:
        told = {"file": args.outfile, "anatomy": patient.anatomy, "contrast": patient.contrast, "slices": args.slices}
        told |= {"matrix": args.matrix, "coils": args.coils, "lesion_sections": lesions, "seed": args.seed}
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return 0
    size = "×".join(map(str, args.matrix))
    sys.stdout.write(
        f"{args.outfile}: {patient.anatomy} {patient.contrast}, {args.slices} slices of {size}, {args.coils} coils, "
        f"{lesions} lesion sections; simulated data, not for clinical use\n"
    )
    return 0
