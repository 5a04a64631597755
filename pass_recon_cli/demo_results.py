"""What the demo shows: the images against the truth, and how long each stage took."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gadgets.scanner.client import ScanReport, SliceReport
    from pass_recon.types import Box

# Column → what it is. The first and the last two as the scanner saw them, the others as the gadgets measured them.
LATENCIES = {
    "ACS→plan": "last ACS line sent to plan received",
    "planning": "choosing the lines",
    "coil maps": "estimating coil sensitivities",
    "image": "solving for the image",
    "detection": "looking for anomalies in the image",
    "line→image": "last line sent to magnitude received",
    "overlay": "magnitude received to overlay received",
}


@dataclass(frozen=True)
class SliceResult:
    """One slice of the demo.

    Attributes
    ----------
    record
        What the scanner noted.
    truth, image
        ``(ro, pe)`` magnitudes in the unit of the truth.
    anomaly_map
        ``(ro, pe)`` in 0 to 1; None where no detector ran.
    lesions, findings
        Boxes of the truth and of the detector.
    nrmse, psnr, ssim
        Against the truth.
    seconds
        Latency of each of the `LATENCIES`; NaN where unknown.
    """

    record: SliceReport
    truth: Any
    image: Any
    anomaly_map: Any
    lesions: tuple[Box, ...]
    findings: tuple[Box, ...]
    nrmse: float
    psnr: float
    ssim: float
    seconds: dict[str, float]


def compare(patient: Path, images: Path, group: str, report: ScanReport) -> list[SliceResult]:
    """Compare the magnitudes of a scan with the truth in the patient's file.

    Whitened data have another unit than the truth, so one factor for the whole scan is fitted first.

    Parameters
    ----------
    patient
        File of `pass-recon simulate`.
    images, group
        File and group of the scan's images.
    report
        What the scanner noted.

    Returns
    -------
    list of SliceResult
        In the order of the slices; those without an image are left out.
    """
    import numpy as np

    from gadgets import mrd
    from gadgets.converters.image_file import read_images
    from gadgets.converters.patient_file import read_truth
    from pass_recon.metrics import nrmse, psnr, ssim

    known = read_truth(patient)
    series = (mrd.RECONSTRUCTION_SERIES, mrd.MAP_SERIES, mrd.PLAN_SERIES)
    magnitudes, maps, plans = ({one.slice: one for one in read_images(images, group, number)} for number in series)
    arrays = {index: mrd.array_of(one) / float(one.meta["PASS_scale"]) for index, one in magnitudes.items()}
    truths = {index: np.abs(known.image[index]) for index in arrays}
    factor = sum((truths[i] * arrays[i]).sum() for i in arrays) / sum((array**2).sum() for array in arrays.values())
    results = []
    for record in sorted(report.slices, key=lambda record: record.key):
        index = record.key.slice
        if index not in arrays:
            continue
        truth, image, meta = truths[index], factor * arrays[index], magnitudes[index].meta
        seen = maps.get(index)
        detected = seen is not None and "PASS_anomaly" not in seen.meta
        results.append(
            SliceResult(
                record,
                truth,
                image,
                mrd.array_of(seen) / float(seen.meta["PASS_scale"]) if seen is not None and detected else None,
                known.boxes[index],
                mrd.boxes_of(magnitudes[index]),
                nrmse(image, truth),
                psnr(image, truth),
                ssim(image, truth),
                _latencies(record, report, meta, plans[index].meta if index in plans else {}),
            )
        )
    return results


def _latencies(record: SliceReport, report: ScanReport, image: Any, plan: Any) -> dict[str, float]:
    from gadgets import mrd

    def arrival(series: int) -> float:
        found = [one.seconds for one in report.arrivals if (one.series, one.key) == (series, record.key[1:])]
        return found[0] if found else math.nan

    def told(meta: Any, stage: str) -> float:
        return float(meta.get(f"PASS_seconds_{stage}", math.nan))

    magnitude = arrival(mrd.RECONSTRUCTION_SERIES)
    values = (
        record.seconds_to_plan,
        told(plan, "plan"),
        told(image, "coil_maps"),
        told(image, "reconstruction"),
        told(image, "detection"),
        magnitude - record.last_planned,
        arrival(mrd.OVERLAY_SERIES) - magnitude,
    )
    return dict(zip(LATENCIES, values, strict=True))


def table(results: list[SliceResult], report: ScanReport) -> str:
    """The results as text: quality and lines first, then the latency of each stage."""
    quality = [["slice", "lines sent", "plan", "NRMSE", "PSNR", "SSIM"]]
    latency = [["slice", *(f"{stage}" for stage in LATENCIES)]]
    for one in results:
        name, plan = str(one.record.key.slice), one.record.plan
        sent = f"{len(one.record.lines)} of {one.truth.shape[1]}"
        source = plan.source if plan else "none"
        quality.append([name, sent, source, f"{one.nrmse:.4f}", f"{one.psnr:.2f} dB", f"{one.ssim:.4f}"])
        latency.append([name, *(_duration(seconds) for seconds in one.seconds.values())])
    legend = "\n".join(f"  {stage}: {meaning}" for stage, meaning in LATENCIES.items())
    scan = f"{report.sent} acquisitions sent, {report.images} images received, {report.seconds:.1f} s"
    return f"\n{_columns(quality)}\n\n{_columns(latency)}\n\n{legend}\n\n{scan}\n"


def write_figure(path: Path, results: list[SliceResult], *, title: str) -> None:
    """Draw truth, reconstruction, error and plan of each slice."""
    import numpy as np

    from pass_recon.report.figures import SliceView, write_scan_figure

    views = []
    for one in results:
        pe = one.truth.shape[1]
        lines = np.zeros(pe, dtype=bool)
        lines[one.record.lines] = True
        source = one.record.plan.source if one.record.plan else "no"
        views.append(
            SliceView(
                name=f"slice {one.record.key.slice}",
                truth=one.truth,
                image=one.image,
                lines=lines,
                acs=one.record.acs,
                quality=f"PSNR {one.psnr:.1f} dB   SSIM {one.ssim:.3f}   NRMSE {one.nrmse:.3f}",
                plan=f"{len(one.record.lines)} of {pe} lines, {source} plan",
                lesions=one.lesions,
                findings=one.findings,
                anomaly_map=one.anomaly_map,
            )
        )
    write_scan_figure(path, views, title=title)


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    return f"{1e3 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _columns(rows: list[list[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([lines[0], "  ".join("─" * width for width in widths), *lines[1:]])
