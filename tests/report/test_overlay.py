"""The overlay and its orientation: what is drawn where."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import colormaps

from pass_recon.report.orientation import AS_ACQUIRED, Orientation, radiological
from pass_recon.report.overlay import BOX_COLOUR, colour_table, grey_levels, overlay
from pass_recon.types import Box

RO, PE = 160, 200
BOX = Box(60, 80, 30, 40, score=0.73, label="Mass")


def grey() -> np.ndarray:
    return np.full((RO, PE), 100, dtype=np.uint8)


def is_box_colour(picture: np.ndarray) -> np.ndarray:
    return (picture == BOX_COLOUR).all(-1)


class TestOverlay:
    def test_nothing_found_is_the_image(self):
        np.testing.assert_array_equal(overlay(grey(), np.zeros((RO, PE))), np.full((PE, RO, 3), 100))
        np.testing.assert_array_equal(overlay(grey(), None), np.full((PE, RO, 3), 100))

    def test_colours_are_those_of_a_perceptually_uniform_map_and_as_opaque_as_probable(self):
        ramp = np.broadcast_to(np.linspace(0, 1, PE), (RO, PE))
        picture = AS_ACQUIRED.turn_back(overlay(grey(), ramp))[0].astype(float)
        opacity = 0.6 * ramp[0][:, None]
        expected = 100 * (1 - opacity) + 255 * colormaps["inferno"](ramp[0])[:, :3] * opacity
        np.testing.assert_allclose(picture, expected, atol=4)
        assert (np.diff(colour_table()[:, 3].astype(int)) >= 0).all()

    def test_frame_and_label(self):
        picture = overlay(grey(), None, [BOX])
        framed = AS_ACQUIRED.turn_back(is_box_colour(picture))
        rows, columns = slice(60, 90), slice(80, 120)
        assert framed[rows, 80].all()
        assert framed[rows, 119].all()
        assert framed[60, columns].all()
        assert framed[89, columns].all()
        assert not framed[61:89, 81:119].any(), "the finding itself stays visible"
        written = AS_ACQUIRED.turn_back((picture != 100).any(-1)).copy()
        written[rows, columns] = False
        assert written.any(), "there is a label"
        assert not np.array_equal(
            overlay(grey(), None, [BOX]), overlay(grey(), None, [Box(60, 80, 30, 40, score=0.12, label="Mass")])
        )

    @pytest.mark.parametrize("box", [Box(0, 0, 10, 12, label="Mass"), Box(150, 188, 10, 12), Box(0, 0, RO, PE)])
    def test_boxes_at_the_edges(self, box):
        picture = overlay(grey(), None, [box])
        top, left, height, width = AS_ACQUIRED.place(box, (RO, PE))
        assert is_box_colour(picture)[top, left : left + width].all()
        assert is_box_colour(picture)[top + height - 1, left : left + width].all()

    def test_a_label_wider_than_the_picture_is_left_out(self):
        small = np.zeros((24, 24), dtype=np.uint8)
        picture = overlay(small, None, [Box(4, 4, 8, 8, label="Global white matter disease")])
        assert int(is_box_colour(picture).sum()) == 4 * 7

    def test_legend_only_when_asked_for(self):
        plain = overlay(grey(), np.zeros((RO, PE)))
        with_legend = overlay(grey(), np.zeros((RO, PE)), legend=True)
        changed = (plain != with_legend).any(-1)
        assert changed[:, -30:].any()
        assert not changed[:, : RO // 2].any()

    def test_notice_at_the_foot(self):
        picture = overlay(grey(), None, notice="not for clinical use")
        changed = (picture != 100).any(-1).any(1).nonzero()[0]
        assert changed.min() > 0.9 * PE - 1
        assert changed.max() == PE - 1
        assert picture[changed.min() :].max() > 150, "something is written on the black"

    def test_grey_levels(self):
        np.testing.assert_array_equal(grey_levels(np.array([[0, 50, 100, 300]]), 100), [[0, 128, 255, 255]])
        np.testing.assert_array_equal(grey_levels(np.array([[0, 5]]), 0), [[0, 255]])


ORIENTATIONS = [Orientation(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)]


class TestOrientation:
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_boxes_turn_with_the_image(self, orientation):
        image = np.zeros((RO, PE))
        image[60:90, 80:120] = 1
        top, left, height, width = orientation.place(BOX, image.shape)
        picture = orientation.turn(image)
        assert picture[top : top + height, left : left + width].all()
        assert picture.sum() == height * width
        np.testing.assert_array_equal(orientation.turn_back(picture), image)

    @pytest.mark.parametrize(
        ("read", "phase", "edges"),
        [
            ((0, 1, 0), (1, 0, 0), "ALPR"),
            ((1, 0, 0), (0, 1, 0), "ALPR"),
            ((-1, 0, 0), (0, -1, 0), "ALPR"),
            ((0, 0, 1), (1, 0, 0), "HLFR"),  # coronal
            ((0, 0, -1), (0, -1, 0), "HPFA"),  # sagittal
            ((0.9, 0.1, 0.42), (-0.05, 0.99, -0.13), "ALPR"),
        ],
    )
    def test_customary_views(self, read, phase, edges):
        orientation = radiological(read, phase)
        assert "".join(orientation.edges) == edges
        # A pixel further along a direction lies nearer to the edge which that direction points to.
        image = np.zeros((RO, PE))
        image[RO - 1, PE // 2] = 1
        row, column = (int(axis[0]) for axis in orientation.turn(image).nonzero())
        rows, columns = orientation.turn(image).shape
        place = {0: "top", rows - 1: "bottom"}.get(row) or {0: "left", columns - 1: "right"}[column]
        axis = int(np.abs(read).argmax())
        letter = ("RL", "AP", "FH")[axis][int(read[axis] > 0)]
        assert dict(zip(("top", "right", "bottom", "left"), edges, strict=True))[place] == letter

    def test_without_directions(self):
        assert radiological((0, 0, 0), (0, 0, 0)) == Orientation()
