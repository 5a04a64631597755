"""What commands share that show a scan's images: their options, and the record that these name."""

from __future__ import annotations

import argparse
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pass_recon.report.scan import ScanRecord


def add_images_options(parser: argparse.ArgumentParser) -> None:
    """The file of the images, and where in it they lie."""
    parser.add_argument("images", metavar="out.h5", help="images of pass-recon scan or recon, or of the stock client")
    parser.add_argument("-G", "--group", default="", help="group of the images; default: the last one")
    parser.add_argument(
        "--scan", metavar="FILE", help="MRD file of the scan, for its header where the images' file has none"
    )


def scan_record(
    images: str | Path, *, group: str = "", scan: str | None = None, truth: str | Path | None = None
) -> ScanRecord:
    """The scan whose images these are, with the cards of its bundles as far as they are at hand."""
    from gadgets.converters.scan_record import read_scan
    from pass_recon.bundles import bundle_folder, read_card
    from pass_recon.types import BundleError

    found = read_scan(images, group=group, scan=scan, truth=truth)
    plans = (plan for one in found.slices for plan in one.plans)
    cards: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys([*(one.method for one in found.slices), *(plan.bundle for plan in plans)]):
        with suppress(BundleError):  # CG-SENSE, or a bundle of another machine
            cards[name] = read_card(bundle_folder(name))
    return replace(found, bundles=cards)
