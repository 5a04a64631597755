"""DICOM objects of a scan: identifiers, identity, geometry, content; by pydicom and highdicom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pydicom
import pytest

pytest.importorskip("highdicom", reason="DICOM needs the extra dicom")

import highdicom as hd

from pass_recon.report.dicom.export import dicom_objects, write_dicom
from pass_recon.report.dicom.findings import finding_masks
from pass_recon.report.dicom.send import Destination
from pass_recon.report.orientation import AS_ACQUIRED
from pass_recon.types import Box, InputError
from tests.report.scans import PE, RO, geometry, scan_record, slice_record

KINDS = [{}, {"enhanced": True}, {"radiological": True}, {"enhanced": True, "radiological": True}]


def identifiers(objects):
    return {
        (name, element.keyword, str(element.value))
        for name, data in objects.items()
        for element in data.iterall()
        if element.VR == "UI"
    }


def test_objects():
    objects = dicom_objects(scan_record())
    assert [name.partition("/")[0] for name in objects] == [*["magnitude"] * 3, *["overlay"] * 3, "findings", "report"]
    assert {data.StudyInstanceUID for data in objects.values()} == {objects["report/0001.dcm"].StudyInstanceUID}
    assert len({data.SeriesInstanceUID for data in objects.values()}) == 4
    assert len({data.SOPInstanceUID for data in objects.values()}) == len(objects)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_scan_has_the_same_identifiers_and_another_has_others(kind):
    first = identifiers(dicom_objects(scan_record(), **kind))
    assert identifiers(dicom_objects(scan_record(), **kind)) == first
    brighter = replace(slice_record(), levels=slice_record().levels + np.uint16(1))
    other = dicom_objects(scan_record(slices=(brighter, *scan_record().slices[1:])), **kind)
    own = {value for _, keyword, value in first if keyword == "SOPInstanceUID"}
    assert own.isdisjoint(value for _, keyword, value in identifiers(other) if keyword == "SOPInstanceUID")
    assert all(len(value) <= 64 for _, _, value in first)


def test_nobody_is_named_unless_asked_for(tmp_path):
    for path in write_dicom(tmp_path, dicom_objects(scan_record())):
        bytes_ = path.read_bytes()
        for told in (b"Doe", b"4711", b"19700102", b"20250131"):
            assert told not in bytes_
        assert pydicom.dcmread(path).PatientIdentityRemoved == "YES"
    for data in dicom_objects(scan_record(), keep_identity=True).values():
        assert (data.PatientName, data.PatientID, data.PatientBirthDate) == ("Doe^Jane", "4711", "19700102")
        assert data.StudyDate == "20250131"
        assert "PatientIdentityRemoved" not in data


@pytest.mark.parametrize("kind", KINDS)
def test_geometry(kind):
    """Every pixel is where its line and sample were acquired, whatever the picture's rows and columns are."""
    scan = scan_record(4)
    images = [data for name, data in dicom_objects(scan, **kind).items() if name.startswith("magnitude")]
    frames = [(data, None) for data in images] if len(images) == 4 else [(images[0], frame) for frame in range(4)]
    for one, (data, frame) in zip(scan.slices, frames, strict=True):
        volume = data.pixel_array if frame is None else data.pixel_array[frame]
        if frame is None:
            position, orientation, spacing = data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing
        else:
            shared, own = data.SharedFunctionalGroupsSequence[0], data.PerFrameFunctionalGroupsSequence[frame]
            position = own.PlanePositionSequence[0].ImagePositionPatient
            orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
            spacing = shared.PixelMeasuresSequence[0].PixelSpacing
        transformer = hd.spatial.PixelToReferenceTransformer(
            [float(v) for v in position], [float(v) for v in orientation], [float(v) for v in spacing]
        )
        for readout, phase in ((0, 0), (RO - 1, 7), (20, PE - 1)):
            marked = np.zeros((RO, PE))
            marked[readout, phase] = 1
            orientation_ = one.geometry.orientation if kind.get("radiological") else AS_ACQUIRED
            row, column = (int(axis[0]) for axis in orientation_.turn(marked).nonzero())
            assert volume[row, column] == one.levels[readout, phase]
            place = transformer(np.array([[column, row]]))[0]
            np.testing.assert_allclose(place, one.geometry.place(readout, phase, (RO, PE)), atol=1e-3)


