"""The contact sheet: what is drawn where."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from pass_recon.report.contact_sheet import COLOURS, Tile, contact_sheet, label_colours, save_contact_sheet
from pass_recon.types import Box, InputError

BOX = Box(10, 30, 8, 12, 1.0, "Mass")


def image(box: Box = BOX) -> np.ndarray:
    values = np.full((64, 80), 0.2)
    values[box.readout : box.readout + box.readout_size, box.phase : box.phase + box.phase_size] = 1.0
    return values


def test_a_box_frames_its_lesion_on_paper():
    figure = contact_sheet([Tile(image(), (BOX,), title="a")])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3] / 255.0
    colour = np.array(to_rgb(COLOURS[0]))
    # The line is thin and drawn with soft edges: its hue is enough. The legend lies below the image.
    framed = (pixels[..., 0] - pixels[..., 2] > 0.25) & (np.abs(pixels[..., 1] - pixels[..., 0]) < 0.4)
    framed[int(0.85 * len(framed)) :] = False
    lesion = pixels.min(-1) > 0.97
    lesion[: int(0.2 * len(lesion))] = False  # where the heading would be
    assert colour[0] - colour[2] > 0.5
    rows, columns = np.nonzero(framed)
    lesion_rows, lesion_columns = np.nonzero(lesion)
    assert rows.min() < lesion_rows.min() < lesion_rows.max() < rows.max()
    assert columns.min() < lesion_columns.min() < lesion_columns.max() < columns.max()
    # The frame stands two image pixels off the lesion, and the lesion is as wide as it is.
    scale = (lesion_columns.max() - lesion_columns.min()) / 12
    assert scale == pytest.approx((2.0 - 0.06) * 150 / 80, rel=0.1)
    assert lesion_columns.min() - columns.min() == pytest.approx(2 * scale, abs=3)


def test_upside_down_turns_boxes_with_the_image():
    turned = Tile(image(), (BOX,), remarks=(BOX,)).upside_down()
    (box,) = turned.boxes
    assert turned.remarks == turned.boxes
    inside = turned.image[box.readout : box.readout + box.readout_size, box.phase : box.phase + box.phase_size]
    assert inside.shape == (8, 12)
    assert (inside == 1).all()
    assert turned.upside_down().boxes == (BOX,)


def test_labels_have_colours_and_remarks_are_grey():
    tiles = [Tile(image(), (BOX, BOX)), Tile(image(), (Box(1, 1, 5, 5, 1.0, "Edema"),), remarks=(Box(3, 3, 9, 9),))]
    assert label_colours(tiles) == {"Mass": COLOURS[0], "Edema": COLOURS[1]}
    figure = contact_sheet(tiles, heading="two", columns=2)
    edges = [patch.get_edgecolor()[:3] for patch in figure.axes[1].patches if isinstance(patch, Rectangle)]
    assert len(edges) == 2
    assert to_rgb(COLOURS[1]) in edges
    texts = [text.get_text() for text in figure.texts]
    assert {"two", "Mass", "Edema"} <= set(texts)


def test_files(tmp_path):
    save_contact_sheet([Tile(np.zeros((20, 20)))] * 7, tmp_path / "sheet.png", heading="black")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    with pytest.raises(InputError, match="xyz"):
        save_contact_sheet([Tile(np.zeros((20, 20)))], tmp_path / "sheet.xyz")
    with pytest.raises(InputError, match="nothing to show"):
        contact_sheet([])
