"""The magnitude as MR images: one object a slice (MR Image Storage), or all in one (Enhanced MR Image Storage)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.valuerep import DSfloat

from pass_recon import __version__
from pass_recon.report.dicom.study import NOTICE, Study, axes, code, number, plain
from pass_recon.report.scan import Protocol, SliceRecord

MR_IMAGE, ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
SERIES = 1
_CONTRASTS = {"t1": "T1", "t2": "T2", "pd": "PROTON_DENSITY", "flair": "FLUID_ATTENUATED"}
_POSITIONS = ("HFP", "HFS", "HFDR", "HFDL", "FFDR", "FFDL", "FFP", "FFS")


class Frame(NamedTuple):
    """A slice, the object that holds its magnitude, and in an enhanced one the number of the frame, from 1."""

    slice: SliceRecord
    image: Dataset
    number: int | None = None


def classic_images(study: Study) -> list[list[Frame]]:
    """An MR image of each slice, stack by stack."""
    instances = count(1)
    return [[Frame(one, _classic(study, next(instances), one)) for one in stack] for stack in _stacks(study)]


def enhanced_images(study: Study) -> list[list[Frame]]:
    """An enhanced MR image of each stack."""
    stacks = []
    for instance, slices in enumerate(_stacks(study), start=1):
        image = _enhanced(study, instance, slices)
        stacks.append([Frame(one, image, frame) for frame, one in enumerate(slices, start=1)])
    return stacks


def _stacks(study: Study) -> list[list[SliceRecord]]:
    """Slices that can share an object: of one matrix, orientation, contrast and time, each at a place of its own."""
    stacks: dict[object, list[SliceRecord]] = {}
    taken: Counter[object] = Counter()
    for one in study.scan.slices:
        directions = np.round(axes(one.geometry.read_direction, one.geometry.phase_direction), 4)
        like = (one.levels.shape, one.geometry.field_of_view_mm, directions.tobytes(), one.key[1:])
        place = (like, tuple(np.round(one.geometry.centre, 3)))
        stacks.setdefault((like, taken[place]), []).append(one)
        taken[place] += 1
    return list(stacks.values())


def derivation(one: SliceRecord) -> str:
    """How the image came about, in a sentence."""
    lines = one.rounds[-1].lines_used if one.rounds else ""
    told = f"Reconstructed by pass_recon {__version__}"
    if one.method:
        told += f" with {one.method}"
    if lines:
        told += f" from {lines} phase-encoding lines"
    if one.plans and one.plans[0].acceleration:
        told += f", {one.plans[0].acceleration:g}x accelerated, {one.plans[0].source or 'unknown'} plan"
    return plain(f"{told}. {NOTICE}.", 1024)


def comments(one: SliceRecord) -> str:
    """What a viewer is to show with the image: score and warnings."""
    told = [NOTICE]
    if one.score is not None:
        told.append(f"anomaly score {one.score:.2f}")
    return plain(". ".join([*told, *(text.rstrip(".") for text in one.warnings)]), 10240)


@dataclass(frozen=True)
class Plane:
    """Where the picture of a slice lies: what DICOM's image plane says.

    Attributes
    ----------
    position
        Centre of the first pixel, in mm.
    along_row, along_column
        Directions in which columns and rows follow each other.
    row_mm, column_mm
        Distance of rows and of columns; 1 where the header tells none.
    """

    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    row_mm: float
    column_mm: float

    @property
    def orientation(self) -> list[DSfloat]:
        """As DICOM writes it."""
        return [number(value) for value in (*self.along_row, *self.along_column)]

    @property
    def normal(self) -> np.ndarray:
        """The direction that DICOM takes for the slices'."""
        return np.cross(self.along_row, self.along_column)


