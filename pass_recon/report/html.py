"""A scan as one page for the browser: no network, no server, nothing that is not in the file.

What comes from headers is data: the page's text is escaped by the template engine, its script only ever sets text, and
a content security policy lets no other script run and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import io
import platform
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from pass_recon.common.files import written_aside
from pass_recon.metrics import psnr
from pass_recon.report.overlay import colour_table, grey_levels, overlay
from pass_recon.report.scan import PlanRecord, Protocol, ScanRecord, SliceRecord
from pass_recon.types import Box, InputError

NOTICE = "Research software. Not for clinical use."
_PAGE = Path(__file__).with_name("page")
_THUMBNAIL = 160
_MOST_SLICES = 1000
_SOFTWARE = ("pass-gadgetron", "torch", "numpy", "ismrmrd", "gadgetron")


def write_report(path: str | Path, scan: ScanRecord, *, progress: Callable[[int, int], object] | None = None) -> None:
    """Write the page; it appears under its name only when it is complete.

    Parameters
    ----------
    path
        The file.
    scan
        What to show.
    progress
        Called with the number of slices done and their total.

    Raises
    ------
    InputError
        If there are more slices than a browser can hold.
    """
    if len(scan.slices) > _MOST_SLICES:
        raise InputError(f"{len(scan.slices)} slices are more than the {_MOST_SLICES} that one page can hold")
    slices = []
    for number, one in enumerate(scan.slices):
        slices.append(_slice(number, one))
        if progress is not None:
            progress(number + 1, len(scan.slices))
    with written_aside(path, private=True) as aside:
        aside.write_text(_render(scan, slices), encoding="utf-8")


def _render(scan: ScanRecord, slices: Sequence[Mapping[str, Any]]) -> str:
    viewer = {
        "slices": [one["viewer"] for one in slices],
        "colours": base64.b64encode(colour_table().tobytes()).decode(),
    }
    return rendered(
        "page",
        scan=scan,
        slices=slices,
        viewer=viewer,
        findings=_findings(scan),
        stages=_stages(scan.slices),
        longest=max((sum(one.seconds.values()) for one in scan.slices), default=0.0),
        warnings=_warnings(scan),
        acquisition=_acquisition(scan.protocol),
        provenance=_provenance(scan),
        cards=[_card(card) for card in scan.bundles.values()],
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def rendered(name: str, **values: Any) -> str:
    """The page of this name with its script and the style of all pages, under a policy that allows no others."""
    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = ((_PAGE / file).read_text(encoding="utf-8") for file in ("page.css", f"{name}.js"))
    return environment.get_template(f"{name}.html.jinja").render(
        **values,
        notice=NOTICE,
        style=style,
        script=script,
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
    )


def _policy_hash(text: str) -> str:
    """As a content security policy names the only style and script that it allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _slice(number: int, one: SliceRecord) -> dict[str, Any]:
    """What the page needs of one slice: its words, and its pixels as the viewer reads them."""
    orientation = one.geometry.orientation
    rows, columns = orientation.turn(one.levels).shape
    row_mm, column_mm = one.geometry.pixel_mm(one.levels.shape)[:: -1 if orientation.transposed else 1]
    pixels = {"magnitude": _packed_16(orientation.turn(one.levels))}
    if one.anomaly_map is not None:
        shown = np.rint(np.clip(orientation.turn(one.anomaly_map), 0, 1) * 255).astype(np.uint8)
        pixels["map"] = _packed(shown)
    if one.truth is not None:
        pixels["truth"] = _packed_16(np.rint(np.clip(orientation.turn(one.truth), 0, 65535)).astype(np.uint16))
    viewer = {
        "name": one.name,
        "rows": rows,
        "columns": columns,
        "ratio": _ratio(columns * column_mm, rows * row_mm),
        "window": one.window,
        "edges": orientation.edges,
        "score": one.score,
        "phaseDown": orientation.transposed,
        "phaseReversed": orientation.rows_reversed if orientation.transposed else orientation.columns_reversed,
        "findings": [_placed(box, one) for box in one.findings],
        "lesions": [_placed(box, one) for box in one.lesions],
        "plans": [_viewed(plan) for plan in one.plans],
        "has": sorted(pixels),
    }
    grey = grey_levels(one.levels, one.window)
    picture = overlay(grey, one.anomaly_map, one.findings, orientation=orientation)
    return {
        "number": number,
        "record": one,
        "viewer": viewer,
        "pixels": pixels,
        "thumbnail": _thumbnail(picture, viewer["ratio"]),
        "quality": "" if one.truth is None else f"{psnr(one.levels.astype(np.float32), one.truth):.1f} dB",
    }


def _ratio(width: float, height: float) -> float:
    """Width over height of the picture; 1 where the header tells no size."""
    return round(width / height, 4) if width > 0 and height > 0 else 1.0


def _placed(box: Box, one: SliceRecord) -> dict[str, Any]:
    top, left, height, width = one.geometry.orientation.place(box, one.levels.shape)
    return {"top": top, "left": left, "height": height, "width": width, "label": box.label, "score": box.score}


def _viewed(plan: PlanRecord) -> dict[str, Any]:
    return {"round": plan.round, "lines": plan.lines, "pe": plan.pe, "acs": [plan.acs.start, plan.acs.stop]}


