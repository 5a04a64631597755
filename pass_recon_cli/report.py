"""`pass-recon report`: a scan's images as one page for the browser."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from pass_recon_cli.images import add_images_options, scan_record

DESCRIPTION = """Make one page of a scan's images that opens in any browser, without a network: slices side by side or
under a swipe, the overlay, the sampling plan, findings, latency, warnings, the bundle's card and where everything comes
from. Names of patients are not in it. Not for clinical use."""
EXAMPLE = "example: pass-recon report out.h5 -o report.html"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `report` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "report", help="show a scan's images in the browser", description=DESCRIPTION, epilog=EXAMPLE
    )
    add_images_options(parser)
    parser.add_argument("-o", "--output", default="report.html", metavar="FILE", help="page; default: %(default)s")
    parser.add_argument(
        "--truth", metavar="FILE", help="file of pass-recon simulate, to show the error against its ground truth"
    )
    parser.add_argument("--json", action="store_true", help="say what is in it as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the page."""
    from pathlib import Path

    from tqdm import tqdm

    from pass_recon.report.html import write_report

    scan = scan_record(args.images, group=args.group, scan=args.scan, truth=args.truth)
    hidden = True if args.quiet or args.json else None  # None: unless stderr is a terminal
    with tqdm(total=len(scan.slices), unit="slice", desc="report", disable=hidden) as bar:
        write_report(args.output, scan, progress=lambda *_: bar.update())
    size, findings = Path(args.output).stat().st_size, sum(len(one.findings) for one in scan.slices)
    if args.json:
        told = {"file": args.output, "slices": len(scan.slices), "findings": findings, "bytes": size}
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    elif not args.quiet:
        sys.stdout.write(f"{args.output}: {len(scan.slices)} slices, {findings} findings, {size / 1e6:.1f} MB\n")
    return 0
