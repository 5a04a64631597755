"""MRD (ISMRMRD): the only place that knows its order of axes, flags, headers, meta attributes and vendors' habits.

``header``, read by ``header_xml``: the scan. ``readout``: acquisition → line. ``lines``: lines on a grid, whose
``centre`` they tell. ``slices``: lines → slices, and when a slice is over. ``calibration``: what coil maps come from.
``buffers``: slices ↔ ReconData. ``images``: arrays ↔ Image. ``geometry`` (which needs torch, and is imported by its own
name): from the encoded grid to the image that the header asks for.
"""

from gadgets.mrd.buffers import SliceData, acs_message, keep_lines, late_acs_message, slice_message, slices_of
from gadgets.mrd.calibration import Calibration, Calibrations
from gadgets.mrd.header import Encoding, ScanContext, grid_remark
from gadgets.mrd.images import (
    MAP_SERIES,
    OVERLAY_SERIES,
    PLAN_SERIES,
    RECONSTRUCTION_SERIES,
    array_of,
    boxes_meta,
    boxes_of,
    bundle_of,
    described,
    fallback_meta,
    finite_number,
    image_from_slice,
    image_like,
    is_plan,
    listed,
    plan_image,
    reconstruction_meta,
    remarks,
    score_meta,
    seconds_meta,
    sentences,
)
from gadgets.mrd.readout import Readouts, is_for_images, is_noise, remove_oversampling
from gadgets.mrd.slices import Late, Slice, SliceKey, SliceSorter

__all__ = [
    "MAP_SERIES",
    "OVERLAY_SERIES",
    "PLAN_SERIES",
    "RECONSTRUCTION_SERIES",
    "Calibration",
    "Calibrations",
    "Encoding",
    "Late",
    "Readouts",
    "ScanContext",
    "Slice",
    "SliceData",
    "SliceKey",
    "SliceSorter",
    "acs_message",
    "array_of",
    "boxes_meta",
    "boxes_of",
    "bundle_of",
    "described",
    "fallback_meta",
    "finite_number",
    "grid_remark",
    "image_from_slice",
    "image_like",
    "is_for_images",
    "is_noise",
    "is_plan",
    "keep_lines",
    "late_acs_message",
    "listed",
    "plan_image",
    "reconstruction_meta",
    "remarks",
    "remove_oversampling",
    "score_meta",
    "seconds_meta",
    "sentences",
    "slice_message",
    "slices_of",
]
