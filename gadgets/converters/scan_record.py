"""The file of a scan's images → the plain records of which reports and DICOM are made."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ismrmrd import Image
from numpy.typing import NDArray

from gadgets import mrd
from gadgets.converters.image_file import HEADER, PROVENANCE, read_images
from gadgets.converters.patient_file import read_truth
from gadgets.converters.plain_texts import with_plain_texts
from gadgets.mrd import finite_number, listed
from gadgets.mrd.header import recognised
from gadgets.mrd.header_xml import plain_xml, read_header
from pass_recon.common.hdf5 import open_hdf5
from pass_recon.report.scan import (
    Geometry,
    PlanRecord,
    Protocol,
    RoundRecord,
    ScanRecord,
    SliceRecord,
    Subject,
)
from pass_recon.sampling.budget import acs_count, acs_fraction, acs_range
from pass_recon.types import Box, InputError

Key = tuple[int, int, int, int, int]
_COUNTERS = ("slice", "contrast", "phase", "repetition", "set")
_SECONDS = "PASS_seconds_"
_STAGES = {"reconstruction": "solve for the image", "detection": "look at the image", "guard": "check the network"}


def read_scan(
    path: str | Path, *, group: str = "", scan: str | Path | None = None, truth: str | Path | None = None
) -> ScanRecord:
    """Read what `pass-recon scan`, `recon` or the stock client stored.

    Parameters
    ----------
    path
        The file of the images.
    group
        Its group; by default the last one by name, as groups are named by their time.
    scan
        The file of the scan, for the MRD header where the images' file has none.
    truth
        A simulated patient, to compare the images with.

    Raises
    ------
    InputError
        If it is no such file, or it holds no magnitude images of this chain.
    """
    path = Path(path)
    group, header, provenance = _group_of(path, group.strip("/"))
    series = (mrd.RECONSTRUCTION_SERIES, mrd.MAP_SERIES, mrd.PLAN_SERIES)
    images = [image for number in series for image in _readable(path, group, number)]
    if scan is not None and not header:
        header = _header_of_scan(scan)
    try:
        found = scan_of_images(images, header)
    except InputError as error:
        raise InputError(f"{path}:/{group}: {error}") from error
    if truth is not None:
        found = replace(found, slices=tuple(_with_truth(found.slices, truth)))
    messages = tuple(str(message) for message in provenance.get("messages", ()))
    return with_plain_texts(replace(found, source=_source(path, group, provenance), messages=messages))


def scan_of_images(images: Iterable[Image], header: bytes) -> ScanRecord:
    """The record of a scan of which these images came, in any order.

    Parameters
    ----------
    images
        Magnitudes, maps and plans; others are left out.
    header
        MRD header of the scan, empty if there is none.

    Raises
    ------
    InputError
        If no magnitude is among them, or what an image says makes no sense.
    """
    by_series: dict[int, list[Image]] = {}
    for image in images:
        by_series.setdefault(int(image.image_series_index), []).append(image)
    magnitudes = _by_key(by_series.get(mrd.RECONSTRUCTION_SERIES, ()))
    if not magnitudes:
        raise InputError(f"there are no magnitude images of this chain (series {mrd.RECONSTRUCTION_SERIES})")
    maps = {key: of_key[-1] for key, of_key in _by_key(by_series.get(mrd.MAP_SERIES, ())).items()}
    plans = _by_key(by_series.get(mrd.PLAN_SERIES, ()))
    slices = []
    for key, of_key in sorted(magnitudes.items()):
        try:
            slices.append(_slice(key, of_key, maps.get(key), plans.get(key, [])))
        except (ValueError, TypeError, LookupError) as error:
            raise InputError(f"what slice {key[0]} says makes no sense: {error}") from error
    protocol, subject = _from_header(header) if header else (None, Subject())
    reason = next((mrd.bundle_of(of_key[-1]) for of_key in magnitudes.values()), "")
    return with_plain_texts(ScanRecord(tuple(slices), protocol, subject, header, reason=reason))


def _group_of(path: Path, group: str) -> tuple[str, bytes, Mapping[str, Any]]:
    """The name of the group to read, its MRD header, and where the images come from."""
    with open_hdf5(path, "a file of images") as file:
        holding = sorted(name for name, member in file.items() if _holds_images(member))
        if not group and not holding:
            hint = "; reconstruct it first, with pass-recon recon" if "dataset/data" in file else ""
            raise InputError(f"{path} holds no images{hint}")
        group = group or holding[-1]
        member = file.get(group)
        if not _holds_images(member):
            raise InputError(f"{path} has no images in a group {group!r}; it has {', '.join(holding) or 'none'}")
        try:
            text = member.attrs.get(HEADER, "")
            header = plain_xml(text.encode(errors="surrogateescape") if isinstance(text, str) else bytes(text))
            provenance = json.loads(member.attrs.get(PROVENANCE, "{}"))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"what {path}:/{group} says of its images cannot be read: {error}") from error
    return group, header, provenance if isinstance(provenance, dict) else {}


def _holds_images(member: Any) -> bool:
    return isinstance(member, h5py.Group) and any(name.startswith("image_") for name in member)


def _readable(path: Path, group: str, series: int) -> list[Image]:
    try:
        return read_images(path, group, series)
    except (OSError, ValueError, KeyError, LookupError, TypeError) as error:
        raise InputError(f"series {series} of {path}:/{group} cannot be read: {error}") from error


def _header_of_scan(path: str | Path) -> bytes:
    from gadgets.mrd.scan_file import ScanFile

    with ScanFile(path) as source:
        return source.header_xml


def _by_key(images: Iterable[Image]) -> dict[Key, list[Image]]:
    """Images of each slice, in the order of their rounds."""
    found: dict[Key, list[Image]] = {}
    for image in images:
        slice_, contrast, phase, repetition, set_ = (int(getattr(image, name)) for name in _COUNTERS)
        found.setdefault((slice_, contrast, phase, repetition, set_), []).append(image)
    return {key: sorted(images, key=_round_of) for key, images in found.items()}


def _round_of(image: Image) -> int:
    return int(finite_number(image.meta.get("PASS_round")) or 1)


def _slice(key: Key, images: Sequence[Image], anomaly_map: Image | None, plans: Sequence[Image]) -> SliceRecord:
    image = images[-1]  # of the last round
    meta, levels = image.meta, _levels(image)
    seen = None
    if anomaly_map is not None and tuple(anomaly_map.data.shape) == tuple(image.data.shape):
        scale = finite_number(anomaly_map.meta.get("PASS_scale")) or 4095
        seen = np.nan_to_num(mrd.array_of(anomaly_map) / scale).astype(np.float32)
    history = listed(meta.get("ImageProcessingHistory"))
    return SliceRecord(
        key=key,
        levels=levels,
        scale=finite_number(meta.get("PASS_scale")) or 1.0,
        window=int(finite_number(meta.get("WindowWidth")) or max(int(levels.max()), 1)),
        geometry=_geometry(image),
        method=history[-1] if history else "",
        anomaly_map=seen,
        findings=tuple(_inside(mrd.boxes_of(image), levels.shape)),
        score=finite_number(meta.get("PASS_anomaly_score")),
        plans=tuple(_plan(plan) for plan in plans),
        rounds=tuple(_round(one) for one in images),
        warnings=tuple(_warnings(meta)),
        seconds=_latencies(_seconds(plans[0].meta) if plans else {}, _seconds(meta)),
    )


def _inside(boxes: Iterable[Box], shape: tuple[int, ...]) -> Iterator[Box]:
    """What of the boxes lies in an image ``(ro, pe)``, with scores from 0 to 1: files of others may say anything."""
    for box in boxes:
        readout, phase = max(box.readout, 0), max(box.phase, 0)
        sizes = (
            min(box.readout + box.readout_size, shape[0]) - readout,
            min(box.phase + box.phase_size, shape[1]) - phase,
        )
        if min(sizes) > 0:
            score = min(max(finite_number(box.score) or 0.0, 0.0), 1.0)
            yield Box(readout, phase, *sizes, score=score, label=box.label)


def _levels(image: Image) -> NDArray[np.uint16]:
    """Whole numbers, whatever the type of the image stored."""
    array = np.abs(mrd.array_of(image))
    if array.ndim != 2:
        raise ValueError(f"its image has {array.ndim} axes")
    if array.dtype == np.uint16:
        return array
    peak = float(array.max(initial=0.0)) or 1.0
    return np.rint(np.nan_to_num(array) * (4095 / peak)).astype(np.uint16)


def _geometry(image: Image) -> Geometry:
    head = image.getHead()
    read, phase = (np.array(list(getattr(head, name)), float) for name in ("read_dir", "phase_dir"))
    normal = np.array(list(head.slice_dir), float)
    if not normal.any():
        normal = np.cross(read, phase)

    def vector(values: Any) -> tuple[float, float, float]:
        x, y, z = (float(value) for value in values)
        return x, y, z

    return Geometry(vector(head.position), vector(read), vector(phase), vector(normal), vector(head.field_of_view))


def _plan(image: Image) -> PlanRecord:
    meta = image.meta
    pe = int(image.data.size)
    lines = tuple(int(line) for line in listed(meta.get("PASS_lines")) if str(line).isdigit())
    lines = lines or tuple(int(line) for line in image.data.ravel().nonzero()[0])
    acceleration = finite_number(meta.get("PASS_acceleration"))
    number = _round_of(image)
    acs = range(0)
    if acceleration and number == 1:  # later rounds only add lines
        acs = acs_range(pe, acs_count(pe, acs_fraction(acceleration)))
    return PlanRecord(
        round=number,
        lines=lines,
        pe=pe,
        acs=acs,
        source=str(meta.get("PASS_source") or ""),
        bundle=str(meta.get("PASS_bundle") or ""),
        acceleration=acceleration,
        score=finite_number(meta.get("PASS_anomaly_score")),
        fallback=" ".join(listed(meta.get("PASS_fallback"))),
    )


def _round(image: Image) -> RoundRecord:
    meta = image.meta
    lines, score = str(meta.get("PASS_lines_used") or ""), finite_number(meta.get("PASS_anomaly_score"))
    return RoundRecord(_round_of(image), lines, score, len(mrd.boxes_of(image)))


def _warnings(meta: Mapping[str, Any]) -> Iterable[str]:
    """What to know before trusting an image."""
    for reason in listed(meta.get("PASS_fallback")):
        yield f"This image is not the one that was asked for: {reason}."
    words, reasons = listed(meta.get("PASS_quality")), listed(meta.get("PASS_quality_reason"))
    for word, reason in zip(words, [*reasons, *words[len(reasons) :]], strict=False):
        yield f"Something is wrong with the data or the image ({word.replace('_', ' ')}): {reason}."
    if (told := str(meta.get("PASS_anomaly") or "")).startswith("unreliable"):
        yield f"The anomaly map, its score and the findings are {told}."
    elif told:
        yield f"No anomaly map: {told}."
    if (share := finite_number(meta.get("PASS_partial_fourier"))) is not None:
        yield f"Partial Fourier: {share:.1%} of k-space was acquired, the rest is zero."


def _seconds(meta: Mapping[str, Any]) -> dict[str, float]:
    found = {
        name.removeprefix(_SECONDS): finite_number(value) for name, value in meta.items() if name.startswith(_SECONDS)
    }
    return {name: value for name, value in found.items() if value is not None and value >= 0}


def _latencies(plan: Mapping[str, float], image: Mapping[str, float]) -> dict[str, float]:
    """Stages in words, in their order: first those of the first plan, which a scanner waits for."""
    told: dict[str, float] = {}
    if "plan" in plan:
        looking = min(plan.get("detection", 0.0), plan["plan"])  # is counted in the plan's time
        told = {"look at the ACS": looking, "choose the lines": plan["plan"] - looking}
    return told | {_STAGES.get(name, name.replace("_", " ")): value for name, value in image.items()}


def _with_truth(slices: Sequence[SliceRecord], path: str | Path) -> list[SliceRecord]:
    """The slices with the truth in their levels: one factor for the scan, as whitened data have a unit of their own."""
    known = read_truth(path)
    truths: dict[int, NDArray[np.float32]] = {
        number: np.abs(known.image[one.key[0]])
        for number, one in enumerate(slices)
        if one.key[0] < len(known.image) and known.image[one.key[0]].shape == one.levels.shape
    }
    if not truths:
        shapes = f"{known.image.shape[1]} by {known.image.shape[2]}", " by ".join(map(str, slices[0].levels.shape))
        raise InputError(f"the truth in {path} is of {shapes[0]} pixels and the images are of {shapes[1]}")
    images = {number: slices[number].levels / slices[number].scale for number in truths}
    across = sum(float((truths[number] * images[number]).sum()) for number in truths)
    factor = across / (sum(float((truths[number] ** 2).sum()) for number in truths) or 1.0)

    def with_truth(number: int, one: SliceRecord) -> SliceRecord:
        if number not in truths:
            return one
        truth = (truths[number] * (factor * one.scale)).astype(np.float32)
        lesions: tuple[Box, ...] = known.boxes[one.key[0]]
        return replace(one, truth=truth, lesions=lesions)

    return [with_truth(number, one) for number, one in enumerate(slices)]


def _source(path: Path, group: str, provenance: Mapping[str, Any]) -> dict[str, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
    told = {"file": path.name, "group": group, "SHA-256 of the file": digest}
    if provenance.get("source"):
        told["scan"] = str(provenance["source"])
    if provenance.get("software"):
        told["reconstructed by"] = str(provenance["software"])
    configuration = provenance.get("configuration")
    if isinstance(configuration, dict):
        told |= {f"property {name}": str(value) for name, value in configuration.items()}
    return told


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()


def _from_header(document: bytes) -> tuple[Protocol, Subject]:
    """How the scan was acquired, and of whom."""
    header: Any = read_header(document)
    system, sequence = header.acquisitionSystemInformation, header.sequenceParameters
    measurement, study, subject = header.measurementInformation, header.studyInformation, header.subjectInformation
    conditions = header.experimentalConditions

    def first(values: Any) -> float | None:
        return next((number for value in values or () if (number := finite_number(value)) is not None), None)

    protocol = Protocol(
        name=_text(measurement, "protocolName") or _text(measurement, "seriesDescription"),
        vendor=_text(system, "systemVendor"),
        model=_text(system, "systemModel"),
        field_strength_t=finite_number(getattr(system, "systemFieldStrength_T", None)),
        frequency_hz=finite_number(getattr(conditions, "H1resonanceFrequency_Hz", None)),
        coils=getattr(system, "receiverChannels", None),
        patient_position=_text(measurement, "patientPosition"),
        examination=recognised(document).examination,
        repetition_time=first(getattr(sequence, "TR", ())),
        echo_times=tuple(time for value in getattr(sequence, "TE", ()) if (time := finite_number(value)) is not None),
        inversion_time=first(getattr(sequence, "TI", ())),
        flip_angle=first(getattr(sequence, "flipAngle_deg", ())),
        echo_spacing=first(getattr(sequence, "echo_spacing", ())),
    )
    return protocol, Subject(
        name=_text(subject, "patientName"),
        identifier=_text(subject, "patientID"),
        birth_date=_digits(_text(subject, "patientBirthdate"), 8),
        sex=_text(subject, "patientGender"),
        weight_kg=finite_number(getattr(subject, "patientWeight_kg", None)),
        study_date=_digits(_text(study, "studyDate") or _text(measurement, "seriesDate"), 8),
        study_time=_digits(_text(study, "studyTime") or _text(measurement, "seriesTime"), 6),
        study_id=_text(study, "studyID"),
        study_description=_text(study, "studyDescription"),
        study_uid=_text(study, "studyInstanceUID"),
        frame_of_reference_uid=_text(measurement, "frameOfReferenceUID"),
        accession_number=_text(study, "accessionNumber"),
        referring_physician=_text(study, "referringPhysicianName"),
        institution=_text(system, "institutionName"),
        station=_text(system, "stationName"),
    )


def _text(of: Any, name: str) -> str:
    value = getattr(of, name, None)
    return "" if value is None else str(getattr(value, "value", value)).strip()


def _digits(text: str, count: int) -> str:
    """Date or time as DICOM writes it: ``20250131``, ``235959``; empty where there are fewer digits."""
    digits = re.sub(r"\D", "", text)[:count]
    return digits if len(digits) == count else ""
