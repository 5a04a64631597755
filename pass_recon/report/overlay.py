"""What a viewer shows: magnitudes and maps as whole numbers, and the map as a translucent colour over the image.

Arrays are numpy's, ``(ro, pe)``: whoever only displays starts without torch. `overlay` draws what the gadget sends and
what stands in reports and in DICOM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass_recon.report.orientation import AS_ACQUIRED, Orientation
from pass_recon.types import Box

MAP_LEVELS = 4095
_FIRST_PEAK = 4095
_HIGHEST = 65535
# Share of pixels that may be brighter than the window: vessels and rims, which would darken everything else.
_BRIGHT = 0.995
_OPACITY = 0.6
# Perceptually uniform, its lightness rises with the value, also for the colour-blind and on paper.
_COLOUR_MAP = "inferno"
BOX_COLOUR = (64, 224, 255)  # a hue that the map does not have
_NOTICE_COLOUR, _DARK = (255, 180, 84), (0, 0, 0)
_LEAST_FONT, _ROWS_OF_TEXT = 9, 28


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


@lru_cache(maxsize=1)
def colour_table() -> NDArray[np.uint8]:
    """``(256, 4)`` red, green, blue and opacity of the probabilities 0 to 1, for viewers that colour by themselves."""
    from matplotlib import colormaps

    probability = np.linspace(0, 1, 256)
    colours = colormaps[_COLOUR_MAP](probability)
    colours[:, 3] = _OPACITY * probability
    table = np.rint(255 * colours).astype(np.uint8)
    table.setflags(write=False)
    return table


def grey_levels(levels: NDArray[Any], window: float) -> NDArray[np.uint8]:
    """Values from 0 (black) to ``window`` (white) as 0 to 255."""
    return np.rint(np.clip(levels / max(window, 1e-12), 0, 1) * 255).astype(np.uint8)


def overlay(
    grey: NDArray[np.uint8],
    anomaly_map: NDArray[np.floating[Any]] | None,
    boxes: Sequence[Box] = (),
    *,
    orientation: Orientation = AS_ACQUIRED,
    legend: bool = False,
    notice: str = "",
) -> NDArray[np.uint8]:
    """The image in grey, the map over it as opaque as it is probable, and frames of the findings with their labels.

    Parameters
    ----------
    grey
        ``(ro, pe)`` from 0 to 255.
    anomaly_map
        ``(ro, pe)`` in 0 to 1, calibrated; None where no detector ran.
    boxes
        Findings, in pixels of the image.
    orientation
        How the picture is laid out, so that letters stand upright in it.
    legend
        Draw the scale of colours.
    notice
        A line at the foot, on black.

    Returns
    -------
    ``(rows, columns, 3)`` uint8.
    """
    picture = np.repeat(orientation.turn(grey)[..., None], 3, axis=-1)
    if anomaly_map is not None:
        table = colour_table()[np.rint(np.clip(orientation.turn(anomaly_map), 0, 1) * 255).astype(np.uint8)]
        opacity = table[..., 3:] / 255
        picture = np.rint(picture * (1 - opacity) + table[..., :3] * opacity).astype(np.uint8)
    for box in boxes:
        _outline(picture, orientation.place(box, grey.shape))
    if boxes or legend or notice:
        picture = _written(picture, [(box, orientation.place(box, grey.shape)) for box in boxes], legend, notice)
    return picture


def readable_overlay(
    grey: NDArray[np.uint8],
    anomaly_map: NDArray[np.floating[Any]] | None,
    boxes: Sequence[Box],
    *,
    orientation: Orientation,
    notice: str,
    least: int = 256,
) -> NDArray[np.uint8]:
    """`overlay` with each pixel repeated until letters can be read: the shorter side has at least so many."""
    factor = max(1, -(-least // min(grey.shape)))
    places = ("readout", "phase", "readout_size", "phase_size")
    larger = [replace(box, **{place: getattr(box, place) * factor for place in places}) for box in boxes]
    anomaly_map = None if anomaly_map is None else anomaly_map.repeat(factor, 0).repeat(factor, 1)
    grey = grey.repeat(factor, 0).repeat(factor, 1)
    return overlay(grey, anomaly_map, larger, orientation=orientation, notice=notice)


def _outline(picture: NDArray[np.uint8], place: tuple[int, int, int, int]) -> None:
    """Draw the outermost pixels of a box in place."""
    top, left, height, width = place
    inside = picture[max(top, 0) : top + height, max(left, 0) : left + width]
    if inside.size:
        inside[[0, -1], :] = BOX_COLOUR
        inside[:, [0, -1]] = BOX_COLOUR


def _written(
    picture: NDArray[np.uint8], placed: Sequence[tuple[Box, tuple[int, int, int, int]]], legend: bool, notice: str
) -> NDArray[np.uint8]:
    """The picture with letters; a label that is wider than the picture is left out."""
    from PIL import Image, ImageDraw, ImageFont

    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(max(_LEAST_FONT, len(picture) // _ROWS_OF_TEXT))
    for box, (top, left, height, _) in placed:
        text = f"{box.label or 'finding'} {box.score:.2f}"
        x, y, right, bottom = draw.textbbox((0, 0), text, font=font, stroke_width=1)
        wide, high = right - x, bottom - y
        if wide <= canvas.width and high + height <= canvas.height:
            above = top - high - 1
            row = above if above >= 0 else min(top + height + 1, canvas.height - high)
            place = (min(max(left, 0), canvas.width - wide) - x, row - y)
            draw.text(place, text, fill=BOX_COLOUR, font=font, stroke_width=1, stroke_fill=_DARK)
    if legend:
        _draw_legend(canvas, draw, font)
    if notice:
        _draw_notice(canvas, draw, notice)
    return np.asarray(canvas).copy()


def _draw_legend(canvas: Any, draw: Any, font: Any) -> None:
    """A bar of the colours, as opaque as over the image, with its ends."""
    from PIL import Image

    width, height = max(canvas.width // 40, 4), canvas.height // 3
    left, top = canvas.width - 2 * width, canvas.height // 3
    colours = colour_table()[np.linspace(255, 0, height).astype(int)].astype(float)
    bar = np.rint(colours[:, :3] * colours[:, 3:] / 255).astype(np.uint8)
    canvas.paste(Image.fromarray(np.repeat(bar[:, None], width, axis=1)), (left, top))
    for text, row in (("1", top), ("0", top + height)):
        draw.text(
            (left - 2, row), text, fill=(255, 255, 255), font=font, anchor="rm", stroke_width=1, stroke_fill=_DARK
        )


def _draw_notice(canvas: Any, draw: Any, notice: str) -> None:
    """A line on a black bar, as large as fits."""
    from PIL import ImageFont

    size = max(_LEAST_FONT, canvas.height // 24)
    font = ImageFont.load_default(size)
    while size > 6 and draw.textlength(notice, font=font) > 0.96 * canvas.width:
        size -= 1
        font = ImageFont.load_default(size)
    high = round(1.5 * size)
    draw.rectangle((0, canvas.height - high, canvas.width, canvas.height), fill=_DARK)
    draw.text((canvas.width / 2, canvas.height - high / 2), notice, fill=_NOTICE_COLOUR, font=font, anchor="mm")
