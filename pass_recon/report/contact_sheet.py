"""A contact sheet: many slices on one page, findings framed in the colour of their label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pass_recon.common.files import written_aside
from pass_recon.types import Box, InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Distinguishable on grey, and for most kinds of colour blindness (Okabe and Ito 2008, without black).
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2", "#FFFFFF")
_REMARK = "#9A9A9A"
_PAPER, _INK, _FAINT = "#101010", "#F2F2F2", "#9A9A9A"
_TILE_INCHES, _DPI = 2.0, 150
_MARGIN_PIXELS = 2.0


@dataclass(frozen=True)
class Tile:
    """One slice on the sheet.

    Attributes
    ----------
    image
        ``(ro, pe)`` magnitude, shown with rows from top to bottom.
    boxes
        Findings.
    remarks
        Boxes drawn in grey: what is no finding.
    title
        A line above.
    note
        A line below.
    """

    image: NDArray[np.floating[Any]]
    boxes: tuple[Box, ...] = ()
    remarks: tuple[Box, ...] = ()
    title: str = ""
    note: str = ""

    def upside_down(self) -> Tile:
        """The same with its rows in the opposite order, boxes too."""
        rows = self.image.shape[0]

        def turned(boxes: tuple[Box, ...]) -> tuple[Box, ...]:
            return tuple(replace(box, readout=rows - box.readout - box.readout_size) for box in boxes)

        return replace(self, image=self.image[::-1], boxes=turned(self.boxes), remarks=turned(self.remarks))


def contact_sheet(tiles: Sequence[Tile], *, heading: str = "", columns: int = 0) -> Figure:
    """Draw the tiles on one figure.

    Parameters
    ----------
    tiles
        Row by row.
    heading
        A line above all.
    columns
        Tiles in a row; by default as many as make the sheet slightly wider than high.

    Raises
    ------
    InputError
        If there are no tiles.
    """
    from matplotlib.figure import Figure

    if not tiles:
        raise InputError("there is nothing to show on a contact sheet")
    columns = min(columns or max(math.ceil(math.sqrt(1.4 * len(tiles))), 3), len(tiles))
    rows = math.ceil(len(tiles) / columns)
    colours = label_colours(tiles)
    legend_rows = math.ceil(len(colours) / max(columns // 2, 1))
    top, bottom, line = 0.45, 0.15 + 0.2 * legend_rows, 0.3
    width, height = columns * _TILE_INCHES + 0.2, top + bottom + rows * (_TILE_INCHES + line)
    figure = Figure(figsize=(width, height), facecolor=_PAPER, dpi=_DPI)
    figure.text(0.1 / width, 1 - 0.3 / height, heading, color=_INK, fontsize=10, fontweight="bold")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left = 0.1 + column * _TILE_INCHES
        low = height - top - (row + 1) * (_TILE_INCHES + line) + line / 2
        corner = (left / width, low / height)
        size = ((_TILE_INCHES - 0.06) / width, (_TILE_INCHES - 0.06) / height)
        _draw_tile(figure.add_axes((*corner, *size)), tile, colours)
    _draw_legend(figure, colours, max(columns // 2, 1), width, height, bottom)
    return figure


def save_contact_sheet(tiles: Sequence[Tile], path: str | Path, *, heading: str = "", columns: int = 0) -> None:
    """Draw the tiles to a picture file, which appears under its name only when it is complete.

    Raises
    ------
    InputError
        If there are no tiles or the ending names no known format.
    """
    path = Path(path)
    figure = contact_sheet(tiles, heading=heading, columns=columns)
    kind = path.suffix.lstrip(".").lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise InputError(f"no picture format has the ending {path.suffix!r}; png will do")
    with written_aside(path, private=True) as aside:
        figure.savefig(aside, format=kind, facecolor=_PAPER)


def label_colours(tiles: Sequence[Tile]) -> dict[str, str]:
    """A colour for each label, the most frequent first."""
    labels = [box.label or "finding" for tile in tiles for box in tile.boxes]
    frequent = sorted(set(labels), key=lambda label: (-labels.count(label), label))
    return {label: COLOURS[number % len(COLOURS)] for number, label in enumerate(frequent)}


def _draw_tile(axes: Any, tile: Tile, colours: dict[str, str]) -> None:
    # The brightest pixels are scalp and vessels; the brain should not be dark because of them.
    bright = float(np.quantile(tile.image, 0.985)) or float(tile.image.max()) or 1.0
    axes.imshow(tile.image, cmap="gray", vmin=0, vmax=bright, interpolation="antialiased", aspect="equal")
    axes.set_axis_off()
    axes.text(0.01, 1.02, tile.title, color=_INK, fontsize=6, transform=axes.transAxes, va="bottom")
    axes.text(0.01, -0.015, tile.note, color=_FAINT, fontsize=5.5, transform=axes.transAxes, va="top")
    for box in tile.remarks:
        _draw_box(axes, box, _REMARK)
    for box in tile.boxes:
        _draw_box(axes, box, colours[box.label or "finding"])


def _draw_box(axes: Any, box: Box, colour: str) -> None:
    from matplotlib.patches import Rectangle

    # Pixel centres lie on whole numbers; the frame stands a little off, so that small lesions are not covered by it.
    corner = (box.phase - 0.5 - _MARGIN_PIXELS, box.readout - 0.5 - _MARGIN_PIXELS)
    size = (box.phase_size + 2 * _MARGIN_PIXELS, box.readout_size + 2 * _MARGIN_PIXELS)
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=0.8))


def _draw_legend(
    figure: Any, colours: dict[str, str], columns: int, width: float, height: float, bottom: float
) -> None:
    for number, (label, colour) in enumerate(colours.items()):
        row, column = divmod(number, columns)
        place = ((0.15 + column * (width - 0.2) / columns) / width, (bottom - 0.15 - 0.2 * row) / height)
        figure.text(*place, "■ ", color=colour, fontsize=7, va="center")
        figure.text(place[0] + 0.14 / width, place[1], label, color=_INK, fontsize=7, va="center")
