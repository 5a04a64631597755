"""`pass-recon fastmri2mrd`: a fastMRI volume as an MRD file, every measured line, header translated.

A volume of a test set, which holds a mask, becomes a prospective scan; averages are averaged.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `fastmri2mrd` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "fastmri2mrd",
        help="turn a fastMRI volume into an MRD file",
        description=__doc__,
        epilog="example: pass-recon fastmri2mrd file_brain_AXT1_202_2020089.h5 -o scan.h5",
    )
    parser.add_argument("volume", help="multi-coil fastMRI file")
    parser.add_argument("-o", "--outfile", required=True, help="MRD file to write")
    parser.add_argument("--json", action="store_true", help="say what was written as JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    """Read slice by slice and write."""
    from tqdm import tqdm

    from gadgets.converters.fastmri_file import FastMriKspace, write_fastmri
    from training.data.fastmri_file import FastMriVolume

    with FastMriVolume(args.volume, undersampled=True) as volume:
        numbers = tqdm(range(len(volume)), unit="slice", desc="fastmri2mrd", disable=True if args.json else None)
        slices = (volume.kspace(index).numpy() for index in numbers)
        scan = FastMriKspace(volume.header_xml, volume.shape, volume.anatomy, slices, volume.mask)
        written = write_fastmri(args.outfile, scan)
        count, coils, readout, phase = volume.shape
    if args.json:
        told = {
            "file": args.outfile,
            "slices": count,
            "coils": coils,
            "matrix": [readout, phase],
            "acquisitions": written,
        }
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return 0
    sys.stdout.write(
        f"{args.outfile}: {volume.acquisition or Path(args.volume).stem}, {count} slices, {coils} coils, "
        f"{readout}×{phase}, {written} acquisitions\n"
    )
    return 0
