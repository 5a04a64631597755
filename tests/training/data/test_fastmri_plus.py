"""fastMRI+: the real tables, and what a row means for slices and pixels."""

from __future__ import annotations

import numpy as np
import pytest

from pass_recon.types import InputError
from tests.training.data.fastmri_files import write_annotations
from training.data.fastmri_plus import Mark, Study, array_box, is_finding, read_annotations


def test_the_real_brain_table_parses_completely(shared_data):
    folder = shared_data / "fastmri_plus"
    annotations = read_annotations([folder / "brain.csv"], [folder / "brain_file_list.csv"])
    assert sum(annotations.counts.values()) == 8213
    assert len(annotations.counts) == 30
    assert len(annotations.studies) == 1001
    # Counted with awk.
    assert annotations.counts["Nonspecific white matter lesion"] == 1826
    assert annotations.counts["Normal for age"] == 371
    assert annotations.counts["Global label: Small vessel chronic white matter ischemic change"] == 221
    assert annotations.ignored == ()
    marks = sum(len(study.marks) for study in annotations.studies.values())
    statements = sum(len(study.statements) for study in annotations.studies.values())
    assert (marks, statements) == (7570, 643)
    normal = [study for study in annotations.studies.values() if study.label(0) == 0 and not study.marks]
    # Four without a row, and those "Normal for age" without artefact or finding.
    assert len(normal) == 4 + 371 - 7


def test_the_real_knee_table_parses_completely(shared_data):
    folder = shared_data / "fastmri_plus"
    annotations = read_annotations([folder / "knee.csv"], [folder / "knee_file_list.csv"])
    assert sum(annotations.counts.values()) == 16167
    assert len(annotations.counts) == 22
    assert annotations.counts["Meniscus Tear"] == 5658
    assert annotations.counts["Joint Effusion"] == 1311  # stands in the table with a blank behind it
    assert len(annotations.studies) == 1172
    assert annotations.ignored == ("knee_file_list.csv: 'Knee data' is no file name",)
    without = [study for study in annotations.studies.values() if not study.marks and not study.statements]
    assert len(without) == 1172 - 974
    assert all(study.label(20) == 0 for study in without)
    assert annotations.of("file9999999").label(20) == -1


def _flipped_crop(full: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What the radiologists saw: fastMRI's own centre crop, flipped up/down as in fastMRI+'s example."""
    top, left = (full.shape[0] - size[0]) // 2, (full.shape[1] - size[1]) // 2
    return full[top : top + size[0], left : left + size[1]][::-1, :]


@pytest.mark.parametrize(
    ("full", "drawn", "shape"),
    [
        ((640, 320), (320, 320), (320, 320)),
        ((640, 368), (320, 320), (320, 320)),
        ((640, 371), (320, 320), (320, 320)),
        ((512, 213), (213, 213), (320, 320)),
        ((639, 323), (321, 319), (256, 192)),
    ],
)
def test_a_box_covers_in_the_arrays_what_was_drawn_on_the_flipped_image(full, drawn, shape):
    mark = Mark(0, x=60, y=95, width=31, height=17, label="Mass")
    lesion = np.zeros(full, bool)
    seen = _flipped_crop(lesion, drawn)
    seen[mark.y : mark.y + mark.height, mark.x : mark.x + mark.width] = True
    # Index n // 2 of the full array stays at index m // 2 of the crop; beyond the array there is nothing.
    rows, columns = (np.arange(s) - s // 2 + f // 2 for s, f in zip(shape, full, strict=True))
    cropped = np.zeros(shape, bool)
    inside = np.ix_((rows >= 0) & (rows < full[0]), (columns >= 0) & (columns < full[1]))
    cropped[inside] = lesion[
        np.ix_(rows[(rows >= 0) & (rows < full[0])], columns[(columns >= 0) & (columns < full[1])])
    ]
    box = array_box(mark, drawn, full, shape)
    expected = np.zeros(shape, bool)
    expected[box.readout : box.readout + box.readout_size, box.phase : box.phase + box.phase_size] = True
    assert cropped.any()
    np.testing.assert_array_equal(cropped, expected)
    assert box.label == "Mass"


def test_a_box_is_cut_at_the_border_and_gone_outside():
    sizes = {"drawn": (320, 320), "full": (640, 320), "shape": (100, 100)}
    over = array_box(Mark(0, 100, 105, 40, 20, ""), **sizes)
    assert (over.phase, over.phase_size, over.readout_size) == (0, 30, 15)
    assert array_box(Mark(0, 0, 0, 40, 20, ""), **sizes) is None
    assert array_box(Mark(0, 160, 160, 0, 0, "a click"), **sizes) is None


def test_labels_of_slices():
    box = Mark(3, 10, 10, 5, 5, "Edema")
    assert Study().label(3) == -1
    assert Study(reviewed=True).label(3) == 0
    marked = Study(reviewed=True, marks=(box,))
    assert [marked.label(index) for index in (2, 3)] == [0, 1]
    assert marked.caption(3) == "Edema"
    assert Study(True, (box,), ("Normal for age",)).label(3) == 1
    assert Study(True, (), ("Normal for age",)).label(3) == 0
    assert Study(True, (), ("Global white matter disease",)).label(0) == 1
    assert Study(True, (), ("Motion artifact",)).label(0) == -1
    assert Study(True, (Mark(1, 1, 1, 2, 2, "Normal variant"),)).label(1) == 0
    assert not is_finding("Normal variant")
    assert is_finding("Mass")


def test_a_damaged_table_is_refused_by_name_and_line(tmp_path):
    table, names = write_annotations(tmp_path, ["file1,3,No,1,2,x,4,Mass"], ["file1"])
    with pytest.raises(InputError, match=r"line 2.*'x'"):
        read_annotations([table], [names])
    table.write_text("name,slice\nfile1,3\n")
    with pytest.raises(InputError, match="columns"):
        read_annotations([table])
