"""MRD images: headers with the geometry of the acquisition, meta attributes, and the plan as an image.

An Image's data is ``(channels, z, y, x)`` with x = readout and y = phase encoding; in Python an image is ``(ro, pe)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ismrmrd import constants
from ismrmrd.acquisition import AcquisitionHeader
from ismrmrd.image import Image, ImageHeader
from ismrmrd.meta import Meta
from numpy.typing import ArrayLike, NDArray

from gadgets.mrd.buffers import SliceData
from gadgets.mrd.header import Encoding, ScanContext
from pass_recon.types import Box, Reconstruction, SamplingPlan

RECONSTRUCTION_SERIES, MAP_SERIES, OVERLAY_SERIES, PLAN_SERIES = 1, 2, 3, 1000
PLAN_ROLE = "SamplingPlan"

_BOX_COLOUR, _SOLID, _VISIBLE = (1.0, 0.0, 0.0), 0, 1
_ACQUISITION_FIELDS = ("acquisition_time_stamp", "measurement_uid", "physiology_time_stamp", "user_int", "user_float")
_GEOMETRY_FIELDS = ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")
_COUNTERS = ("average", "slice", "contrast", "phase", "repetition", "set")


def plan_image(plan: SamplingPlan, header: AcquisitionHeader, encoding: Encoding, index: int) -> Image:
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
    """
    meta: dict[str, Any] = {
        "DataRole": PLAN_ROLE,
        "PASS_lines": [str(line) for line in plan.order],
        "PASS_slice": str(header.idx.slice),
        "PASS_acceleration": f"{plan.acceleration:g}",
        "PASS_bundle": plan.bundle,
        "PASS_source": plan.source,
        **score_meta(plan.score),
        **fallback_meta(plan.fallback),
        **seconds_meta(plan.seconds),
    }
    data = plan.lines.numpy().astype(np.uint16)[None, None, None, :]
    return _image(data, _header(header, encoding, constants.IMTYPE_MAGNITUDE, PLAN_SERIES, index), meta)


def reconstruction_meta(
    result: Reconstruction, data: SliceData, scan: ScanContext, boxes: Sequence[Box]
) -> dict[str, Any]:
    """What is told with a reconstruction and everything made from it; ``boxes`` in pixels of the image sent."""
    method = "CG-SENSE" if result.bundle == "classical" else result.bundle
    meta: dict[str, Any] = {
        "DataRole": "Image",
        "ImageProcessingHistory": ["PASS", method],
        "PASS_slice": str(data.key.slice),
        "PASS_bundle": result.bundle,
        "PASS_acceleration": f"{scan.properties.acceleration:g}",
        "PASS_lines_used": f"{int(data.line_mask.sum())} of {data.encoding.pe}",
    }
    if data.encoding.partial_fourier is not None:
        meta["PASS_partial_fourier"] = f"{data.encoding.partial_fourier:g}"
    if result.anomaly_map is None and scan.properties.anomaly:
        meta["PASS_anomaly"] = f"unavailable: no detector in bundle {result.bundle}"
    score = result.score[0] if result.score else None
    return meta | score_meta(score) | boxes_meta(boxes) | fallback_meta(result.fallback) | seconds_meta(result.seconds)


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
    header.image_type = constants.IMTYPE_RGB if len(channels) == 3 else constants.IMTYPE_MAGNITUDE
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


def boxes_of(image: Image) -> list[tuple[int, int, int, int]]:
    """Boxes in an image's meta, half-open like slices: (readout, phase, readout end, phase end)."""
    boxes: list[tuple[int, int, int, int]] = []
    while (corners := image.meta.get(f"ROI_{len(boxes) + 1}")) is not None:
        values = [round(float(value)) for value in corners[6:]]
        boxes.append((min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])))
    return boxes


def score_meta(score: float | None) -> dict[str, str]:
    """Probability of an anomaly in the image, absent where no detector ran."""
    return {} if score is None else {"PASS_anomaly_score": f"{score:.4f}"}


def fallback_meta(reason: str | None) -> dict[str, str]:
    """Why this is not what was asked for, absent if nothing failed."""
    return {} if reason is None else {"PASS_fallback": reason}


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
    attributes.update(meta)
    return Image(head=header, data=np.ascontiguousarray(data), meta=attributes)
