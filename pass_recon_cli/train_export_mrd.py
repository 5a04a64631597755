"""`pass-recon train export-mrd`: a case of a prepared dataset as an MRD file; image, boxes and labels in `/truth`."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `export-mrd` to the training commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "export-mrd",
        help="write a case as an MRD file that the chain reads",
        description=__doc__,
        epilog="example: pass-recon train export-mrd dataset/patient01_study1_FLAIR.h5 --slices 20 21 -o scan.h5",
    )
    parser.add_argument("case", help="file of the case in its dataset")
    parser.add_argument("-o", "--outfile", required=True, help="MRD file to write")
    parser.add_argument("--slices", type=int, nargs="+", metavar="N", help="which slices, from 0; default: all")
    parser.add_argument(
        "--noise",
        type=float,
        metavar="SIGMA",
        help="noise of a coil image as a fraction of the peak; default: the case's",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise; default: %(default)s")
    return parser


def run(args: argparse.Namespace) -> int:
    """Acquire the case and write it."""
    from gadgets.converters.patient_file import patient_header, write_patient
    from training.data.case_file import CaseFile
    from training.data.export import acquired

    with CaseFile(args.case) as case:
        scan = acquired(case, noise=args.noise, seed=args.seed, slices=args.slices)
    header = patient_header(scan)
    header.measurementInformation.measurementID = scan.name
    if scan.measured:
        header.acquisitionSystemInformation.systemVendor = "unknown (prepared from measured data)"
    write_patient(args.outfile, scan, header=header, labels=scan.labels)
    slices, coils, readout, phase = scan.kspace.shape
    found = sum(len(boxes) for boxes in scan.boxes)
    sys.stdout.write(
        f"{args.outfile}: {scan.name}, {scan.anatomy} {scan.contrast}, {slices} slices of {readout}×{phase}, "
        f"{coils} coils, {found} boxes\n"
    )
    return 0
