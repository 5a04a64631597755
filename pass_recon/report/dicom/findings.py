"""Findings as a DICOM SEG and as a structured report of TID 1500, both by highdicom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from pass_recon import __version__
from pass_recon.report.dicom.mr import Frame, plane_of
from pass_recon.report.dicom.study import NOTICE, SOFTWARE, Study, plain
from pass_recon.report.scan import SliceRecord
from pass_recon.types import Box

SEGMENTATION_SERIES, REPORT_SERIES = 4, 5
_INSIDE = 0.5  # probability from which on a pixel belongs to a finding, as for its box
_SCHEME = "99PASS"
_SCORE = CodedConcept("ANOMALY_SCORE", _SCHEME, "Calibrated probability of an anomaly")
_PROBABLE = CodedConcept("PROBABLE", _SCHEME, "Most probable of the known findings")
_LESION = codes.SCT.Lesion


def finding_masks(one: SliceRecord) -> NDArray[np.uint16]:
    """``(ro, pe)``: the number of the finding, from 1, that a pixel belongs to, and 0 elsewhere.

    A finding is what is probable within its box, the whole box where nothing is; a shared pixel belongs to the first.
    """
    numbers = np.zeros(one.levels.shape, dtype=np.uint16)
    for number, box in enumerate(one.findings, start=1):
        rows = slice(max(box.readout, 0), box.readout + box.readout_size)
        columns = slice(max(box.phase, 0), box.phase + box.phase_size)
        free = numbers[rows, columns] == 0
        probable = free if one.anomaly_map is None else free & (one.anomaly_map[rows, columns] >= _INSIDE)
        inside = probable if probable.any() else free
        numbers[rows, columns][inside] = number
    return numbers


def segmentations(study: Study, stacks: Sequence[Sequence[Frame]]) -> list[Dataset]:
    """An object for each stack in which something was found, each finding a segment."""
    made = (_segmentation(study, number, stack) for number, stack in enumerate(stacks, start=1))
    return [data for data in made if data is not None]


def _segmentation(study: Study, instance: int, stack: Sequence[Frame]) -> Dataset | None:
    # An enhanced image is a source as a whole; of the others only those where something is.
    frames = [frame for frame in stack if frame.slice.findings or frame.number is not None]
    if not any(frame.slice.findings for frame in frames):
        return None
    labels = np.zeros(
        (len(frames), *study.orientation(frames[0].slice).turn(frames[0].slice.levels).shape), dtype=np.uint16
    )
    descriptions: list[Any] = []
    for place, frame in enumerate(frames):
        masks = study.orientation(frame.slice).turn(finding_masks(frame.slice))
        labels[place][masks > 0] = masks[masks > 0] + len(descriptions)
        for index, box in enumerate(frame.slice.findings):
            descriptions.append(_segment(study, len(descriptions) + 1, index, box, frame.slice))
    objects = {str(frame.image.SOPInstanceUID): frame.image for frame in frames}
    what = frames[0].image.SOPClassUID
    data = hd.seg.Segmentation(
        source_images=list(objects.values()),
        pixel_array=labels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=study.uid_of("series", "segmentation", what),
        series_number=SEGMENTATION_SERIES,
        sop_instance_uid=study.uid_of("segmentation", what, instance),
        instance_number=instance,
        manufacturer=SOFTWARE,
        manufacturer_model_name="PASS",
        software_versions=f"pass_recon {__version__}",
        device_serial_number="none",
        content_label="FINDINGS",
        content_description=NOTICE[:64],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description="PASS findings",
    )
    return _settled(study, data)


def structured_report(study: Study, frames: Iterable[Frame], segments: Sequence[Dataset]) -> Dataset:
    """A report by TID 1500: the score of each image, and for each finding its region, score and size.

    Parameters
    ----------
    study
        The export.
    frames
        The magnitudes.
    segments
        The findings as SEG, which the report lists as evidence.
    """
    groups: list[Any] = []
    sources: dict[str, Dataset] = {}
    for frame in frames:
        sources[str(frame.image.SOPInstanceUID)] = frame.image
        groups.append(_image_group(study, frame))
        groups += [_finding_group(study, index, box, frame) for index, box in enumerate(frame.slice.findings)]
    images = list(sources.values())
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=study.uid_of("device"), name=SOFTWARE, model_name=f"pass_recon {__version__}"
    )
    context = hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(
            observer_type=codes.DCM.Device, observer_identifying_attributes=device
        )
    )
    content = hd.sr.MeasurementReport(
        observation_context=context,
        procedure_reported=CodedConcept("113091000", "SCT", "Magnetic resonance imaging"),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    data = hd.sr.ComprehensiveSR(
        evidence=[*images, *segments],
        content=content[0],
        series_instance_uid=study.uid_of("series", "report", images[0].SOPClassUID),
        series_number=REPORT_SERIES,
        sop_instance_uid=study.uid_of("report", images[0].SOPClassUID),
        instance_number=1,
        manufacturer=SOFTWARE,
        is_complete=True,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description="PASS measurements",
    )
    return _settled(study, data)


def _settled(study: Study, data: Dataset) -> Dataset:
    """What highdicom draws by chance is made from the scan instead, and what it does not copy is."""
    template = study.dataset(str(data.SOPClassUID), str(data.SOPInstanceUID))
    for keyword in ("PatientIdentityRemoved", "DeidentificationMethod", "LongitudinalTemporalInformationModified"):
        if keyword in template:
            setattr(data, keyword, getattr(template, keyword))
    fresh: dict[str, str] = {}
    for element in data.iterall():
        if element.keyword == "DimensionOrganizationUID":
            element.value = fresh.setdefault(str(element.value), study.uid_of("organisation", str(data.SOPClassUID)))
    return data


def _segment(study: Study, segment: int, index: int, box: Box, one: SliceRecord) -> Any:
    family = codes.DCM.ArtificialIntelligence
    identification = hd.AlgorithmIdentificationSequence(
        name="PASS NetAD",
        version=_model(one),
        family=CodedConcept(family.value, family.scheme_designator, family.meaning),
    )
    return hd.seg.SegmentDescription(
        segment_number=segment,
        segment_label=_label(box),
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=_LESION,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=identification,
        tracking_uid=study.uid_of("finding", one.key, index),
        tracking_id=_name(index, one),
    )


def _image_group(study: Study, frame: Frame) -> Any:
    one, image = frame.slice, frame.image
    frames = None if frame.number is None else [frame.number]
    source = hd.sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID, frames)
    measures = [] if one.score is None else [_measured(_SCORE, one.score, codes.UCUM.NoUnits)]
    count = CodedConcept("FINDINGS", _SCHEME, "Number of findings")
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(study.uid_of("image", one.key), one.name),
        algorithm_id=_algorithm(one),
        finding_type=CodedConcept("IMAGE", _SCHEME, "Whole image"),
        measurements=[*measures, _measured(count, len(one.findings), codes.UCUM.NoUnits)],
        source_images=[source],
    )


def _finding_group(study: Study, index: int, box: Box, frame: Frame) -> Any:
    one, image = frame.slice, frame.image
    frames = None if frame.number is None else [frame.number]
    top, left, height, width = study.orientation(one).place(box, one.levels.shape)
    plane = plane_of(study, one)
    corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height), (left, top)]
    region = hd.sr.ImageRegion(
        graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
        graphic_data=np.array(corners, float),
        source_image=hd.sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID, frames),
    )
    long, short = sorted((height * plane.row_mm, width * plane.column_mm), reverse=True)
    area = float((finding_masks(one) == index + 1).sum()) * plane.row_mm * plane.column_mm
    millimetre, square = codes.UCUM.Millimeter, codes.UCUM.SquareMillimeter
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(study.uid_of("finding", one.key, index), _name(index, one)),
        referenced_region=region,
        finding_type=_LESION,
        algorithm_id=_algorithm(one),
        measurements=[
            _measured(_SCORE, box.score, codes.UCUM.NoUnits),
            _measured(CodedConcept("103339001", "SCT", "Long axis"), long, millimetre),
            _measured(CodedConcept("103340004", "SCT", "Short axis"), short, millimetre),
            _measured(CodedConcept("42798000", "SCT", "Area"), area, square),
        ],
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(name=_PROBABLE, value=_diagnosis(box))],
    )


def _measured(name: CodedConcept, value: float, unit: Any) -> Any:
    return hd.sr.Measurement(name=name, value=round(float(value), 4), unit=unit)


def _algorithm(one: SliceRecord) -> Any:
    return hd.sr.AlgorithmIdentification(name="PASS NetAD", version=_model(one))


def _model(one: SliceRecord) -> str:
    return plain(f"pass_recon {__version__}, {one.method or 'unknown bundle'}")


def _label(box: Box) -> str:
    return plain(box.label) or "anomaly"


def _diagnosis(box: Box) -> CodedConcept:
    letters = "".join(letter for letter in _label(box).upper() if letter.isascii() and letter.isalnum())
    return CodedConcept((letters or "ANOMALY")[:16], _SCHEME, _label(box))


def _name(index: int, one: SliceRecord) -> str:
    return f"{one.name}, finding {index + 1}"[:64]
