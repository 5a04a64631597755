"""`pass-recon replay`: images of what a server has kept of its scans, whole or cut."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pass_recon_cli.properties import add_property_options, given_properties
from pass_recon_cli.recon import write_failures

if TYPE_CHECKING:
    from gadgets.properties import Properties

_DYING_SECONDS = 3.0

DESCRIPTION = """Reconstruct scans from the raw data that `pass-recon serve --spool DIR` keeps: those that a lost client
or a killed server has cut, from the lines that came; with --all the complete ones too. Each is reconstructed with the
properties that it had, unless others are given here. What is still being received is left alone."""
EXAMPLE = "example: pass-recon replay /var/spool/pass -o replayed"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `replay` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "replay", help="reconstruct what a server has kept of its scans", description=DESCRIPTION, epilog=EXAMPLE
    )
    parser.add_argument("spool", type=Path, metavar="DIR", help="folder of `serve --spool`, or one file of it")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="for the images; default: DIR/images")
    parser.add_argument("--all", action="store_true", help="complete scans too")
    add_property_options(parser, otherwise="as the scan had it")
    parser.add_argument("--json", action="store_true", help="say what came of each as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="say only what is at fault, no progress bar")
    return parser


def run(args: argparse.Namespace) -> int:
    """Reconstruct each; 0 if each gave images and nothing was at fault."""
    from tqdm import tqdm

    from gadgets.spool.spool import RAW_FILE, cut_scans, scans
    from pass_recon.types import InputError, PassError

    if args.spool.is_dir():
        folder = args.spool
        _wait_for_the_dying(folder)
        files = cut_scans(folder) if not args.all else [one for one in scans(folder) if not _is_under_way(one)]
    elif args.spool.is_file():
        folder, files = args.spool.parent, [args.spool]
    else:
        raise InputError(f"no such spool: {args.spool}")
    if not files:
        there = scans(folder)
        complete = sum(one.suffix == RAW_FILE for one in there)
        going_on = sum(map(_is_under_way, there))
        if args.json:
            sys.stdout.write("[]\n")
            return 0
        sys.stdout.write(f"no scan in {folder} was cut; {complete} are complete, see --all; {going_on} are under way\n")
        return 0
    out = args.out or folder / "images"
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    told = []
    for path in tqdm(files, unit="scan", desc="replay", disable=True if args.quiet or args.json else None):
        target = out / f"{path.stem}.h5"
        try:
            images, faulty = _replay(path, target, args)
        except PassError as error:  # one that cannot be read is no reason to leave out the others
            sys.stderr.write(f"pass-recon replay: {path.name}: {error}\n")
            images, faulty = 0, True
        told.append({"scan": path.name, "images": images, "file": str(target) if images else None, "faulty": faulty})
    if args.json:
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    return int(any(one["faulty"] for one in told))


def _wait_for_the_dying(folder: Path) -> None:
    """Wait a moment where all is under way: a server that was just killed lets go of its files only once it is gone."""
    from gadgets.spool.spool import cut_scans, scans

    deadline = time.monotonic() + _DYING_SECONDS
    while time.monotonic() < deadline and any(map(_is_under_way, scans(folder))) and not cut_scans(folder):
        time.sleep(0.05)


def _is_under_way(path: Path) -> bool:
    from gadgets.spool.recording import under_way
    from gadgets.spool.spool import RECORDING

    return path.suffix == RECORDING and under_way(path)


def _replay(path: Path, target: Path, args: argparse.Namespace) -> tuple[int, bool]:
    """Reconstruct one scan; returns how many images there are, and whether something was at fault."""
    from gadgets.offline import FileJob, reconstruct_into_file

    with _opened(path) as (header_xml, configuration, acquisitions):
        job = FileJob(path, target, _properties(configuration, args))
        outcome = reconstruct_into_file(job, acquisitions, header_xml)
    write_failures("replay", outcome.messages, f"{path.name}: ")
    if outcome.file is None:
        sys.stderr.write(f"pass-recon replay: {path.name} gives no image\n")
        return 0, outcome.failed
    target.chmod(0o600)
    if not args.quiet and not args.json:
        sys.stdout.write(f"{path.name}: {outcome.images} images in {target}\n")
    return outcome.images, outcome.failed


@contextmanager
def _opened(path: Path) -> Iterator[tuple[bytes, bytes, Iterable[Any]]]:
    """Header, ``<configuration>`` and acquisitions of a file of the spool."""
    from gadgets.mrd.scan_file import ScanFile
    from gadgets.protocol import MessageId
    from gadgets.spool.raw_file import configuration_in
    from gadgets.spool.recording import recording
    from gadgets.spool.spool import RECORDING

    if path.suffix == RECORDING:
        with recording(path) as scan:
            lines = (message.item for message in scan.messages() if message.id == MessageId.ACQUISITION)
            yield scan.header_xml, scan.configuration, lines
    else:
        with ScanFile(path) as source:
            yield source.header_xml, configuration_in(path), source.acquisitions()


def _properties(configuration: bytes, args: argparse.Namespace) -> Properties:
    from gadgets.properties import Properties
    from pass_recon.common.xml import parse_xml

    if configuration.strip():
        kept = Properties.from_xml(parse_xml(configuration, "the configuration that was kept"))
    else:
        kept = Properties()
    # A PACS has got, or not got, the images when the scan was; they are not sent a second time unasked.
    return replace(kept, **{"dicom_to": "off", **given_properties(args)})
