"""The overlay as secondary captures, hung as radiologists do, with a notice burned in."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from pass_recon.report.dicom.mr import Frame, comments, derivation
from pass_recon.report.dicom.study import Study
from pass_recon.report.overlay import grey_levels, readable_overlay

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SERIES = 3
BURNED_IN = "NOT FOR CLINICAL USE"


def captures(study: Study, frames: Iterable[Frame]) -> list[Dataset]:
    """A colour image of each slice that a detector saw, which refers to the magnitude it was drawn from."""
    shown = (frame for frame in frames if frame.slice.anomaly_map is not None)
    return [_capture(study, instance, frame) for instance, frame in enumerate(shown, start=1)]


def _capture(study: Study, instance: int, frame: Frame) -> Dataset:
    one, source = frame.slice, frame.image
    orientation = one.geometry.orientation
    assert one.anomaly_map is not None
    grey = grey_levels(one.levels, one.window)
    picture = readable_overlay(grey, one.anomaly_map, one.findings, orientation=orientation, notice=BURNED_IN)
    data = study.dataset(SECONDARY_CAPTURE, study.uid_of("overlay", source.SOPClassUID, *one.key))
    data.Modality, data.ConversionType = "MR", "WSD"
    data.SeriesInstanceUID = study.uid_of("series", "overlay", source.SOPClassUID)
    data.SeriesNumber, data.SeriesDescription = SERIES, "PASS anomaly overlay"
    data.SeriesDate = data.SeriesTime = ""
    if study.may_be_paired:
        data.Laterality = ""
    if study.body_part[0]:
        data.BodyPartExamined = study.body_part[0]
    data.InstanceNumber = instance
    data.ImageType = ["DERIVED", "SECONDARY"]
    data.DerivationDescription = derivation(one)
    data.ImageComments = comments(one)
    _, right, bottom, _ = orientation.edges
    data.PatientOrientation = [right, bottom] if right else ""
    referenced = Dataset()
    referenced.ReferencedSOPClassUID, referenced.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if frame.number is not None:
        referenced.ReferencedFrameNumber = frame.number
    data.SourceImageSequence = DicomSequence([referenced])
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.Rows, data.Columns = picture.shape[:2]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.BurnedInAnnotation, data.LossyImageCompression = "NO", "00"  # of words that would tell of whom
    pixels = np.ascontiguousarray(picture).tobytes()
    data.PixelData = pixels + b"\0" * (len(pixels) % 2)
    data["PixelData"].VR = "OB"
    return data
