"""On what grids slices were measured, and how many times fewer lines a plan has than the scanner measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def grids(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each grid, the most frequent first.

    ``acceleration`` is ``measured_lines / plan_lines``: lines that the scanner filled with zeros are none that a plan
    saves.

    Parameters
    ----------
    records
        Of an evaluation.
    """
    found = Counter(
        (*record["size"], record["measured_lines"], record["plan_lines"], *record["pixel_mm"]) for record in records
    )
    return [
        {
            "size": [readout, phase],
            "measured_lines": measured,
            "plan_lines": planned,
            "acceleration": round(measured / planned, 2),
            "pixel_mm": pixel,
            "slices": slices,
        }
        for (readout, phase, measured, planned, *pixel), slices in found.most_common()
    ]


def grids_text(found: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on the grids of a group."""
    return "; ".join(
        f"{grid['size'][0]} × {grid['size'][1]}{_pixels(grid['pixel_mm'])}, {grid['plan_lines']} of "
        f"{grid['measured_lines']} measured lines ({grid['acceleration']:g}×), {grid['slices']} slices"
        for grid in found
    )


def _pixels(size: Sequence[float]) -> str:
    return f" pixels of {size[0]:.3g} × {size[1]:.3g} mm" if all(size) else " pixels of unknown size"