def plane_of(study: Study, one: SliceRecord) -> Plane:
    """The plane of a slice's picture; pixel n // 2 of the image lies at the slice's centre."""
    hung = study.orientation(one)
    steps = [mm if mm > 0 else 1.0 for mm in one.geometry.pixel_mm(one.levels.shape)]
    directions = list(axes(one.geometry.read_direction, one.geometry.phase_direction))
    lengths = list(one.levels.shape)
    mirrored = [hung.rows_reversed, hung.columns_reversed]
    if hung.transposed:
        steps, directions, lengths = steps[::-1], directions[::-1], lengths[::-1]
    position = np.array(one.geometry.centre, float)
    for axis in (0, 1):
        first = lengths[axis] - 1 if mirrored[axis] else 0
        position = position + (first - lengths[axis] // 2) * steps[axis] * directions[axis]
    down, right = (-way if turned else way for way, turned in zip(directions, mirrored, strict=True))
    return Plane(position, right, down, steps[0], steps[1])


def _series(study: Study, data: Dataset, one: SliceRecord) -> None:
    """Series, frame of reference and pixels, in both kinds of images."""
    protocol = study.scan.protocol or Protocol()
    data.Modality = "MR"
    data.SeriesInstanceUID = study.uid_of("series", data.SOPClassUID)
    data.SeriesNumber, data.SeriesDescription = SERIES, "PASS magnitude"
    data.SeriesDate = data.SeriesTime = ""
    if protocol.name:
        data.ProtocolName = plain(protocol.name)
    data.PatientPosition = protocol.patient_position if protocol.patient_position in _POSITIONS else ""
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = study.frame_of_reference, ""
    data.ImageComments = comments(one)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = study.orientation(one).turn(one.levels).shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.BurnedInAnnotation, data.LossyImageCompression, data.PresentationLUTShape = "NO", "00", "IDENTITY"


def _pixels(study: Study, one: SliceRecord) -> bytes:
    return np.ascontiguousarray(study.orientation(one).turn(one.levels).astype("<u2")).tobytes()


def _classic(study: Study, instance: int, one: SliceRecord) -> Dataset:
    protocol = study.scan.protocol or Protocol()
    data = study.dataset(MR_IMAGE, study.uid_of("magnitude", *one.key))
    _series(study, data, one)
    data.ImageType = ["DERIVED", "PRIMARY", "OTHER"]
    data.DerivationDescription = derivation(one)
    data.InstanceNumber, data.AcquisitionNumber = instance, 1
    if study.may_be_paired:
        data.Laterality = ""  # the header tells no side
    if study.body_part[0]:
        data.BodyPartExamined = study.body_part[0]
    _acquisition(study, data, protocol, one)
    plane = plane_of(study, one)
    data.ImagePositionPatient = [number(value) for value in plane.position]
    data.ImageOrientationPatient = plane.orientation
    data.SliceLocation = number(float(plane.position @ plane.normal))
    data.PixelSpacing = [number(plane.row_mm), number(plane.column_mm)]
    data.SliceThickness = number(one.geometry.field_of_view_mm[2])
    gap = _spacing_between(study.scan.slices, one)
    if gap:
        data.SpacingBetweenSlices = number(gap)
    data.WindowCenter, data.WindowWidth = number(one.window / 2), number(max(one.window, 1))
    data.SmallestImagePixelValue, data.LargestImagePixelValue = int(one.levels.min()), int(one.levels.max())
    data["SmallestImagePixelValue"].VR = data["LargestImagePixelValue"].VR = "US"
    data.PixelData = _pixels(study, one)
    data["PixelData"].VR = "OW"
    return data


def _acquisition(study: Study, data: Dataset, protocol: Protocol, one: SliceRecord) -> None:
    data.ScanningSequence, data.SequenceVariant, data.ScanOptions = "RM", "NONE", ""
    data.MRAcquisitionType, data.EchoTrainLength = "2D", None
    data.RepetitionTime = None if protocol.repetition_time is None else number(protocol.repetition_time)
    times = protocol.echo_times
    echo = times[min(one.key[1], len(times) - 1)] if times else None
    data.EchoTime = None if echo is None else number(echo)
    data.EchoNumbers = one.key[1] + 1
    if one.key[3]:
        data.TemporalPositionIdentifier = one.key[3] + 1
    for name, value in (
        ("InversionTime", protocol.inversion_time),
        ("FlipAngle", protocol.flip_angle),
        ("MagneticFieldStrength", protocol.field_strength_t),
        ("ImagingFrequency", None if protocol.frequency_hz is None else protocol.frequency_hz / 1e6),
    ):
        if value is not None:
            setattr(data, name, number(value))
    data.ImagedNucleus = "1H"
    transposed = study.orientation(one).transposed
    data.InPlanePhaseEncodingDirection = "COL" if transposed else "ROW"
    if one.plans:
        data.NumberOfPhaseEncodingSteps = len({line for plan in one.plans for line in plan.lines})
        readout, lines = one.levels.shape[0], one.plans[0].pe
        data.AcquisitionMatrix = [0, readout, lines, 0] if transposed else [readout, 0, 0, lines]


def _spacing_between(slices: Sequence[SliceRecord], one: SliceRecord) -> float:
    """Distance of a slice from its neighbours along its normal, in mm; 0 where it has none."""
    normal = np.cross(*axes(one.geometry.read_direction, one.geometry.phase_direction))
    places = {round(float(np.array(other.geometry.centre) @ normal), 4) for other in slices}
    own = float(np.array(one.geometry.centre) @ normal)
    distances = [abs(place - own) for place in places if abs(place - own) > 1e-3]
    return round(min(distances), 4) if distances else 0.0


def _enhanced(study: Study, instance: int, slices: Sequence[SliceRecord]) -> Dataset:
    first = slices[0]
    data = study.dataset(ENHANCED_MR_IMAGE, study.uid_of("enhanced magnitude", instance))
    _series(study, data, first)
    data.DeviceSerialNumber = "unknown"
    data.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    data.InstanceNumber, data.NumberOfFrames = instance, len(slices)
    data.ContentDate, data.ContentTime = "19000101", "000000"  # of type 1, and nothing tells when
    data.PixelPresentation, data.VolumetricProperties = "MONOCHROME", "VOLUME"
    data.VolumeBasedCalculationTechnique, data.ComplexImageComponent = "NONE", "MAGNITUDE"
    examined = study.scan.protocol.examination if study.scan.protocol else ""
    data.AcquisitionContrast = _CONTRASTS.get(examined.rpartition("-")[2], "UNKNOWN")
    data.ContentQualification = "RESEARCH"
    data.ApplicableSafetyStandardAgency = "IEC"
    data.DerivationDescription = derivation(first)
    data.AcquisitionContextSequence = DicomSequence([])
    _dimensions(study, data)
    data.SharedFunctionalGroupsSequence = DicomSequence([_shared(study, first, slices)])
    order = _stack_positions(slices)
    data.PerFrameFunctionalGroupsSequence = DicomSequence(
        [_frame(study, one, position) for one, position in zip(slices, order, strict=True)]
    )
    data.PixelData = b"".join(_pixels(study, one) for one in slices)
    data["PixelData"].VR = "OW"
    return data


def _dimensions(study: Study, data: Dataset) -> None:
    organisation = Dataset()
    organisation.DimensionOrganizationUID = study.uid_of("dimensions")
    data.DimensionOrganizationSequence = DicomSequence([organisation])
    indices = []
    for pointer in (0x00209056, 0x00209057, 0x00209128):  # stack, position in it, temporal position
        index = Dataset()
        index.DimensionOrganizationUID = organisation.DimensionOrganizationUID
        index.DimensionIndexPointer, index.FunctionalGroupPointer = pointer, 0x00209111
        indices.append(index)
    data.DimensionIndexSequence = DicomSequence(indices)


def _shared(study: Study, one: SliceRecord, slices: Sequence[SliceRecord]) -> Dataset:
    shared, measures, orientation, kind, anatomy, transformation = (Dataset() for _ in range(6))
    plane = plane_of(study, one)
    measures.PixelSpacing = [number(plane.row_mm), number(plane.column_mm)]
    measures.SliceThickness = number(one.geometry.field_of_view_mm[2])
    gap = _spacing_between(slices, one)
    if gap:
        measures.SpacingBetweenSlices = number(gap)
    kind.FrameType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    kind.PixelPresentation, kind.VolumetricProperties = "MONOCHROME", "VOLUME"
    kind.VolumeBasedCalculationTechnique, kind.ComplexImageComponent = "NONE", "MAGNITUDE"
    examined = study.scan.protocol.examination if study.scan.protocol else ""
    kind.AcquisitionContrast = _CONTRASTS.get(examined.rpartition("-")[2], "UNKNOWN")
    anatomy.AnatomicRegionSequence = DicomSequence([code(study.body_part[1], "SCT", study.body_part[2])])
    anatomy.FrameLaterality = "U"
    transformation.RescaleIntercept, transformation.RescaleSlope, transformation.RescaleType = "0", "1", "US"
    orientation.ImageOrientationPatient = plane.orientation
    shared.PixelMeasuresSequence = DicomSequence([measures])
    shared.PlaneOrientationSequence = DicomSequence([orientation])
    shared.MRImageFrameTypeSequence = DicomSequence([kind])
    shared.FrameAnatomySequence = DicomSequence([anatomy])
    shared.PixelValueTransformationSequence = DicomSequence([transformation])
    return shared


def _frame(study: Study, one: SliceRecord, position: int) -> Dataset:
    frame, content, plane, window = (Dataset() for _ in range(4))
    repetition = one.key[3] + 1
    content.StackID, content.InStackPositionNumber, content.TemporalPositionIndex = "1", position, repetition
    content.DimensionIndexValues = [1, position, repetition]
    content.FrameComments = f"{derivation(one)} {comments(one)}"
    plane.ImagePositionPatient = [number(value) for value in plane_of(study, one).position]
    window.WindowCenter, window.WindowWidth = number(one.window / 2), number(max(one.window, 1))
    frame.FrameContentSequence = DicomSequence([content])
    frame.PlanePositionSequence = DicomSequence([plane])
    frame.FrameVOILUTSequence = DicomSequence([window])
    return frame


def _stack_positions(slices: Sequence[SliceRecord]) -> list[int]:
    """From 1, along the normal of the first slice; the same for slices at one place."""
    normal = np.cross(*axes(slices[0].geometry.read_direction, slices[0].geometry.phase_direction))
    places = [round(float(np.array(one.geometry.centre) @ normal), 3) for one in slices]
    ranks = {place: rank for rank, place in enumerate(sorted(set(places)), start=1)}
    return [ranks[place] for place in places]
