"""The file of a scan's images, read as the records that reports and DICOM are made of."""

from __future__ import annotations

import h5py
import ismrmrd
import numpy as np
import pytest

from gadgets import mrd
from gadgets.anomaly_overlay import overlay
from gadgets.converters.image_file import ImageFile
from gadgets.converters.scan_record import read_scan
from gadgets.mask_feedback import feed_back
from gadgets.mrd.dataset import dataset
from gadgets.pass_reconstruction import reconstruct
from pass_recon.types import InputError, QualityFinding
from tests.gadgets.acquisitions import PE, RO, SKEWED, header, kspace, lines_of, scan
from tests.gadgets.pipelines import BOX, Detecting

DEAD = QualityFinding("dead_coil", "coil 3 without signal, left out")
SUBJECT = """<subjectInformation><patientName>Doe^Jane</patientName><patientID>47&amp;11</patientID>
<patientBirthdate>1970-01-02</patientBirthdate><patientGender>F</patientGender></subjectInformation>
<studyInformation><studyDate>2025-01-31</studyDate><studyTime>12:34:56</studyTime></studyInformation>"""


def chain_images(slices=2, **changes):
    """What the chain sends for a few slices."""
    from gadgets.acs_buffer import buffer_lines

    the_scan, pipeline = scan({"mode": "prospective"} | changes.pop("properties", {})), Detecting(**changes)
    k = kspace()
    acquisitions = (made for number in range(slices) for made in lines_of(k, slice=number))
    messages = feed_back(buffer_lines(acquisitions, the_scan), the_scan, pipeline)
    return [item for item in overlay(reconstruct(messages, the_scan, pipeline)) if isinstance(item, ismrmrd.Image)]


def stored(path, images, xml=b"", messages=()):
    output = ImageFile(path, "a", xml)
    for image in images:
        output.append(image)
    output.describe("scan.h5", {"bundle": "auto"}, messages)
    assert output.keep()
    return path


@pytest.fixture(scope="module")
def images():
    return chain_images(quality=(DEAD,), properties={"mode": "retrospective"})


