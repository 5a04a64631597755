"""`pass-recon scan`: send an MRD file to a Gadgetron and store the images; or scan in a closed loop."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pass_recon_cli.properties import add_property_options, properties_of

if TYPE_CHECKING:
    from gadgets.scanner.client import ScanReport, ScanSettings

DESCRIPTION = """Send an MRD file to a Gadgetron, or to `pass-recon serve`, and store the images. The flags are those of
gadgetron_ismrmrd_client. With --closed-loop the file plays a scanner: the ACS lines of a slice are sent, the sampling
plan is awaited, and the lines of the plan are sent and no others; --acceleration must then be that of the chain's
configuration, which plans once its own number of ACS lines has come."""
EXAMPLE = "example: pass-recon scan --closed-loop -f patient.h5 -o out.h5 -c pass_recon.xml"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `scan` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "scan", help="send a scan to a server, plainly or in a closed loop", description=DESCRIPTION, epilog=EXAMPLE
    )
    parser.add_argument("-a", "--address", default="localhost", help="server; default: %(default)s")
    parser.add_argument("-p", "--port", type=int, default=9002, help="default: %(default)s")
    parser.add_argument("-f", "--filename", required=True, help="MRD file to send")
    parser.add_argument("-o", "--outfile", default="out.h5", help="HDF5 file for the images; default: %(default)s")
    parser.add_argument("-g", "--in-group", default="dataset", help="group of the input; default: %(default)s")
    parser.add_argument("-G", "--out-group", help="group of the output; default: the local time")
    parser.add_argument(
        "-c", "--config", default="default.xml", help="configuration on the server; default: %(default)s"
    )
    parser.add_argument("-C", "--config-local", metavar="FILE", help="configuration to send instead")
    parser.add_argument("--closed-loop", action="store_true", help="wait for the plan of each slice and follow it")
    add_property_options(parser, "acceleration")
    parser.add_argument(
        "--plan-timeout",
        type=float,
        metavar="SECONDS",
        help="wait so long for a plan, then take lines of variable density; default: 5, but 60 for the first plan",
    )
    parser.add_argument(
        "--second-plan-timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="where the chain takes a second look, wait so long at the end for a slice's answer; 0 takes no second "
        "round; default: %(default)g",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="give the server up after so long without a sign of it; default: %(default)g",
    )
    parser.add_argument("--tr", type=float, default=0.0, metavar="MS", help="milliseconds between lines; default: none")
    parser.add_argument("--json", action="store_true", help="say what came of it as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")
    return parser


def run(args: argparse.Namespace) -> int:
    """Scan; 0 only if images came and no error did."""
    from gadgets.mrd.scan_file import ScanFile

    settings = scan_settings(args)
    with ScanFile(args.filename, args.in_group) as source:
        report = scan_with_progress(source, args.outfile, settings, quiet=args.quiet or args.json)
    if args.json:
        sys.stdout.write(json.dumps(_as_json(report), indent=2, ensure_ascii=False) + "\n")
        return 1 if report.errors or not report.images else 0
    for warning in report.warnings:
        sys.stderr.write(f"pass-recon scan: warning: {warning}\n")
    for error in report.errors:
        sys.stderr.write(f"pass-recon scan: {error}\n")
    if not report.images:
        sys.stderr.write(f"pass-recon scan: no image came back; {args.outfile} is not written\n")
        return 1
    if not args.quiet:
        sys.stdout.write(summary(report))
    return 1 if report.errors else 0


def _as_json(report: ScanReport) -> dict[str, Any]:
    slices = [
        {
            "slice": str(record.key),
            "lines": len(record.lines),
            "source": record.plan.source if record.plan else None,
            "fallback": (record.plan.fallback if record.plan else "") or None,
            "seconds_to_plan": None if record.answered is None else record.seconds_to_plan,
        }
        for record in report.slices
    ]
    return {
        "file": str(report.file) if report.images else None,
        "group": report.group,
        "sent": report.sent,
        "images": report.images,
        "seconds": report.seconds,
        "bundle": report.bundle,
        "slices": slices,
        "warnings": report.warnings,
        "errors": report.errors,
    }


def scan_settings(args: argparse.Namespace) -> ScanSettings:
    """The settings that the options describe."""
    from gadgets.scanner.client import ScanSettings

    return ScanSettings(
        address=args.address,
        port=args.port,
        config=args.config,
        config_script=Path(args.config_local).read_bytes() if args.config_local else None,
        group=args.out_group,
        closed_loop=args.closed_loop,
        acceleration=properties_of(args).acceleration,
        plan_timeout=args.plan_timeout,
        second_plan_timeout=args.second_plan_timeout,
        repetition_time=args.tr / 1000,
        timeout=args.timeout,
    )


def scan_with_progress(source: Any, outfile: Any, settings: Any, *, quiet: bool) -> ScanReport:
    """Scan with a bar on stderr where that is a terminal."""
    from tqdm import tqdm

    from gadgets.scanner.client import run_scan

    with tqdm(unit="line", desc="scan", file=sys.stderr, disable=True if quiet else None) as bar:

        def progress(sent: int, total: int) -> None:
            bar.total = total
            bar.update(sent - bar.n)

        return run_scan(source, outfile, settings, progress=progress)


def summary(report: ScanReport) -> str:
    """What came of the scan, one line and one more for each slice of a closed loop."""
    where = f"{report.file}:/{report.group}"
    lines = [f"{report.sent} acquisitions sent, {report.images} images in {where}, {report.seconds:.1f} s"]
    if report.bundle:
        lines.append(f"bundle {report.bundle}")
    for record in report.slices:
        if record.plan is None:
            continue
        waited = "no plan in time" if record.answered is None else f"plan after {1e3 * record.seconds_to_plan:.1f} ms"
        reason = f" ({record.plan.fallback})" if record.plan.fallback else ""
        lines.append(f"{record.key}: {len(record.lines)} lines, {record.plan.source}{reason}, {waited}")
        if record.second is not None:
            why = f" ({record.second.fallback})" if record.second.fallback else ""
            lines[-1] += f", second look: {len(record.additional)} additional lines{why}"
        if record.missing:
            lines[-1] += f", {record.missing} planned lines are not in the file"
    return "\n".join(lines) + "\n"
