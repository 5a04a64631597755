"""MRD images: headers with the geometry of the acquisition, meta attributes, and the plan as an image.

An Image's data is ``(channels, z, y, x)`` with x = readout and y = phase encoding; in Python an image is ``(ro, pe)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ismrmrd import constants
from ismrmrd.acquisition import AcquisitionHeader
from ismrmrd.image import Image, ImageHeader
from ismrmrd.meta import Meta
from numpy.typing import ArrayLike, NDArray

from gadgets.mrd.buffers import SliceData
from gadgets.mrd.dataset import IMTYPE_RGB
from gadgets.mrd.header import Encoding, ScanContext
from pass_recon.types import Box, QualityFinding, Reconstruction, SamplingPlan

RECONSTRUCTION_SERIES, MAP_SERIES, OVERLAY_SERIES, PLAN_SERIES = 1, 2, 3, 1000
PLAN_ROLE = "SamplingPlan"

_BOX_COLOUR, _SOLID, _VISIBLE = (1.0, 0.0, 0.0), 0, 1
_ACQUISITION_FIELDS = ("acquisition_time_stamp", "measurement_uid", "physiology_time_stamp", "user_int", "user_float")
_GEOMETRY_FIELDS = ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")
_GADGETRON_NAMES = {
    "DataRole": "GADGETRON_DataRole",
    "ImageComment": "GADGETRON_ImageComment",
    "ImageProcessingHistory": "GADGETRON_ImageProcessingHistory",
    "SeriesDescription": "GADGETRON_SeqDescription",
    "WindowCenter": "GADGETRON_WindowCenter",
    "WindowWidth": "GADGETRON_WindowWidth",
    "PASS_scale": "GADGETRON_ScaleRatio",
}
_COUNTERS = ("average", "slice", "contrast", "phase", "repetition", "set")


def plan_image(
    plan: SamplingPlan, header: AcquisitionHeader, encoding: Encoding, index: int, more: Mapping[str, str] | None = None
) -> Image:
    """The plan message: uint16 ``(1, 1, pe)``, 1 where a line is to be acquired.

    Parameters
    ----------
    plan
        What to say.
    header
        Acquisition header of a line of the slice.
    encoding
        The slice's grid.
    index
        Running number of plans in this scan, from 1.
    more
        Further meta.
    """
    meta: dict[str, Any] = {
        "DataRole": PLAN_ROLE,
        # Left out of an empty plan: a Gadgetron refuses meta without a value.
        **({"PASS_lines": [str(line) for line in plan.order]} if plan.order else {}),
        "PASS_slice": str(header.idx.slice),
        "PASS_acceleration": f"{plan.acceleration:g}",
        "PASS_bundle": plan.bundle,
        "PASS_source": plan.source,
        **score_meta(plan.score),
        **fallback_meta(plan.fallback),
        **quality_meta(plan.quality),
        **seconds_meta(plan.seconds),
        **(more or {}),
    }
    data = plan.lines.numpy().astype(np.uint16)[None, None, None, :]
    return _image(data, _header(header, encoding, constants.IMTYPE_MAGNITUDE, PLAN_SERIES, index), meta)


def reconstruction_meta(
    result: Reconstruction, data: SliceData, scan: ScanContext, boxes: Sequence[Box], bundle_reason: str
) -> dict[str, Any]:
    """What is told with a reconstruction and everything made from it.

    ``boxes`` are in pixels of the image sent; ``bundle_reason`` says why the scan got its bundle.
    """
    method = "CG-SENSE" if result.bundle == "classical" else result.bundle
    meta: dict[str, Any] = {
        "DataRole": "Image",
        "Keep_image_geometry": "1",  # a FIRE host turns the image by its own rules otherwise
        "ImageProcessingHistory": ["PASS", method],
        "SequenceDescription": scan.protocol or "PASS",
        "PASS_slice": str(data.key.slice),
        "PASS_bundle": result.bundle,
        "PASS_bundle_reason": bundle_reason,
        "PASS_acceleration": f"{scan.properties.acceleration:g}",
        "PASS_lines_used": f"{int(data.line_mask.sum())} of {data.encoding.pe}",
    }
    if data.encoding.partial_fourier is not None:
        meta["PASS_partial_fourier"] = f"{data.encoding.partial_fourier:g}"
    score = result.score[0] if result.score else None
    quality = result.quality[0] if result.quality else ()
    meta["ImageComment"] = _comment(result, method, meta["PASS_lines_used"], score)
    if result.anomaly_map is None and scan.properties.anomaly:
        meta["PASS_anomaly"] = f"unavailable: no detector in bundle {result.bundle}"
    elif result.anomaly_map is not None and quality:
        meta["PASS_anomaly"] = f"unreliable: {', '.join(dict.fromkeys(finding.word for finding in quality))}"
    meta |= quality_meta(quality)
    return meta | score_meta(score) | boxes_meta(boxes) | fallback_meta(result.fallback) | seconds_meta(result.seconds)


def _comment(result: Reconstruction, method: str, lines: str, score: float | None) -> list[str]:
    """Remarks for DICOM's ImageComments, which joins them by underscores."""
    said = ["PASS", method, f"{lines} lines"]
    if score is not None:
        said.append(f"anomaly score {score:.2f}")
    if result.fallback is not None:
        said.append("fallback")
    if result.quality and result.quality[0]:
        said.append("quality")
    return [*said, "not for clinical use"]