def test_everything_of_a_slice(tmp_path, images):
    found = read_scan(stored(tmp_path / "out.h5", images))
    assert [one.key[0] for one in found.slices] == [0, 1]
    one = found.slices[1]
    assert one.levels.shape == one.anomaly_map.shape == (RO, PE)
    assert one.levels.max() == 4095
    assert one.findings == (BOX,)
    assert one.score == pytest.approx(0.9)
    assert one.method == "pretended-4x"
    for name, value in (("centre", "position"), ("read_direction", "read_dir"), ("phase_direction", "phase_dir")):
        np.testing.assert_allclose(getattr(one.geometry, name), SKEWED[value], rtol=1e-6)
    (plan,) = one.plans
    assert (plan.round, plan.pe, plan.source, len(plan.lines)) == (1, PE, "personal", PE // 4)
    assert set(plan.acs) <= set(plan.lines)
    assert one.seconds["solve for the image"] > 0
    assert any("coil 3 without signal" in text for text in one.warnings)
    assert found.source["scan"] == "scan.h5"
    assert found.source["property bundle"] == "auto"
    assert len(found.source["SHA-256 of the file"]) == 64


def test_the_last_round_is_shown_and_both_are_noted(tmp_path, images):
    first = [image for image in images if image.slice == 1]
    again = []
    for image in first:
        data, meta = image.data.copy(), {**image.meta, "PASS_round": "2", "PASS_lines_used": "all"}
        if mrd.is_plan(image):
            data[:] = 0
            data[0, 0, 0, [0, 1]] = 1
            meta |= {"PASS_lines": ["1", "0"]}
        elif image.image_series_index == 1:
            data //= 2
        made = ismrmrd.Image(head=image.getHead(), data=data)
        made.meta = meta
        again.append(made)
    found = read_scan(stored(tmp_path / "out.h5", [*again, *images]))
    one, other = found.slices[1], found.slices[0]
    assert [plan.round for plan in one.plans] == [1, 2]
    assert one.plans[1].lines == (1, 0)
    assert [(made.round, made.lines_used) for made in one.rounds] == [(1, f"{PE // 4} of {PE}"), (2, "all")]
    assert one.levels.max() == 4095 // 2, "the image is that of the last round, in whatever order they are stored"
    assert [made.round for made in other.rounds] == [1]


def test_header(tmp_path, images):
    xml = header().replace("<encoding>", SUBJECT + "<encoding>", 1).encode()
    found = read_scan(stored(tmp_path / "out.h5", images, xml))
    assert (found.subject.name, found.subject.identifier) == ("Doe^Jane", "47&11")
    assert (found.subject.birth_date, found.subject.study_date, found.subject.study_time) == (
        "19700102", "20250131", "123456",
    )  # fmt: skip
    assert found.protocol is not None
    assert found.header == xml


def test_without_a_header_that_of_the_scan_is_taken(tmp_path, images):
    out = stored(tmp_path / "out.h5", images)
    assert read_scan(out).protocol is None
    with dataset(tmp_path / "scan.h5", "dataset", "a") as file:
        file.write_xml_header(header())
        file.append_acquisition(next(iter(lines_of(kspace()))))
    assert read_scan(out, scan=tmp_path / "scan.h5").protocol is not None


def test_groups(tmp_path, images):
    for group, messages in (("b", ["old"]), ("c", ["new"])):
        output = ImageFile(tmp_path / "out.h5", group)
        output.append(images[1])
        output.describe("s.h5", {}, messages)
        output.keep()
    assert read_scan(tmp_path / "out.h5").messages == ("new",)
    assert read_scan(tmp_path / "out.h5", group="b").messages == ("old",)
    with pytest.raises(InputError, match="no images in a group 'd'; it has b, c"):
        read_scan(tmp_path / "out.h5", group="d")


def test_images_without_a_word_about_them(tmp_path):
    path = tmp_path / "out.h5"
    bare = ismrmrd.Image.from_array(np.ones((6, 5), np.float32), transpose=False, image_series_index=1)
    output = ImageFile(path, "a")
    output.append(bare)
    output.keep()
    (one,) = read_scan(path).slices
    assert one.levels.shape == (5, 6)
    assert one.levels.max() == 4095
    assert one.plans == ()
    assert one.score is None


def test_what_is_no_file_of_images(tmp_path, images):
    with pytest.raises(InputError, match="no such file"):
        read_scan(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(InputError, match="it is not HDF5"):
        read_scan(tmp_path / "text.h5")
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["dataset/data"] = 1
    with pytest.raises(InputError, match="holds no images; reconstruct it first"):
        read_scan(tmp_path / "scan.h5")
    stored(tmp_path / "plans.h5", [image for image in images if mrd.is_plan(image)])
    with pytest.raises(InputError, match="no magnitude images"):
        read_scan(tmp_path / "plans.h5")
    stored(tmp_path / "broken.h5", images)
    with h5py.File(tmp_path / "broken.h5", "a") as file:
        del file["a/image_1/header"]
    with pytest.raises(InputError, match=r"series 1 of .*broken\.h5:/a cannot be read"):
        read_scan(tmp_path / "broken.h5")


def test_meta_that_makes_no_sense(tmp_path, images):
    magnitude = next(image for image in images if image.image_series_index == 1)

    def with_meta(path, **meta):
        made = ismrmrd.Image(head=magnitude.getHead(), data=magnitude.data)
        made.meta = {**magnitude.meta, **meta}
        return stored(tmp_path / path, [made])

    corners = ["1", "0", "0", "1", "0", "1", "-5", "-3", "9000", "-3", "9000", "7", "-5", "7"]
    found = read_scan(with_meta("far.h5", ROI_1=corners, PASS_finding_1=["x", "7"], PASS_anomaly_score="nan"))
    (box,) = found.slices[0].findings
    assert (box.readout, box.phase, box.readout_size, box.phase_size, box.score) == (0, 0, RO, 7, 1.0)
    assert found.slices[0].score is None
    with pytest.raises(InputError, match=r"words\.h5:/a: what slice 0 says makes no sense"):
        read_scan(with_meta("words.h5", ROI_1=["a"] * 14))
