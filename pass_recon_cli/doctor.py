"""`pass-recon doctor`: whether everything that is needed is there, and what to do if not."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pass_recon_cli.terminal import GREEN, RED, YELLOW, painted

if TYPE_CHECKING:
    from pass_recon_cli.doctor_checks import Finding

DESCRIPTION = """Look at this installation: packages, device, bundles (every file checked), configurations, Gadgetron
and its Python, ports, storage server. The exit code is 1 if something that is needed is broken."""
EXAMPLE = "example: pass-recon doctor"
_SIGNS = {"ok": ("ok", GREEN), "note": ("–", YELLOW), "broken": ("broken", RED)}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `doctor` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "doctor", help="check this installation", description=DESCRIPTION, epilog=EXAMPLE
    )
    parser.add_argument("--json", action="store_true", help="what was found, as JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    """Check; 1 if something that is needed is broken."""
    from pass_recon_cli.doctor_checks import all_checks

    findings = []
    for finding in all_checks():
        findings.append(finding)
        if not args.json:
            sys.stdout.write(_line(finding))
            sys.stdout.flush()  # some checks take seconds
    broken = [finding.topic for finding in findings if finding.state == "broken"]
    if args.json:
        told = {"healthy": not broken, "checks": [asdict(finding) for finding in findings]}
        sys.stdout.write(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    else:
        verdict = f"broken: {', '.join(broken)}" if broken else "everything that is needed is there"
        sys.stdout.write(painted(verdict, RED if broken else GREEN, sys.stdout) + "\n")
    return 1 if broken else 0


def _line(finding: Finding) -> str:
    word, colour = _SIGNS[finding.state]
    line = f"{painted(f'{word:7}', colour, sys.stdout)} {finding.topic:24} {finding.fact}\n"
    return line + (f"{'':7} {'':24} → {finding.advice}\n" if finding.advice else "")
