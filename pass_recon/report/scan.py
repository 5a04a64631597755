"""A finished scan as plain records, for the report and for DICOM: what was seen, with which lines, by what.

Whoever reads files of a kind makes these records of them; what is drawn from them knows no file format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass_recon.report.orientation import Orientation, radiological
from pass_recon.types import Box

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Geometry:
    """Where a slice lies, in DICOM's patient coordinates: mm to the left, back and head.

    Attributes
    ----------
    centre
        Of pixel ``(ro // 2, pe // 2)``.
    read_direction, phase_direction, slice_direction
        Unit vectors along which the indices grow; zeros where the header does not tell.
    field_of_view_mm
        Along readout, phase encoding and slice.
    """

    centre: Vector
    read_direction: Vector
    phase_direction: Vector
    slice_direction: Vector
    field_of_view_mm: Vector

    @property
    def orientation(self) -> Orientation:
        """How radiologists hang it."""
        return radiological(self.read_direction, self.phase_direction)

    def pixel_mm(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """Size of a pixel of an image ``(ro, pe)`` of this shape, along readout and phase encoding."""
        return self.field_of_view_mm[0] / shape[0], self.field_of_view_mm[1] / shape[1]

    def place(self, readout: float, phase: float, shape: tuple[int, ...]) -> Vector:
        """The patient coordinates of a pixel's centre."""
        read_mm, phase_mm = self.pixel_mm(shape)
        steps = (readout - shape[0] // 2) * read_mm, (phase - shape[1] // 2) * phase_mm
        found = np.array(self.centre) + steps[0] * np.array(self.read_direction)
        x, y, z = found + steps[1] * np.array(self.phase_direction)
        return float(x), float(y), float(z)


@dataclass(frozen=True)
class PlanRecord:
    """The lines that one round asked for.

    Attributes
    ----------
    round
        From 1; of the second round only what it added.
    lines
        Indices in the order of acquisition.
    pe
        Lines of the full grid.
    acs
        The ACS lines.
    source, bundle
        Where the plan came from.
    acceleration
        Nominal.
    score
        Of the image that the plan was made from; None where no detector ran.
    fallback
        Why it is not the plan that was asked for.
    """

    round: int
    lines: tuple[int, ...]
    pe: int
    acs: range
    source: str = ""
    bundle: str = ""
    acceleration: float | None = None
    score: float | None = None
    fallback: str = ""


@dataclass(frozen=True)
class RoundRecord:
    """The image of one round, in words: lines used, score, number of findings."""

    round: int
    lines_used: str
    score: float | None
    findings: int


@dataclass(frozen=True)
class SliceRecord:
    """One slice: its image of the last round, and how it came about.

    Attributes
    ----------
    key
        (slice, contrast, phase, repetition, set).
    levels
        ``(ro, pe)`` uint16 magnitude.
    scale
        Levels per unit of the reconstruction.
    window
        Level that is shown white.
    geometry
        Where it lies.
    method
        What made the image: the name of a bundle, or CG-SENSE.
    anomaly_map
        ``(ro, pe)`` in 0 to 1; None where no detector ran.
    findings
        Boxes with labels and scores.
    score
        Probability of an anomaly in the image.
    plans, rounds
        First round first.
    warnings
        What to know before trusting the image, in plain words.
    seconds
        Latency of each stage.
    truth, lesions
        ``(ro, pe)`` in levels, and the known lesions, where the truth is known.
    """

    key: tuple[int, int, int, int, int]
    levels: NDArray[np.uint16]
    scale: float
    window: int
    geometry: Geometry
    method: str = ""
    anomaly_map: NDArray[np.float32] | None = None
    findings: tuple[Box, ...] = ()
    score: float | None = None
    plans: tuple[PlanRecord, ...] = ()
    rounds: tuple[RoundRecord, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    truth: NDArray[np.float32] | None = None
    lesions: tuple[Box, ...] = ()

    @property
    def name(self) -> str:
        """The slice, and whichever other counter is not 0."""
        counters = zip(("contrast", "phase", "repetition", "set"), self.key[1:], strict=True)
        return ", ".join([f"slice {self.key[0]}", *(f"{word} {value}" for word, value in counters if value)])


@dataclass(frozen=True)
class Subject:
    """Who and when, as the header tells; empty by default, and nothing that the report shows."""

    name: str = ""
    identifier: str = ""
    birth_date: str = ""
    sex: str = ""
    weight_kg: float | None = None
    study_date: str = ""
    study_time: str = ""
    study_id: str = ""
    study_description: str = ""
    study_uid: str = ""
    frame_of_reference_uid: str = ""
    accession_number: str = ""
    referring_physician: str = ""
    institution: str = ""
    station: str = ""


@dataclass(frozen=True)
class Protocol:
    """How the scan was acquired, as far as the header tells; times in ms, angles in degrees."""

    name: str = ""
    vendor: str = ""
    model: str = ""
    field_strength_t: float | None = None
    frequency_hz: float | None = None
    coils: int | None = None
    patient_position: str = ""
    examination: str = ""
    repetition_time: float | None = None
    echo_times: tuple[float, ...] = ()
    inversion_time: float | None = None
    flip_angle: float | None = None
    echo_spacing: float | None = None


@dataclass(frozen=True)
class ScanRecord:
    """A scan.

    Attributes
    ----------
    slices
        In the order of their keys, at least one.
    protocol, subject
        Of the header; None where the file has none.
    header
        The MRD header as it is, empty where the file has none; identifiers are made from it.
    source
        The file, and what else is known of where the images come from, as pairs of words.
    messages
        What was said while the scan was reconstructed.
    bundles
        Cards of the bundles that are at hand, by name.
    reason
        Why the scan got its bundle.
    """

    slices: tuple[SliceRecord, ...]
    protocol: Protocol | None = None
    subject: Subject = field(default_factory=Subject)
    header: bytes = b""
    source: Mapping[str, str] = field(default_factory=dict)
    messages: tuple[str, ...] = ()
    bundles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reason: str = ""

    @property
    def title(self) -> str:
        """The protocol, or that it has no name."""
        return (self.protocol.name if self.protocol else "") or "Unnamed scan"
