"""What a viewer shows: magnitudes and maps as whole numbers, and the map as a translucent colour over the image.

Arrays are numpy's, ``(ro, pe)``: whoever only displays starts without torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAP_LEVELS = 4095
_FIRST_PEAK = 4095
_HIGHEST = 65535
# Share of pixels that may be brighter than the window: vessels and rims, which would darken everything else.
_BRIGHT = 0.995
_OPACITY = 0.6
_BOX_COLOUR = (0, 255, 0)  # the map runs from red to yellow


class MagnitudeScale:
    """Turns magnitudes into uint16 with one factor for all slices of a scan.

    A radiologist compares slices and scrolls through them under one window setting, so the same brightness must mean
    the same signal throughout. The factor is fixed by the first image that is not empty: its peak becomes 4095, which
    leaves room for slices 16 times as bright. A slice brighter still is not clipped, because what is clipped cannot be
    read back: it gets a smaller factor of its own, and its meta data says so.
    """

    def __init__(self) -> None:
        self._factor: float | None = None
        self._bright = 0.0

    def levels(self, magnitude: NDArray[np.float32]) -> tuple[NDArray[np.uint16], float, int]:
        """Whole numbers, the factor they were multiplied with, and the width of a window from 0 that shows them well.

        Parameters
        ----------
        magnitude
            ``(ro, pe)``, not negative.

        Returns
        -------
        ``(ro, pe)`` uint16; levels per unit of the magnitude; levels.
        """
        peak = float(magnitude.max(initial=0.0))
        if self._factor is None and peak > 0:
            self._factor = _FIRST_PEAK / peak
        factor = self._factor or 1.0
        if peak * factor > _HIGHEST:
            factor = _HIGHEST / peak
        # The brightest slice so far sets the window, so that scrolling does not make the picture jump for dark slices.
        self._bright = max(self._bright, float(np.quantile(magnitude, _BRIGHT)))
        levels = np.rint(magnitude * np.float64(factor)).astype(np.uint16)
        return levels, factor, max(1, round(self._bright * factor))


def map_levels(anomaly_map: NDArray[np.float32]) -> NDArray[np.uint16]:
    """A map ``(ro, pe)`` of probabilities, 0 to 1, as uint16 from 0 to 4095."""
    return np.rint(np.clip(anomaly_map, 0, 1) * MAP_LEVELS).astype(np.uint16)


def coloured(
    levels: NDArray[np.uint16],
    window: int,
    anomaly_map: NDArray[np.float32],
    boxes: Sequence[tuple[int, int, int, int]] = (),
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16]]:
    """The image in grey, the map over it from red to yellow and as opaque as it is probable, and outlines of the boxes.

    Parameters
    ----------
    levels
        ``(ro, pe)`` image.
    window
        Level that is shown white; 0 is black.
    anomaly_map
        ``(ro, pe)`` in 0 to 1.
    boxes
        Each (readout, phase, readout end, phase end), half-open.

    Returns
    -------
    Red, green and blue, each ``(ro, pe)`` uint16 from 0 to 255.
    """
    grey = np.clip(levels / max(window, 1), 0, 1) * 255
    probability = np.clip(anomaly_map, 0, 1)
    opacity = _OPACITY * probability
    red, yellow, none = np.full_like(probability, 255), 255 * probability, np.zeros_like(probability)
    channels = []
    for colour, box_colour in zip((red, yellow, none), _BOX_COLOUR, strict=True):
        channel = np.rint(grey * (1 - opacity) + colour * opacity).astype(np.uint16)
        for box in boxes:
            _outline(channel, box, box_colour)
        channels.append(channel)
    return channels[0], channels[1], channels[2]


def _outline(channel: NDArray[np.uint16], box: tuple[int, int, int, int], value: int) -> None:
    """Draw the outermost pixels of a box in place."""
    first, second, end, second_end = box
    inside = channel[first:end, second:second_end]
    if inside.size:
        inside[[0, -1], :] = value
        inside[:, [0, -1]] = value