def test_header_fields_and_what_made_the_image():
    data = dicom_objects(scan_record())["magnitude/0001.dcm"]
    assert (data.RepetitionTime, data.EchoTime, data.MagneticFieldStrength) == (9000, 90, 3)
    assert data.ImagingFrequency == pytest.approx(123.2)
    assert (data.BodyPartExamined, data.PatientPosition, data.ProtocolName) == ("BRAIN", "HFS", "brain_flair")
    assert data.ImageType[0] == "DERIVED"
    assert "brain-flair-4x from 26 of 120 phase-encoding lines, 4x accelerated, personal" in data.DerivationDescription
    assert "not for clinical use" in data.DerivationDescription
    assert (data.SpacingBetweenSlices, data.SliceThickness) == (6, 5)
    assert "anomaly score 0.90" in data.ImageComments


def test_a_notice_is_burned_into_the_overlay():
    data = dicom_objects(scan_record())["overlay/0001.dcm"]
    picture = data.pixel_array
    assert picture.shape[2] == 3
    foot = picture[-12:].astype(int)
    assert (foot.sum(-1) == 0).mean() > 0.3, "a black bar"
    assert (foot[..., 0] > foot[..., 2] + 60).any(), "with letters"
    source = data.SourceImageSequence[0].ReferencedSOPInstanceUID
    assert source == dicom_objects(scan_record())["magnitude/0001.dcm"].SOPInstanceUID


@pytest.mark.parametrize("kind", KINDS)
def test_segments_are_the_findings(kind):
    scan = scan_record()
    objects = dicom_objects(scan, **kind)
    segments = hd.seg.Segmentation.from_dataset(objects["findings/0001.dcm"])
    assert segments.number_of_segments == 3
    assert segments.get_segment_description(1).segment_label == "Edema"
    frames = {}
    for number, frame in enumerate(segments.PerFrameFunctionalGroupsSequence):
        key = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        frames[key] = segments.pixel_array[number], frame.PlanePositionSequence[0].ImagePositionPatient
    for number, one in enumerate(scan.slices, start=1):
        mask, position = frames[number]
        hung = one.geometry.orientation if kind.get("radiological") else AS_ACQUIRED
        np.testing.assert_array_equal(mask, hung.turn(finding_masks(one)) > 0)
        normal = np.array(one.geometry.slice_direction)
        assert np.array(position, float) @ normal == pytest.approx(np.array(one.geometry.centre) @ normal, abs=1e-3)


def test_masks_are_what_is_probable_in_the_box():
    one = slice_record()
    assert one.anomaly_map is not None
    probable = np.zeros((RO, PE), np.float32)
    probable[25:30, 35:40] = 0.8
    box = one.findings[0]
    np.testing.assert_array_equal(finding_masks(replace(one, anomaly_map=probable)) > 0, probable > 0)
    whole = finding_masks(replace(one, anomaly_map=None)) > 0
    assert whole.sum() == box.readout_size * box.phase_size
    second = Box(20, 30, 16, 24, score=0.2)
    np.testing.assert_array_equal(finding_masks(replace(one, findings=(box, second))), finding_masks(one))


@pytest.mark.parametrize("kind", KINDS[:2])
def test_measurements(kind):
    report = hd.sr.ComprehensiveSR.from_dataset(dicom_objects(scan_record(), **kind)["report/0001.dcm"])
    groups = report.content.get_planar_roi_measurement_groups()
    assert len(groups) == 3
    values = {one.name.meaning: one.value for one in groups[0].get_measurements()}
    # 16 samples of 2 mm by 24 lines of 1.5 mm.
    assert values["Long axis"] == 36
    assert values["Short axis"] == 32
    assert values["Area"] == 36 * 32
    assert values["Calibrated probability of an anomaly"] == pytest.approx(0.9)
    assert groups[0].roi.value.tolist()[:2] == [[20, 30], [36, 30]]
    images = report.content.get_image_measurement_groups()
    assert [group.get_measurements()[0].value for group in images] == pytest.approx([0.9, 0.8, 0.7])


