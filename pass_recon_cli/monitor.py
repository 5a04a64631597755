"""`pass-recon monitor`: what a running server does, in the shell or in the browser."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

DESCRIPTION = """Ask a running server, started with --metrics-port, what it does: scans under way and the last ones,
time to a plan, fallbacks, memory. The address is also that of a page for the browser, with the newest image of each
scan. The exit code is 1 while the server is not ready."""
EXAMPLE = "example: pass-recon serve --metrics-port 9102, then: pass-recon monitor --open"
_STATES = {"ok": "done", "with_errors": "done, with errors", "cut": "cut off"}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `monitor` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "monitor", help="what a running server does", description=DESCRIPTION, epilog=EXAMPLE
    )
    parser.add_argument(
        "--url", default="http://127.0.0.1:9102", metavar="URL", help="of its metrics port; default: %(default)s"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--json", action="store_true", help="everything the server tells, as JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    """Ask once; 1 if nobody answers or the server is not ready."""
    told = _asked(args.url.rstrip("/"))
    if args.json:
        sys.stdout.write(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(_described(args.url.rstrip("/"), told))
    if args.open:
        import webbrowser

        webbrowser.open(args.url)
    return 1 if told["unmet"] else 0


def _asked(url: str) -> dict[str, Any]:
    from urllib.error import HTTPError
    from urllib.request import ProxyHandler, build_opener

    from pass_recon.types import InputError

    try:
        with build_opener(ProxyHandler({})).open(f"{url}/scans.json", timeout=10) as answer:  # the server is no site
            told: dict[str, Any] = json.load(answer)
            told["scans"], told["memory"], told["unmet"]  # whether it is one of ours
    except HTTPError as error:
        raise InputError(f"{url} does not tell: {error.code} {error.reason}") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"no server of this project answers at {url} ({error}); start it with --metrics-port, and name it by --url"
        ) from error
    return told


def _described(url: str, told: dict[str, Any]) -> str:
    from pass_recon.types import printable
    from pass_recon_cli.terminal import GREEN, YELLOW, painted

    state = printable("; ".join(f"{name}: {reason}" for name, reason in told["unmet"].items()))
    memory = told["memory"]
    lines = [
        f"{url}/  {painted(f'not ready: {state}' if state else 'ready', YELLOW if state else GREEN, sys.stdout)}",
        f"memory  {memory['used_bytes'] / 1e9:.1f} of {memory['allowed_bytes'] / 1e9:.1f} GB"
        + (f", GPU {memory['device_bytes'] / 1e9:.1f} GB" if memory["device_bytes"] else ""),
    ]
    running = sum(scan["state"] == "running" for scan in told["scans"])
    lines.append(f"scans   {running} under way, {len(told['scans']) - running} before")
    for scan in told["scans"]:
        plans = f"{scan['plans']} plans" + (f" (median {_ms(scan['plan_seconds'])})" if scan["plan_seconds"] else "")
        fallbacks = ", ".join(f"{count} {word}" for word, count in scan["fallbacks"].items()) or "none"
        said = [
            f"  {scan['id']}  {_STATES.get(scan['state'], scan['state'])}, {scan['seconds']:.1f} s  "
            f"{scan['protocol']}: {scan['lines']} lines, {plans}, {scan['images']} images; fallbacks: {fallbacks}",
            *(f"    {one['kind']}: {one['sentence']}" for one in scan["said"]),
        ]
        lines += map(printable, said)
    return "".join(f"{line}\n" for line in lines)


def _ms(seconds: list[float]) -> str:
    from statistics import median

    return f"{1000 * median(seconds):.0f} ms"
