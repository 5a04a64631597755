"""`pass-recon recon`: the same four stages on a file, without a server."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pass_recon_cli.properties import add_memory_option, add_property_options, keep_to_memory, properties_of

if TYPE_CHECKING:
    from ismrmrd import Image

    from gadgets.converters.image_file import ImageFile
    from gadgets.offline import Account
    from gadgets.protocol.connection import Failure

DESCRIPTION = """Reconstruct an MRD file with the stages that run in the Gadgetron chain, in one process and without a
server. The images are stored as the stock Gadgetron client stores them. Whatever can be made of the file is kept; if
anything was at fault, it is said and the exit code is 1."""
EXAMPLE = "example: pass-recon recon -f patient.h5 -o out.h5 --acceleration 8"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `recon` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "recon", help="reconstruct an MRD file without a server", description=DESCRIPTION, epilog=EXAMPLE
    )
    parser.add_argument("-f", "--filename", required=True, help="MRD file to read")
    parser.add_argument("-o", "--outfile", default="out.h5", help="HDF5 file for the images; default: %(default)s")
    parser.add_argument("-g", "--in-group", default="dataset", help="group of the input; default: %(default)s")
    parser.add_argument("-G", "--out-group", help="group of the output; default: the local time")
    add_property_options(parser)
    add_memory_option(parser)
    parser.add_argument("--json", action="store_true", help="say what came of it as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")
    return parser


def run(args: argparse.Namespace) -> int:
    """Reconstruct; 0 only if images were made and nothing was at fault."""
    from gadgets.converters.image_file import ImageFile
    from gadgets.mrd.scan_file import ScanFile
    from gadgets.offline import Account, reconstructed
    from gadgets.properties import as_texts
    from gadgets.protocol.connection import Failure

    keep_to_memory(args)
    properties = properties_of(args)
    account = Account()
    with ScanFile(args.filename, args.in_group) as source:
        output = ImageFile(args.outfile, args.out_group, source.header_xml)
        lines = _with_bar(source, quiet=args.quiet or args.json)
        try:
            for image in reconstructed(lines, source.header_xml, properties, account):
                _store(image, output, account.failures)
        finally:
            output.describe(args.filename, as_texts(properties), [failure.message for failure in account.failures])
            output.keep()
            account.failures += [Failure(sentence, "input") for sentence in output.trouble]
    return _told(account, output, args)


def _store(image: Image, output: ImageFile, failures: list[Failure]) -> None:
    """Append an image; where the disk is full that is said once, and a smaller one may still fit."""
    from gadgets.protocol.connection import Failure
    from pass_recon.types import InputError

    try:
        output.append(image)
    except InputError as error:
        if (failure := Failure(str(error), "input")) not in failures:
            failures.append(failure)


def _told(account: Account, output: ImageFile, args: argparse.Namespace) -> int:
    """Say what happened; returns the exit code."""
    if args.json:
        told = {
            "file": str(output.path) if output.kept else None,
            "group": output.group,
            "images": output.images,
            "bundle": account.bundle,
            "messages": [{"severity": one.severity, "message": one.message} for one in account.all],
        }
        sys.stdout.write(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        return int(account.failed)
    write_failures("recon", account.all)
    if not output.kept:
        sys.stderr.write(f"pass-recon recon: {args.outfile} is not written\n")
        return 1
    if not args.quiet:
        sys.stdout.write(f"{output.images} images in {output.path}:/{output.group}\n")
        sys.stdout.write(f"bundle {account.bundle}\n" if account.bundle else "")
    return int(account.failed)


def write_failures(command: str, failures: Iterable[Failure], about: str = "") -> None:
    """Say on stderr what went wrong, a line each."""
    for failure in failures:
        warning = "warning: " if failure.severity == "warning" else ""
        sys.stderr.write(f"pass-recon {command}: {about}{warning}{failure.message}\n")


def _with_bar(source: Any, *, quiet: bool) -> Iterable[Any]:
    from tqdm import tqdm

    hidden = True if quiet else None  # None: unless stderr is a terminal
    return tqdm(source.acquisitions(), total=len(source), unit="line", desc="recon", disable=hidden)