def _packed_16(picture: NDArray[np.uint16]) -> str:
    """First the low bytes of all pixels, then the high ones, which compress better apart."""
    little = np.ascontiguousarray(picture.astype("<u2")).view(np.uint8).reshape(-1, 2)
    return _packed(np.ascontiguousarray(little.T))


def _packed(values: NDArray[np.uint8]) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 6)).decode()


def _thumbnail(picture: NDArray[np.uint8], ratio: float) -> str:
    """A JPEG for the sheet of all slices, in the shape that the pixels have in mm."""
    from PIL import Image

    width, height = (_THUMBNAIL, round(_THUMBNAIL / ratio)) if ratio >= 1 else (round(_THUMBNAIL * ratio), _THUMBNAIL)
    file = io.BytesIO()
    Image.fromarray(picture).resize((max(width, 1), max(height, 1))).save(file, format="jpeg", quality=82)
    return base64.b64encode(file.getvalue()).decode()


def _findings(scan: ScanRecord) -> list[dict[str, Any]]:
    """A row for each finding, the most probable first."""
    rows = []
    for number, one in enumerate(scan.slices):
        read_mm, phase_mm = one.geometry.pixel_mm(one.levels.shape)
        for index, box in enumerate(one.findings):
            middle = box.readout + (box.readout_size - 1) / 2, box.phase + (box.phase_size - 1) / 2
            rows.append(
                {
                    "slice": number,
                    "index": index,
                    "name": one.name,
                    "label": box.label or "anomaly",
                    "score": box.score,
                    "size": (box.readout_size * read_mm, box.phase_size * phase_mm),
                    "place": one.geometry.place(*middle, one.levels.shape),
                }
            )
    return sorted(rows, key=lambda row: -float(row["score"]))


def _stages(slices: Sequence[SliceRecord]) -> list[str]:
    """Stages that took time, in the order in which they come."""
    return list(dict.fromkeys(stage for one in slices for stage in one.seconds))


def _warnings(scan: ScanRecord) -> list[tuple[str, str]]:
    """What is to be known, each with the slices that it is said of."""
    of: dict[str, list[str]] = {}
    for one in scan.slices:
        told = list(one.warnings)
        told += [f"The plan is not the one that was asked for: {p.fallback}." for p in one.plans if p.fallback]
        for text in dict.fromkeys(told):
            of.setdefault(text, []).append(one.name)
    named = [(text, _named(names, len(scan.slices))) for text, names in of.items()]
    known = " ".join(of)
    others = (message for message in dict.fromkeys(scan.messages) if message.rpartition(": ")[2] not in known)
    return [*named, *((message, "while the scan was reconstructed") for message in others)]


def _named(names: Sequence[str], slices: int) -> str:
    if len(names) == slices > 1:
        return "all slices"
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:10])} and {len(names) - 10} more"


def _acquisition(protocol: Protocol | None) -> dict[str, str]:
    """How the scan was acquired, without anything that tells of whom."""
    if protocol is None:
        return {}
    told = {
        "Protocol": protocol.name,
        "Examination": protocol.examination,
        "Scanner": " ".join(filter(None, (protocol.vendor, protocol.model))),
        "Field strength": f"{protocol.field_strength_t:g} T" if protocol.field_strength_t else "",
        "Coils": str(protocol.coils or ""),
        "TR": f"{protocol.repetition_time:g} ms" if protocol.repetition_time else "",
        "TE": ", ".join(f"{time:g} ms" for time in protocol.echo_times),
        "TI": f"{protocol.inversion_time:g} ms" if protocol.inversion_time else "",
        "Flip angle": f"{protocol.flip_angle:g}°" if protocol.flip_angle else "",
        "Patient position": protocol.patient_position,
    }
    return {name: value for name, value in told.items() if value}


def _provenance(scan: ScanRecord) -> dict[str, str]:
    told = dict(scan.source)
    if scan.header:
        told["SHA-256 of the MRD header"] = hashlib.sha256(scan.header).hexdigest()
    if scan.reason:
        told["why this bundle"] = scan.reason
    software = [f"Python {platform.python_version()}"]
    for package in _SOFTWARE:
        try:
            software.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return {**told, "report made with": ", ".join(software)}


def _card(card: Mapping[str, Any]) -> dict[str, Any]:
    """A bundle's card in the words of the page."""
    facts = {
        "For": f"{card.get('anatomy', '?')} {card.get('contrast', '?')}, trained at {card.get('acceleration', 0):g}×",
        "Data": "; ".join(card.get("data") or ()) if isinstance(card.get("data"), list) else str(card.get("data", "")),
        "Licence": str(card.get("licence") or ""),
        "Notes": str(card.get("notes") or ""),
    }
    metrics = []
    for name, values in (card.get("metrics") or {}).items():
        whole = (values or {}).get("whole image", {}) if isinstance(values, Mapping) else {}
        metrics.append((name, _interval(whole.get("psnr"), " dB"), _interval(whole.get("ssim"), "")))
    files = [(name, entry.get("component", ""), entry.get("sha256", "")) for name, entry in card["files"].items()]
    facts = {name: value for name, value in facts.items() if value}
    return {"name": card.get("name", ""), "facts": facts, "metrics": metrics, "files": files}


def _interval(value: Any, unit: str) -> str:
    """A measure with its 95 % interval, if it has one."""
    if isinstance(value, list) and len(value) == 3:
        return f"{value[0]:.4g}{unit} [{value[1]:.4g}, {value[2]:.4g}]"
    return f"{value:.4g}{unit}" if isinstance(value, int | float) else "–"
