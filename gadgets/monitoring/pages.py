"""The monitor page of a running server, and what it asks for: ``/``, ``/scans.json`` and ``/image.png``."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from urllib.parse import parse_qs

from gadgets.monitoring.health import JSON, Answer, Readiness
from gadgets.monitoring.live import LiveScans
from pass_recon import __version__
from pass_recon.report.monitor import monitor_page


def monitor_pages(live: LiveScans, readiness: Readiness) -> dict[str, Callable[[str], Answer]]:
    """Pages by their paths, see `gadgets.monitoring.health.health_server`."""

    def status(_query: str) -> Answer:
        told = {"software": f"pass-recon {__version__}", "unmet": readiness.unmet(), **live.status()}
        return 200, JSON, json.dumps(told, ensure_ascii=False).encode() + b"\n"

    def image(query: str) -> Answer:
        wanted = parse_qs(query).get("scan", [""])[0]
        picture = live.picture(wanted)
        if not picture:
            return 404, "text/plain; charset=utf-8", b"this scan has no image\n"
        return 200, "image/png", picture

    page = cache(monitor_page)
    return {
        "/": lambda _query: (200, "text/html; charset=utf-8", page()),
        "/scans.json": status,
        "/image.png": image,
    }
