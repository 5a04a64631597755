"""Fourth stage: reconstruction and map → what a viewer shows: magnitude, map and overlay, each a series of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from gadgetron.external.connection import Connection
from ismrmrd import Image

from gadgets import mrd
from gadgets.protocol.connection import run_gadget
from pass_recon.report.overlay import MAP_LEVELS, MagnitudeScale, coloured, map_levels


def anomaly_overlay(connection: Connection) -> None:
    """Run the stage as a gadget: ``python -m gadgetron PORT gadgets.anomaly_overlay anomaly_overlay``."""
    run_gadget(connection, lambda scan: lambda images: overlay(images, scan), forward=mrd.is_plan)


def overlay(images: Iterable[Any], scan: mrd.Scan) -> Iterator[Any]:
    """Make the output series.

    Parameters
    ----------
    images
        Those of `pass_reconstruction`: a complex image, and after it the map of the same slice; anything else, the plan
        above all, passes through.
    scan
        The header and the properties.

    Yields
    ------
    The magnitude (series 1) as soon as the image is there; with its map the map (series 2) and the overlay (series 3).
    """
    scale, shown = MagnitudeScale(), None
    numbers: Counter[int] = Counter()
    for image in images:
        series = image.image_series_index if isinstance(image, Image) else None
        if series == mrd.RECONSTRUCTION_SERIES:
            shown, window = _magnitude(image, scale)
            finished = [shown]
        elif series == mrd.MAP_SERIES and shown is not None:
            finished = _map_and_overlay(image, shown, window)
        else:
            finished = [image]
        for output in finished:
            if isinstance(output, Image) and not mrd.is_plan(output):
                numbers[output.image_series_index] += 1
                output.image_index = numbers[output.image_series_index]
            yield output


def _magnitude(image: Image, scale: MagnitudeScale) -> tuple[Image, int]:
    levels, factor, window = scale.levels(np.abs(mrd.array_of(image)))
    # PASS_scale: levels per unit of the reconstruction, the same for all slices of a scan unless one would not fit.
    meta = {"PASS_scale": f"{factor:.9g}", **_described("PASS magnitude", window)}
    return mrd.image_like(image, [levels], series=mrd.RECONSTRUCTION_SERIES, meta=meta), window


def _map_and_overlay(anomaly_map: Image, shown: Image, window: int) -> list[Image]:
    probability = mrd.array_of(anomaly_map)
    aside = " (no detector)" if "PASS_anomaly" in anomaly_map.meta else ""
    on_map = {"PASS_scale": str(MAP_LEVELS), **_described(f"PASS anomaly map{aside}", MAP_LEVELS + 1)}
    colours = coloured(mrd.array_of(shown), window, probability, mrd.boxes_of(anomaly_map))
    on_overlay = _described(f"PASS anomaly overlay{aside}", 256)
    return [
        mrd.image_like(anomaly_map, [map_levels(probability)], series=mrd.MAP_SERIES, meta=on_map),
        mrd.image_like(anomaly_map, colours, series=mrd.OVERLAY_SERIES, meta=on_overlay),
    ]


def _described(series: str, window: int) -> dict[str, str]:
    return {"SeriesDescription": series, "WindowCenter": str(window // 2), "WindowWidth": str(window)}
