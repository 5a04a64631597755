"""`pass-recon dicom`: a scan's images as DICOM, to a folder and to a PACS."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pass_recon_cli.images import add_images_options, scan_record

DESCRIPTION = """Write a scan's images as DICOM: the magnitude as MR images, the overlay as secondary captures with a
notice burned in, the findings as SEG and as a structured report (TID 1500). The same images always get the same
identifiers. Names, numbers and dates are left out unless --keep-identity is given. Needs the extra dicom. Not for
clinical use."""
EXAMPLE = "example: pass-recon dicom out.h5 -o dicom --send pacs.example.org:104 --aec ARCHIVE"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `dicom` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "dicom", help="write a scan's images as DICOM, and send them", description=DESCRIPTION, epilog=EXAMPLE
    )
    add_images_options(parser)
    parser.add_argument("-o", "--output", default="dicom", metavar="DIR", help="folder; default: %(default)s")
    parser.add_argument("--enhanced", action="store_true", help="Enhanced MR Image Storage: all slices in one object")
    parser.add_argument("--keep-identity", action="store_true", help="take patient, study, site and dates over")
    parser.add_argument(
        "--radiological",
        action="store_true",
        help="turn the pixels by right angles into the customary view; default: rows and columns as acquired",
    )
    parser.add_argument("--send", metavar="HOST:PORT", help="send the objects there by C-STORE too")
    parser.add_argument("--aet", default="PASSRECON", help="our application entity title; default: %(default)s")
    parser.add_argument("--aec", default="ANY-SCP", help="the title called; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="say what was written, and sent, as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")
    return parser


def run(args: argparse.Namespace) -> int:
    """Write, and send; 0 only if everything was stored."""
    from pass_recon.types import InputError

    try:
        from pass_recon.report.dicom.export import dicom_objects, write_dicom
        from pass_recon.report.dicom.send import Destination, send
    except ModuleNotFoundError as error:
        raise InputError(
            f"DICOM needs {str(error.name).partition('.')[0]}: pip install 'pass-gadgetron[dicom]'"
        ) from error
    destination = Destination.from_text(args.send, aec=args.aec, aet=args.aet) if args.send else None
    scan = scan_record(args.images, group=args.group, scan=args.scan)
    with _bar(2 * len(scan.slices), "make", args) as bar:
        objects = dicom_objects(
            scan,
            enhanced=args.enhanced,
            keep_identity=args.keep_identity,
            radiological=args.radiological,
            progress=bar.update,
        )
    with _bar(len(objects), "write", args) as bar:
        paths = write_dicom(args.output, objects, progress=bar.update)
    refused = []
    if destination is not None:
        with _bar(len(objects), "send", args) as bar:
            refused = send(objects.values(), destination, progress=bar.update)
    for sentence in refused:
        sys.stderr.write(f"pass-recon dicom: {sentence}\n")
    if not args.quiet:
        _say(args, objects, [str(path) for path in paths], refused)
    return 1 if refused else 0


def _bar(steps: int, what: str, args: argparse.Namespace) -> Any:
    from tqdm import tqdm

    return tqdm(total=steps, unit="object", desc=what, disable=True if args.quiet or args.json else None)


def _say(args: argparse.Namespace, objects: dict[str, Any], paths: list[str], refused: list[str]) -> None:
    study = next(iter(objects.values())).StudyInstanceUID
    if args.json:
        import json

        told = {"study": study, "files": paths, "sent_to": args.send, "refused": refused}
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return
    kinds = [name.partition("/")[0] for name in objects]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    sys.stdout.write(f"{args.output}: {counted}; study {study}\n")
    if args.send:
        sys.stdout.write(f"{len(objects) - len(refused)} of {len(objects)} objects stored at {args.send}\n")
