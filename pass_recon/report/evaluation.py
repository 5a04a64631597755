"""Figures of an evaluation: bars with intervals, and one slice as every method shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pass_recon.common.files import written_aside
from pass_recon.metrics import LEAST_REGION, Region, lesion_region, psnr, qualities
from pass_recon.report.figures import (
    ACS_COLOUR,
    BACKGROUND,
    ERROR_GAIN,
    FAINT,
    FINDING_COLOUR,
    LESION_COLOUR,
    PLAN_COLOUR,
    TEXT,
)
from pass_recon.types import Box

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOTICE = "research software, not for clinical use"
_SERIES_COLOURS = (PLAN_COLOUR, ACS_COLOUR, LESION_COLOUR, FINDING_COLOUR)
_ZOOM = 64  # pixels, so that what lies around a small lesion is seen


@dataclass(frozen=True)
class Series:
    """Bars of one colour: mean, low and high end of the interval for each row, None where there is none."""

    name: str
    bars: Sequence[tuple[float, float, float] | None]


@dataclass(frozen=True)
class Panel:
    """One set of axes: the rows and what is drawn for each."""

    heading: str
    rows: Sequence[str]
    series: Sequence[Series]


@dataclass(frozen=True)
class Example:
    """One slice.

    Attributes
    ----------
    truth
        ``(ro, pe)`` magnitude.
    images
        ``(ro, pe)`` magnitudes in the same unit, by what they are called.
    boxes
        Lesions; the largest is shown larger.
    """

    truth: NDArray[np.float32]
    images: Mapping[str, NDArray[np.float32]]
    boxes: Sequence[Box] = ()


def write_bars(path: Path, panels: Sequence[Panel], *, title: str) -> None:
    """Write a PNG of bars with their intervals, one panel beside the other.

    Bars begin a little below the lowest, so their lengths cannot be compared, only their ends: decibels have no zero.
    """
    from matplotlib.figure import Figure

    rows = max(len(panel.rows) * len(panel.series) for panel in panels)
    figure = Figure(figsize=(5.2 * len(panels) + 1.2, 0.24 * rows + 1.6), facecolor=BACKGROUND, dpi=130)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)
    for number, (axes, panel) in enumerate(zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True)):
        _draw_panel(axes, panel, named=number == 0)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, labelcolor=TEXT)
    figure.suptitle(title, color=TEXT, fontsize=13, weight="bold")
    _save(figure, path)


def write_free_response(path: Path, curves: Mapping[str, Sequence[tuple[float, float]]], *, title: str) -> None:
    """Write a PNG of free-response curves: share of lesions found against false boxes an image, by what they are of."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 4.4), facecolor=BACKGROUND, dpi=130)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        rates, shares = np.array(sorted(curve)).T
        colour = _SERIES_COLOURS[number % len(_SERIES_COLOURS)]
        axes.step(rates, np.maximum.accumulate(shares), where="post", color=colour, label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1), facecolor=BACKGROUND)
    axes.set_xlabel("false boxes an image", color=TEXT)
    axes.set_ylabel("share of lesions found", color=TEXT)
    axes.tick_params(colors=FAINT)
    axes.legend(frameon=False, labelcolor=TEXT, loc="lower right")
    figure.suptitle(title, color=TEXT, fontsize=13, weight="bold")
    _save(figure, path)


def _draw_panel(axes: Any, panel: Panel, *, named: bool) -> None:
    places = np.arange(len(panel.rows))[::-1]
    thickness = 0.8 / len(panel.series)
    ends = [end for series in panel.series for bar in series.bars if bar is not None for end in bar[1:]]
    start = np.floor(min(ends) - 0.05 * (max(ends) - min(ends)) - 0.5)
    for number, series in enumerate(panel.series):
        offset = 0.4 - thickness * (number + 0.5)
        kept = [(place + offset, bar) for place, bar in zip(places, series.bars, strict=True) if bar is not None]
        where = [place for place, _ in kept]
        means, lows, highs = (np.array([bar[part] for _, bar in kept]) for part in range(3))
        colour = _SERIES_COLOURS[number % len(_SERIES_COLOURS)]
        axes.barh(where, means - start, 0.92 * thickness, left=start, color=colour, label=series.name)
        errors = np.clip([means - lows, highs - means], 0, None)
        axes.errorbar(means, where, xerr=errors, fmt="none", ecolor=TEXT, elinewidth=1, capsize=2)
        for place, high, mean in zip(where, highs, means, strict=True):
            axes.annotate(
                f"{mean:.1f}", (high, place), (4, 0), textcoords="offset points", va="center", color=FAINT, fontsize=7
            )
    axes.set_xlim(start, max(ends) + 0.12 * (max(ends) - start))
    axes.set_yticks(places, panel.rows if named else [""] * len(panel.rows), color=TEXT, fontsize=9)
    axes.set_title(panel.heading, color=TEXT, fontsize=10)
    axes.tick_params(colors=FAINT, length=0)
    axes.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_facecolor(BACKGROUND)
    for spine in axes.spines.values():
        spine.set_visible(False)


