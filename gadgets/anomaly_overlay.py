"""Fourth stage: reconstruction and map → what a viewer shows: magnitude, map and overlay, each a series of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from gadgetron.external.connection import Connection
from ismrmrd import Image

from gadgets import mrd
from gadgets.mrd.outputs import OUTPUTS, Findings
from gadgets.pacs import sent_to_pacs
from gadgets.protocol.connection import Failure, run_gadget
from pass_recon.report.overlay import MagnitudeScale


def anomaly_overlay(connection: Connection) -> None:
    """Run the stage as a gadget: ``python -m gadgetron PORT gadgets.anomaly_overlay anomaly_overlay``."""
    run_gadget(connection, lambda scan: lambda images: sent_to_pacs(overlay(images), scan), forward=mrd.is_plan)


def overlay(images: Iterable[Any]) -> Iterator[Any]:
    """Make the output series.

    Parameters
    ----------
    images
        Those of `pass_reconstruction`: a complex image, and after it the map of the same slice; anything else, the plan
        above all, passes through.

    Yields
    ------
    The magnitude (series 1) as soon as the image is there; with its map those of `OUTPUTS`.
    """
    scale, shown = MagnitudeScale(), None
    numbers: Counter[int] = Counter()
    explained = False
    for image in images:
        explained |= isinstance(image, Failure) or (isinstance(image, Image) and not mrd.is_plan(image))
        series = image.image_series_index if isinstance(image, Image) else None
        if series == mrd.RECONSTRUCTION_SERIES:
            shown, window = _magnitude(image, scale)
            finished = [shown]
        elif series == mrd.MAP_SERIES and shown is not None:
            finished = _with_map(image, shown, window)
        else:
            finished = [image]
        for output in finished:
            if isinstance(output, Image) and not mrd.is_plan(output):
                numbers[output.image_series_index] += 1
                output.image_index = numbers[output.image_series_index]
            yield output
    if not explained:
        yield Failure("no image came from the reconstruction: a stage before has failed", "processing")


def _magnitude(image: Image, scale: MagnitudeScale) -> tuple[Image, int]:
    levels, factor, window = scale.levels(np.abs(mrd.array_of(image)))
    # PASS_scale: levels per unit of the reconstruction, the same for all slices of a scan unless one would not fit.
    meta = mrd.described("PASS magnitude", window, PASS_scale=f"{factor:.9g}")
    return mrd.image_like(image, [levels], series=mrd.RECONSTRUCTION_SERIES, meta=meta), window


def _with_map(anomaly_map: Image, shown: Image, window: int) -> list[Image]:
    found = Findings(mrd.array_of(shown), window, mrd.array_of(anomaly_map), mrd.boxes_of(anomaly_map))
    return [
        mrd.image_like(
            anomaly_map,
            output.draw(found),
            series=output.series,
            meta=mrd.described(output.title, output.window, **output.meta),
        )
        for output in OUTPUTS
    ]
