"""A plan saves no line that the scanner never measured."""

from __future__ import annotations

from training.evaluate.grids import grids, grids_text


def test_zero_columns_and_narrow_volumes_are_told_as_they_are():
    whole = {"size": [320, 320], "measured_lines": 320, "plan_lines": 80, "pixel_mm": [0.6875, 0.6875]}
    zeros = {**whole, "measured_lines": 213, "pixel_mm": [0.4375, 0.4375]}
    narrow = {**whole, "size": [320, 213], "measured_lines": 213, "plan_lines": 53, "pixel_mm": [0.0, 0.0]}
    found = grids([whole, zeros, whole, narrow])
    assert [(grid["acceleration"], grid["slices"]) for grid in found] == [(4.0, 2), (2.66, 1), (4.02, 1)]
    assert grids_text(found) == (
        "320 × 320 pixels of 0.688 × 0.688 mm, 80 of 320 measured lines (4×), 2 slices; "
        "320 × 320 pixels of 0.438 × 0.438 mm, 80 of 213 measured lines (2.66×), 1 slices; "
        "320 × 213 pixels of unknown size, 53 of 213 measured lines (4.02×), 1 slices"
    )
