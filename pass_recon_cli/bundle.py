"""`pass-recon bundle`: list, show and verify bundles; make one of the published weights."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pass_recon.bundles import Bundle

DESCRIPTION = """A bundle is a folder with the networks for one anatomy and contrast at one acceleration, and a
card.json that says where they come from, what they are worth and what each file hashes to."""
EXAMPLES = """examples:
  pass-recon bundle list
  pass-recon bundle show brain-t1-4x
  pass-recon bundle verify brain-t1-4x ./my-bundle
  pass-recon bundle import-published acc_line_4.pth --population acc_line_4_pre.pth -o published"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `bundle` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bundle",
        help="list, show, verify or import trained networks",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    listing = actions.add_parser("list", help="the bundles that came with the package")
    listing.add_argument("--json", action="store_true", help="name, anatomy, contrast, acceleration, as JSON")
    show = actions.add_parser("show", help="what a bundle is for, where it comes from, what it is worth")
    show.add_argument("bundle", help="name, or folder")
    show.add_argument("--json", action="store_true", help="the card as it is")
    verify = actions.add_parser("verify", help="load bundles and check every file and every weight")
    verify.add_argument("bundles", nargs="+", metavar="bundle", help="name, or folder")
    verify.add_argument("--json", action="store_true", help="what was found, as JSON")
    published = actions.add_parser(
        "import-published", help="make a bundle of the weights that the authors of PASS published"
    )
    published.add_argument("weights", help="acc_line_4.pth")
    published.add_argument("--population", required=True, metavar="FILE", help="acc_line_4_pre.pth")
    published.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of the bundle")
    published.add_argument("--overwrite", action="store_true", help="replace a bundle that is there already")
    return parser


def run(args: argparse.Namespace) -> int:
    """Do what `args.action` says; 0 only if all of it went well."""
    if args.action == "list":
        return _list(as_json=args.json)
    if args.action == "show":
        return _show(args.bundle, as_json=args.json)
    if args.action == "verify":
        return _verify(args.bundles, as_json=args.json)
    return _import(args)


def _list(*, as_json: bool) -> int:
    from pass_recon.bundles import bundle_folder, read_card, shipped_bundles

    cards = {name: read_card(bundle_folder(name)) for name in shipped_bundles()}
    if as_json:
        told = ("name", "anatomy", "contrast", "acceleration")
        sys.stdout.write(json.dumps([{key: card[key] for key in told} for card in cards.values()], indent=2) + "\n")
        return 0
    for name, card in cards.items():
        sys.stdout.write(f"{name:24} {card['anatomy']} {card['contrast']}, {card['acceleration']:g}×\n")
    if not cards:
        sys.stdout.write("no bundle came with this package; the classical plan and reconstruction need none\n")
    return 0


def _show(name: str, *, as_json: bool) -> int:
    from pass_recon.bundles import bundle_folder, read_card

    folder = bundle_folder(name)
    card = read_card(folder)
    if as_json:
        sys.stdout.write(json.dumps(card, indent=2, ensure_ascii=False) + "\n")
        return 0
    sys.stdout.write("\n".join(_lines(card, folder)) + "\n")
    return 0


def _lines(card: dict[str, Any], folder: Path) -> list[str]:
    configuration = card["configuration"]
    detector = configuration["netad"]
    purpose = f"{card['anatomy']} {card['contrast']}, {card['acceleration']:g}×, ACS {card['acs_fraction']:g}"
    lines = [
        f"{card['name']}: {purpose}",
        f"folder         {folder}",
        f"reconstructor  {_named(configuration['reconstructor'])}",
        f"sampler        {_named(configuration['sampler'])}",
        f"detector       {'none' if detector is None else _named(detector)}",
    ]
    for name in ("data", "licence", "notes", "software", "recipe"):
        if card.get(name):
            lines.append(f"{name:14} {_named(card[name])}")
    for metric, value in card.get("metrics", {}).items():
        lines.append(f"metric         {metric}: {_named(value)}")
    for name, entry in card["files"].items():
        lines.append(f"file           {name}, {entry['bytes'] / 1e6:.2f} MB, SHA-256 {entry['sha256'][:12]}…")
    return lines


def _named(value: Any) -> str:
    """A value of the card on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_named(item)}" for name, item in value.items()) or "default"
    if isinstance(value, list):
        return ", ".join(_named(item) for item in value)
    return str(value)


def _verify(names: list[str], *, as_json: bool) -> int:
    from pass_recon.bundles import load_bundle
    from pass_recon.types import PassError

    faults: dict[str, str] = {}
    for name in names:
        try:
            bundle = load_bundle(name)
        except PassError as error:
            faults[name] = str(error)
            sys.stderr.write(f"{name}: {error}\n")
        else:
            sys.stdout.write("" if as_json else f"{name}: sound; {_weight(bundle)}\n")
    if as_json:
        found = [{"bundle": name, "sound": name not in faults, "fault": faults.get(name, "")} for name in names]
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return 1 if faults else 0


def _weight(bundle: Bundle) -> str:
    size = sum(entry["bytes"] for entry in bundle.card["files"].values()) / 1e6
    return f"{len(bundle.card['files'])} files, {size:.1f} MB"


def _import(args: argparse.Namespace) -> int:
    from pass_recon.bundles import import_published, save_bundle

    bundle = import_published(args.weights, args.population)
    folder = save_bundle(bundle, args.output, overwrite=args.overwrite)
    sys.stdout.write(f"{bundle.name} is now a bundle in {folder}: for tests and comparison, no licence is stated\n")
    return 0