def test_without_a_detector_there_are_images_and_a_report():
    bare = slice_record(anomaly_map=None, findings=(), score=None)
    objects = dicom_objects(scan_record(slices=(bare,)))
    assert list(objects) == ["magnitude/0001.dcm", "report/0001.dcm"]


def test_slices_that_share_no_plane(tmp_path):
    turned = replace(geometry(), read_direction=(0.0, 0.0, -1.0), phase_direction=(1.0, 0.0, 0.0))
    small = np.ones((40, 30), np.uint16)
    slices = (
        slice_record(0),
        slice_record(1, geometry=turned),
        slice_record(2, levels=small, anomaly_map=None, findings=()),
    )
    for enhanced, images in ((False, 3), (True, 3)):
        objects = dicom_objects(scan_record(slices=slices), enhanced=enhanced)
        assert sum(name.startswith("magnitude") for name in objects) == images
        assert sum(name.startswith("findings") for name in objects) == 2


@pytest.mark.parametrize("kind", KINDS[:2])
def test_repetitions_and_slices_at_one_place(kind):
    here = geometry()
    slices = (
        *(slice_record(number, key=(number, 0, 0, 0, 0)) for number in range(2)),
        *(slice_record(number, key=(number, 0, 0, 1, 0)) for number in range(2)),
        slice_record(2, key=(2, 0, 0, 0, 0), geometry=here),  # a header that says the same of two slices
    )
    objects = dicom_objects(scan_record(slices=slices), **kind)
    assert sum(name.startswith("findings") for name in objects) == 3
    shown = sum(int(data.get("NumberOfFrames", 1)) for name, data in objects.items() if name.startswith("magnitude"))
    assert shown == 5
    assert len({data.SOPInstanceUID for data in objects.values()}) == len(objects)


def test_without_directions_and_sizes():
    nowhere = replace(geometry(), read_direction=(0.0,) * 3, phase_direction=(0.0,) * 3, field_of_view_mm=(0.0,) * 3)
    data = dicom_objects(scan_record(slices=(slice_record(geometry=nowhere),)))["magnitude/0001.dcm"]
    assert list(data.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    assert list(data.PixelSpacing) == [1, 1]


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path):
    write_dicom(tmp_path, dicom_objects(scan_record(5)))
    (tmp_path / "magnitude" / "mine.dcm").write_text("mine")
    written = write_dicom(tmp_path, dicom_objects(scan_record(2)))
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*written, tmp_path / "magnitude" / "mine.dcm"}


@pytest.mark.parametrize(
    ("address", "titles", "sentence"),
    [
        ("pacs", {}, "HOST:PORT, got 'pacs'"),
        (":104", {}, "HOST:PORT"),
        ("pacs:0", {}, "between 1 and 65535"),
        ("pacs:104", {"aec": "A" * 17}, "1 to 16 letters"),
        ("pacs:104", {"aet": " "}, "1 to 16 letters"),
    ],
)
def test_destinations_that_are_none(address, titles, sentence):
    with pytest.raises(InputError, match=sentence):
        Destination.from_text(address, **({"aec": "PACS", "aet": "PASS"} | titles))


def test_ipv6():
    assert Destination.from_text("[::1]:104", aec="A", aet="B") == Destination("::1", 104, "A", "B")


def test_words_that_dicom_cannot_take(tmp_path):
    odd = "Mü\\ller^\x00Jörg\n" + "x" * 80
    one = slice_record(findings=(Box(3, 4, 10, 12, label=odd),), method=odd, warnings=(odd,))
    scan = scan_record(slices=(one,))
    assert scan.protocol is not None
    protocol = replace(scan.protocol, name=odd, vendor=odd, model=odd)
    subject = replace(scan.subject, name=odd, identifier=odd, accession_number=odd, study_id=odd, sex="divers")
    scan = replace(scan, protocol=protocol, subject=subject)
    for kind in KINDS[:2]:
        for path in write_dicom(tmp_path, dicom_objects(scan, keep_identity=True, **kind)):
            data = pydicom.dcmread(path)
            assert str(data.PatientName).startswith("Mü ller^ Jörg")
            assert len(data.PatientID) <= 64
            assert data.PatientSex == ""
