"""The figure of a scan shows what it is given."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from pass_recon.report.figures import ACS_COLOUR, BACKGROUND, LESION_COLOUR, PLAN_COLOUR, SliceView, write_scan_figure
from pass_recon.types import Box


def view(**changes):
    rng = np.random.default_rng(0)
    truth = rng.random((48, 64), dtype=np.float32)
    lines = np.zeros(64, dtype=bool)
    lines[[3, 10, 30, 31, 32, 33, 50]] = True
    given = {"name": "slice 0", "truth": truth, "image": truth, "lines": lines, "acs": range(30, 34)}
    return SliceView(**(given | changes))


def draw(tmp_path, *views):
    write_scan_figure(tmp_path / "figure.png", views, title="test")
    return imread(tmp_path / "figure.png")[..., :3]


def share(pixels, colour):
    """Share of the picture that has this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return float((np.abs(pixels - wanted).max(-1) < 0.02).mean())


def test_lines_have_their_colours_in_proportion(tmp_path):
    pixels = draw(tmp_path, view())
    assert share(pixels, BACKGROUND) > 0.05
    # Four ACS lines and three others; the notice below is written in the colour of the ACS.
    assert share(pixels, PLAN_COLOUR) > 0
    assert share(pixels, ACS_COLOUR) > share(pixels, PLAN_COLOUR)


def test_lesions_are_boxed(tmp_path):
    assert share(draw(tmp_path, view()), LESION_COLOUR) == 0
    assert share(draw(tmp_path, view(lesions=(Box(10, 20, 12, 15),))), LESION_COLOUR) > 0


def test_error_is_dark_where_the_image_is_true(tmp_path):
    good = draw(tmp_path, view())
    bad = draw(tmp_path, view(image=view().truth + 0.05))
    assert good.shape == bad.shape
    third = slice(int(0.52 * good.shape[1]), int(0.72 * good.shape[1]))
    assert bad[:, third].mean() > 2 * good[:, third].mean()


def test_anomaly_map_gets_a_column_of_its_own(tmp_path):
    plain = draw(tmp_path, view())
    mapped = draw(tmp_path, view(anomaly_map=np.full((48, 64), 0.8, dtype=np.float32)))
    assert mapped.shape[1] == pytest.approx(1.25 * plain.shape[1], rel=0.03)


def test_many_slices_and_an_empty_one(tmp_path):
    empty = np.zeros((48, 64), dtype=np.float32)
    pixels = draw(tmp_path, view(), view(truth=empty, image=empty), view())
    assert np.isfinite(pixels).all()
    assert pixels.shape[0] > 2 * draw(tmp_path, view()).shape[0]
