"""Bundles: the trained networks for one anatomy, contrast and acceleration, on disk and in memory."""

from __future__ import annotations

from pass_recon.bundles.bundle import Bundle
from pass_recon.bundles.card import CARD, read_card
from pass_recon.bundles.choice import nearest_bundle
from pass_recon.bundles.published import import_published
from pass_recon.bundles.store import bundle_folder, load_bundle, save_bundle, shipped_bundles, write_card

__all__ = [
    "CARD",
    "Bundle",
    "bundle_folder",
    "import_published",
    "load_bundle",
    "nearest_bundle",
    "read_card",
    "save_bundle",
    "shipped_bundles",
    "write_card",
]
