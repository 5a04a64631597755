"""Figures of a scan: truth, reconstruction, error and plan of each slice, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass_recon.common.files import written_aside
from pass_recon.types import Box

NOTICE = "simulated data, not for clinical use"
ERROR_GAIN = 10.0
BACKGROUND, TEXT, FAINT = "#14161a", "#e8e8e8", "#8b929c"
ACS_COLOUR, PLAN_COLOUR, LESION_COLOUR, FINDING_COLOUR = "#ffb454", "#59c2ff", "#7fd962", "#ff6b6b"


@dataclass(frozen=True)
class SliceView:
    """One row of the figure.

    Attributes
    ----------
    name
        What the row is called.
    truth, image
        ``(ro, pe)`` magnitudes in the same unit.
    lines
        ``(pe,)`` bool, the lines that were acquired.
    acs
        The ACS lines among them.
    quality
        Below the reconstruction, such as its PSNR.
    plan
        Below the line pattern, such as where the plan came from.
    lesions
        Known lesions.
    findings
        Boxes that the detector drew.
    anomaly_map
        ``(ro, pe)`` in 0 to 1; None where no detector ran.
    """

    name: str
    truth: NDArray[np.float32]
    image: NDArray[np.float32]
    lines: NDArray[np.bool_]
    acs: range
    quality: str = ""
    plan: str = ""
    lesions: Sequence[Box] = ()
    findings: Sequence[Box] = ()
    anomaly_map: NDArray[np.float32] | None = None


def write_scan_figure(path: str | Path, slices: Sequence[SliceView], *, title: str, notice: str = NOTICE) -> None:
    """Write a PNG with one row a slice: truth, reconstruction, error and plan, and the anomaly map where there is one.

    Parameters
    ----------
    path
        File to write.
    slices
        The rows.
    title
        Above all.
    notice
        Below all.
    """
    from matplotlib.figure import Figure

    with_map = any(view.anomaly_map is not None for view in slices)
    columns = 5 if with_map else 4
    ro, pe = slices[0].truth.shape
    tall = 3.0 * ro / pe
    figure = Figure(figsize=(3.0 * columns + 0.4, (tall + 0.14) * len(slices) + 1.0), facecolor=BACKGROUND, dpi=110)
    below = 0.3 / figure.get_figheight()
    figure.set_layout_engine("constrained", w_pad=0.05, h_pad=0.05, rect=(0, below, 1, 1 - below))
    grid = figure.subplots(len(slices), columns, squeeze=False)
    for axes, view in zip(grid, slices, strict=True):
        _draw(list(axes), view)
    for axes, heading in zip(grid[0], _headings(with_map), strict=True):
        axes.set_title(heading, color=TEXT, fontsize=11, pad=8)
    figure.suptitle(title, color=TEXT, fontsize=13, weight="bold")
    figure.text(0.5, 0.3 * below, notice, color=ACS_COLOUR, fontsize=10, ha="center", va="bottom")
    with written_aside(path, private=True) as aside:
        figure.savefig(aside, format="png", facecolor=BACKGROUND)


def _headings(with_map: bool) -> list[str]:
    headings = ["ground truth, lesions boxed", "reconstruction", f"error × {ERROR_GAIN:g}", "acquired lines"]
    return [*headings, "anomaly map, findings boxed"] if with_map else headings


def _draw(axes: list[Any], view: SliceView) -> None:
    peak = float(view.truth.max()) or 1.0
    # A few bright pixels, such as fat or a lesion, must not leave the rest in the dark.
    white = float(np.percentile(view.truth[view.truth > 0.02 * peak], 98)) if view.truth.any() else 1.0
    window = {"cmap": "gray", "vmin": 0.0, "vmax": 1.15 * white, "interpolation": "nearest"}
    axes[0].imshow(view.truth, **window)
    axes[1].imshow(view.image, **window)
    error = ERROR_GAIN * np.abs(view.image - view.truth)
    axes[2].imshow(error, cmap="magma", vmin=0.0, vmax=1.15 * white, interpolation="nearest")
    _draw_lines(axes[3], view)
    if len(axes) > 4:
        empty = np.zeros_like(view.truth)
        shown = empty if view.anomaly_map is None else view.anomaly_map
        axes[4].imshow(shown, cmap="inferno", vmin=0.0, vmax=1.0)
    _draw_boxes(axes[0], view.lesions, LESION_COLOUR)
    for panel in axes[1:2] + axes[4:]:
        _draw_boxes(panel, view.findings, FINDING_COLOUR)
    for panel in axes:
        panel.set_xticks([])
        panel.set_yticks([])
        for spine in panel.spines.values():
            spine.set_visible(False)
    axes[0].set_ylabel(view.name, color=TEXT, fontsize=11)
    axes[1].set_xlabel(view.quality, color=FAINT, fontsize=9)
    axes[3].set_xlabel(view.plan, color=FAINT, fontsize=9)


def _draw_lines(panel: Any, view: SliceView) -> None:
    """The plan as k-space: phase encoding from left to right, each acquired line a bar."""
    ro, pe = view.truth.shape
    panel.set_facecolor("#1d2026")
    panel.set_xlim(-0.5, pe - 0.5)
    panel.set_ylim(0, 1)
    panel.set_aspect(ro)
    chosen = view.lines.nonzero()[0]
    planned = [line for line in chosen if line not in view.acs]
    for lines, colour in ((planned, PLAN_COLOUR), ([line for line in chosen if line in view.acs], ACS_COLOUR)):
        panel.bar(lines, 1.0, width=1.0, color=colour, linewidth=0)


def _draw_boxes(panel: Any, boxes: Sequence[Box], colour: str) -> None:
    from matplotlib.patches import Rectangle

    for box in boxes:
        corner = (box.phase - 2.0, box.readout - 2.0)
        panel.add_patch(
            Rectangle(corner, box.phase_size + 3, box.readout_size + 3, fill=False, edgecolor=colour, linewidth=1.2)
        )