def write_example(path: Path, example: Example, *, title: str) -> None:
    """Write a PNG of one slice: whole images, the largest lesion enlarged, and errors, one column a method."""
    from matplotlib.figure import Figure

    box = max(example.boxes, key=lambda box: box.readout_size * box.phase_size, default=None)
    zoom = None if box is None else _zoom(box, (example.truth.shape[0], example.truth.shape[1]))
    names = ["ground truth", *example.images]
    images = [example.truth, *example.images.values()]
    rows, columns = 2 if zoom is None else 4, len(names)
    ro, pe = example.truth.shape
    figure = Figure(figsize=(2.5 * columns, rows * 2.5 * ro / pe + 1.2), facecolor=BACKGROUND, dpi=130)
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, rect=(0, 0.005, 1, 0.985))
    grid = figure.subplots(rows, columns, squeeze=False)
    for column, (name, image) in enumerate(zip(names, images, strict=True)):
        _draw_column(list(grid[:, column]), example, image, zoom, is_truth=column == 0)
        grid[0, column].set_title(name, color=TEXT, fontsize=10)
    headings = ["image", f"error × {ERROR_GAIN:g}"] if zoom is None else ["image", "lesion", *_ERRORS]
    for axes, heading in zip(grid[:, 0], headings, strict=True):
        axes.set_ylabel(heading, color=TEXT, fontsize=10)
    figure.suptitle(title, color=TEXT, fontsize=12, weight="bold")
    figure.supxlabel(_NOTICE, color=ACS_COLOUR, fontsize=9)
    _save(figure, path)


_ERRORS = (f"error × {ERROR_GAIN:g}", f"lesion, error × {ERROR_GAIN:g}")


def _draw_column(
    axes: Sequence[Any], example: Example, image: NDArray[np.float32], zoom: Region | None, *, is_truth: bool
) -> None:
    truth = example.truth
    seen = truth[truth > 0.02 * truth.max()]
    # A few bright pixels, such as fat or a lesion, must not leave the rest in the dark.
    white = 1.15 * float(np.percentile(seen, 98)) if len(seen) else 1.0
    gray: dict[str, Any] = {"cmap": "gray", "vmin": 0.0, "vmax": white, "interpolation": "nearest"}
    errors = gray | {"cmap": "magma"}
    error = ERROR_GAIN * np.abs(image - truth)
    cut = [] if zoom is None else [zoom]
    pictures = [(image, gray), *((image[part], gray) for part in cut)]
    pictures += [(error, errors), *((error[part], errors) for part in cut)]
    for panel, (picture, style) in zip(axes, pictures, strict=True):
        panel.imshow(picture, **style)
        panel.set_xticks([])
        panel.set_yticks([])
        for spine in panel.spines.values():
            spine.set_visible(False)
    _draw_boxes(axes[0], example.boxes, (0, 0))
    if zoom is not None:
        _draw_boxes(axes[1], example.boxes, (zoom[0].start, zoom[1].start))
    if not is_truth:
        axes[0].set_xlabel(f"{psnr(image, truth):.2f} dB", color=FAINT, fontsize=9)
        if zoom is not None:
            axes[1].set_xlabel(f"{_inside_boxes(example, image):.2f} dB in boxes", color=FAINT, fontsize=9)


def _inside_boxes(example: Example, image: NDArray[np.float32]) -> float:
    """Mean PSNR inside the lesions, as the tables have it."""
    shape = example.truth.shape[0], example.truth.shape[1]
    regions = [lesion_region(box, shape) for box in example.boxes]
    return float(np.mean([quality.psnr for quality in qualities(image, example.truth, regions)[1:]]))


def _draw_boxes(panel: Any, boxes: Sequence[Box], corner: tuple[int, int]) -> None:
    from matplotlib.patches import Rectangle

    limits = panel.get_xlim(), panel.get_ylim()
    for box in boxes:
        place = (box.phase - corner[1] - 1.5, box.readout - corner[0] - 1.5)
        panel.add_patch(
            Rectangle(place, box.phase_size + 2, box.readout_size + 2, fill=False, edgecolor=LESION_COLOUR, linewidth=1)
        )
    panel.set_xlim(limits[0])
    panel.set_ylim(limits[1])


def _zoom(box: Box, shape: tuple[int, int]) -> Region:
    """A square around the box, inside the image where the image is large enough."""
    side = max(_ZOOM, 2 * LEAST_REGION, box.readout_size + LEAST_REGION, box.phase_size + LEAST_REGION)
    centres = (box.readout + box.readout_size // 2, box.phase + box.phase_size // 2)
    starts = [max(min(centre - side // 2, length - side), 0) for centre, length in zip(centres, shape, strict=True)]
    rows, columns = (slice(start, min(start + side, length)) for start, length in zip(starts, shape, strict=True))
    return rows, columns


def _save(figure: Figure, path: Path) -> None:
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", facecolor=BACKGROUND)
