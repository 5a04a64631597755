"""How an image ``(ro, pe)`` is laid out as a picture ``(rows, columns)``: as acquired, or as radiologists hang it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass_recon.types import Box

# DICOM's patient axes: x to the left, y to the back (posterior), z to the head.
_LETTERS = (("R", "L"), ("A", "P"), ("F", "H"))
# Normal's axis → where the picture's columns and rows run to: sagittal, coronal, axial.
_HUNG = (
    ((0, 1, 0), (0, 0, -1)),
    ((1, 0, 0), (0, 0, -1)),
    ((1, 0, 0), (0, 1, 0)),
)


@dataclass(frozen=True)
class Orientation:
    """A turn of the picture by right angles, mirrored or not.

    Attributes
    ----------
    transposed
        Whether rows follow each other along phase encoding, as MRD and DICOM have it, and not along readout.
    rows_reversed, columns_reversed
        Whether the first row or column is the last of the image.
    edges
        Side of the patient at the top, right, bottom and left: of R, L, A, P, F, H; empty where unknown.
    """

    transposed: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False
    edges: tuple[str, str, str, str] = ("", "", "", "")

    def turn(self, image: NDArray[Any]) -> NDArray[Any]:
        """``(ro, pe, …)`` → ``(rows, columns, …)``."""
        picture = image.swapaxes(0, 1) if self.transposed else image
        return picture[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]

    def turn_back(self, picture: NDArray[Any]) -> NDArray[Any]:
        """``(rows, columns, …)`` → ``(ro, pe, …)``."""
        image = picture[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]
        return image.swapaxes(0, 1) if self.transposed else image

    def place(self, box: Box, shape: Sequence[int]) -> tuple[int, int, int, int]:
        """Where a box of an image of ``shape`` (ro, pe) lies in the picture: (top, left, height, width)."""
        starts, sizes = [box.readout, box.phase], [box.readout_size, box.phase_size]
        lengths = list(shape[:2])
        if self.transposed:
            starts, sizes, lengths = starts[::-1], sizes[::-1], lengths[::-1]
        for axis, mirrored in enumerate((self.rows_reversed, self.columns_reversed)):
            if mirrored:
                starts[axis] = lengths[axis] - starts[axis] - sizes[axis]
        return starts[0], starts[1], sizes[0], sizes[1]


AS_ACQUIRED = Orientation(transposed=True)
"""Readout from left to right, as in an MRD image."""


def radiological(read_direction: Sequence[float], phase_direction: Sequence[float]) -> Orientation:
    """The customary view of a slice: axial and coronal with the patient's left on the right, sagittal from the left.

    Parameters
    ----------
    read_direction, phase_direction
        Where readout and phase encoding run to, in DICOM's patient coordinates (left, back, head). Without them (zeros)
        readout runs down and phase encoding to the right, and the edges have no letters.
    """
    read, phase = np.asarray(read_direction, float), np.asarray(phase_direction, float)
    normal = np.abs(np.cross(read, phase))
    if not np.isfinite(normal).all() or normal.max() < 1e-6:
        return Orientation()
    to_right, downwards = (np.array(axis, float) for axis in _HUNG[int(normal.argmax())])
    transposed = abs(read @ to_right) > abs(phase @ to_right)
    columns, rows = (read, phase) if transposed else (phase, read)
    columns_reversed, rows_reversed = bool(columns @ to_right < 0), bool(rows @ downwards < 0)
    right, bottom = (-columns if columns_reversed else columns), (-rows if rows_reversed else rows)
    edges = (_letter(-bottom), _letter(right), _letter(bottom), _letter(-right))
    return Orientation(bool(transposed), rows_reversed, columns_reversed, edges)


def _letter(direction: NDArray[np.floating[Any]]) -> str:
    axis = int(np.abs(direction).argmax())
    return _LETTERS[axis][int(direction[axis] > 0)]
