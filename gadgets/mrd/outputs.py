"""The series that are made of each slice and its anomaly map, beside the magnitude."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gadgets.mrd.images import MAP_SERIES, OVERLAY_SERIES
from pass_recon.report.orientation import AS_ACQUIRED
from pass_recon.report.overlay import MAP_LEVELS, grey_levels, map_levels, overlay
from pass_recon.types import Box


@dataclass(frozen=True)
class Findings:
    """What an output is drawn from: magnitude ``(ro, pe)``, its window, map ``(ro, pe)`` in 0 to 1, boxes."""

    magnitude: NDArray[np.uint16]
    window: int
    anomaly_map: NDArray[np.float32]
    boxes: Sequence[Box]


@dataclass(frozen=True)
class Output:
    """A series that is made of each slice: number, title, width of its window, one channel ``(ro, pe)`` or three."""

    series: int
    title: str
    window: int
    draw: Callable[[Findings], Sequence[NDArray[Any]]]
    meta: dict[str, str] = field(default_factory=dict)


def _overlay(found: Findings) -> list[NDArray[np.uint16]]:
    """Red, green and blue, each ``(ro, pe)`` from 0 to 255."""
    picture = overlay(grey_levels(found.magnitude, found.window), found.anomaly_map, found.boxes)
    return list(np.moveaxis(AS_ACQUIRED.turn_back(picture), -1, 0).astype(np.uint16))


# To send another series, add it here.
OUTPUTS = [
    Output(
        MAP_SERIES,
        "PASS anomaly map",
        MAP_LEVELS + 1,
        lambda found: [map_levels(found.anomaly_map)],
        {"PASS_scale": str(MAP_LEVELS)},
    ),
    Output(
        OVERLAY_SERIES,
        "PASS anomaly overlay",
        256,
        _overlay,
    ),
]