def in_both_conventions(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Meta with the names that Gadgetron's clients read beside those of FIRE hosts, where the two differ."""
    return {**meta, **{theirs: meta[ours] for ours, theirs in _GADGETRON_NAMES.items() if ours in meta}}


def described(title: str, window: int, **more: str) -> dict[str, str]:
    """What a viewer is to be told of an image of a series: its name, and the window in stored values.

    ``PASS_scale`` is stored values per unit, which Gadgetron calls ScaleRatio. No RescaleSlope is given: a window then
    counts in rescaled values, and must be whole numbers, which no unit of k-space can promise.
    """
    return {
        "SeriesDescription": title,
        "SequenceDescriptionAdditional": title,
        "WindowCenter": str(window // 2),
        "WindowWidth": str(window),
        **more,
    }


class Remark(NamedTuple):
    """Something to know of an image beside seeing it: the slice, a word on what it is about, and what is to be said."""

    slice: int
    word: str
    text: str
    of_plan: bool = False


def remarks(image: Image) -> list[Remark]:
    """Why an image is not the one asked for, and what is wrong with its data."""
    words, reasons = listed(image.meta.get("PASS_quality")), listed(image.meta.get("PASS_quality_reason"))
    reasons += words[len(reasons) :]
    told = [("", reason) for reason in listed(image.meta.get("PASS_fallback"))]
    told += [(word, f"{word}: {reason}") for word, reason in zip(words, reasons, strict=False)]
    return [Remark(image.slice, word, text, is_plan(image)) for word, text in told]


def bundle_of(image: Image) -> str:
    """Which bundle an image was made with, or that there is none, and why; empty where it does not say."""
    return str(image.meta.get("PASS_bundle_reason") or "")


def sentences(said: Iterable[Remark], told: Sequence[str] = ()) -> list[str]:
    """A sentence for each thing that there is to say, with all the slices that it is said of.

    Parameters
    ----------
    said
        Remarks of all images. What a plan says of its ACS is left out where an image of the slice says it of all lines.
    told
        What has been said otherwise, and need not be said again.
    """
    every = list(said)
    by_images = {(remark.slice, remark.word) for remark in every if not remark.of_plan}
    slices: dict[str, dict[int, None]] = {}  # ordered, without repetitions
    for remark in every:
        if remark.of_plan and remark.word and (remark.slice, remark.word) in by_images:
            continue
        if not all(any(part in sentence for sentence in told) for part in remark.text.split("; ")):
            slices.setdefault(remark.text, {})[remark.slice] = None
    return [f"slice{'s' * (len(of) > 1)} {', '.join(map(str, of))}: {text}" for text, of in slices.items()]


def listed(value: Any) -> list[str]:
    """The values of a meta attribute, which may be there once, several times or not at all."""
    return [str(one) for one in value] if isinstance(value, list) else [str(value)] if value else []


def finite_number(value: Any) -> float | None:
    """A meta attribute as a finite number, or nothing: files and peers may say anything."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def is_plan(item: object) -> bool:
    """Whether an item is the plan message, which no stage after the planning has any business with."""
    return isinstance(item, Image) and item.image_series_index == PLAN_SERIES


def image_from_slice(
    image: ArrayLike, header: AcquisitionHeader, encoding: Encoding, *, series: int, index: int, meta: Mapping[str, Any]
) -> Image:
    """An image ``(ro, pe)``, complex64 or float32, with the geometry of its acquisition."""
    data = np.asarray(image).T[None, None]
    kind = constants.IMTYPE_COMPLEX if np.iscomplexobj(data) else constants.IMTYPE_MAGNITUDE
    return _image(data, _header(header, encoding, kind, series, index), meta)


def image_like(template: Image, channels: Sequence[NDArray[Any]], *, series: int, meta: Mapping[str, Any]) -> Image:
    """An image at the same place as another one: one channel ``(ro, pe)``, or three for red, green and blue.

    ``meta`` is added to that of the template, and wins.
    """
    header = ImageHeader.from_buffer_copy(template.getHead())
    header.image_series_index = series
    header.image_type = IMTYPE_RGB if len(channels) == 3 else constants.IMTYPE_MAGNITUDE
    return _image(np.stack([channel.T for channel in channels])[:, None], header, {**template.meta, **meta})


def array_of(image: Image) -> NDArray[Any]:
    """``(ro, pe)`` of a single-channel 2D image."""
    return np.ascontiguousarray(image.data[0, 0].T)


def boxes_meta(boxes: Sequence[Box]) -> dict[str, list[str]]:
    """Findings as regions of interest, closed polygons as python-ismrmrd-server writes them.

    ``ROI_<n>`` = red, green, blue, thickness, style, visibility, then x (readout) and y (phase encoding) of each
    corner.
    """
    meta: dict[str, list[str]] = {}
    for number, box in enumerate(boxes, start=1):
        x = (box.readout, box.readout + box.readout_size)
        y = (box.phase, box.phase + box.phase_size)
        corners = (x[0], y[0], x[1], y[0], x[1], y[1], x[0], y[1], x[0], y[0])
        meta[f"ROI_{number}"] = [f"{value:f}" for value in (*_BOX_COLOUR, 1, _SOLID, _VISIBLE, *corners)]
        meta[f"PASS_finding_{number}"] = [box.label or "anomaly", f"{box.score:.4f}"]
    return meta


def boxes_of(image: Image) -> tuple[Box, ...]:
    """The findings in an image's meta, as `boxes_meta` writes them; one without a label or score is an anomaly of 1."""
    boxes: list[Box] = []
    while (corners := image.meta.get(f"ROI_{len(boxes) + 1}")) is not None:
        values = [round(float(value)) for value in corners[6:]]
        readout, phase = min(values[::2]), min(values[1::2])
        label, score = (*listed(image.meta.get(f"PASS_finding_{len(boxes) + 1}")), "anomaly", "1")[:2]
        size = max(values[::2]) - readout, max(values[1::2]) - phase
        boxes.append(Box(readout, phase, *size, score=float(score), label=str(label)))
    return tuple(boxes)


def score_meta(score: float | None) -> dict[str, str]:
    """Probability of an anomaly in the image, absent where no detector ran."""
    return {} if score is None else {"PASS_anomaly_score": f"{score:.4f}"}


def fallback_meta(reason: str | None) -> dict[str, str]:
    """Why this is not what was asked for, absent if nothing failed."""
    return {} if reason is None else {"PASS_fallback": reason}


def quality_meta(findings: Sequence[QualityFinding]) -> dict[str, list[str]]:
    """What is wrong with the data or the image: words for programs, and a sentence for each; absent if nothing is."""
    if not findings:
        return {}
    return {
        "PASS_quality": [finding.word for finding in findings],
        "PASS_quality_reason": [finding.sentence for finding in findings],
    }


def seconds_meta(seconds: Mapping[str, float]) -> dict[str, str]:
    """Latency of each stage."""
    return {f"PASS_seconds_{stage}": f"{value:.6f}" for stage, value in seconds.items()}


def _header(acquisition: AcquisitionHeader, encoding: Encoding, kind: int, series: int, index: int) -> ImageHeader:
    header = ImageHeader()
    for name in (*_ACQUISITION_FIELDS, *_GEOMETRY_FIELDS):
        setattr(header, name, getattr(acquisition, name))
    for name in _COUNTERS:
        setattr(header, name, getattr(acquisition.idx, name))
    header.version = 1
    header.average = 0  # averages are averaged
    header.field_of_view = encoding.recon_fov_mm
    header.image_type, header.image_series_index, header.image_index = kind, series, index
    return header


def _image(data: NDArray[Any], header: ImageHeader, meta: Mapping[str, Any]) -> Image:
    attributes = Meta()
    attributes.update(in_both_conventions(meta))
    return Image(head=header, data=np.ascontiguousarray(data), meta=attributes)
