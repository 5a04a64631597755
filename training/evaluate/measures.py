"""What is measured on one slice: every method's image against the truth, plans, and what the detector saw."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pass_recon import __version__
from pass_recon.anomaly.calibration import score_logit
from pass_recon.bundles import Bundle, load_bundle
from pass_recon.metrics import lesion_region, qualities
from pass_recon.types import InputError, PassError
from training.data.case_file import SUFFIX, CaseFile
from training.data.dataset import SliceDataset, Slices
from training.data.painted_blobs import Blobs
from training.evaluate.faint import measured, paint
from training.evaluate.lesion_matching import match_lesions
from training.evaluate.methods import METHODS, PASS, Clock, ScannedSlice, indices
from training.evaluate.selection import EvaluatedBundle, MapSource, SliceEntry, digest

RECORD_VERSION = 3
_DIGITS = 6


@dataclass(frozen=True)
class Job:
    """One slice at one noise level with one bundle.

    Attributes
    ----------
    bundle, published
        The bundles.
    entry
        The slice.
    noise
        σ; None for that of the case.
    methods
        Those that apply.
    maps, regularisation, iterations
        As in `ScannedSlice`.
    lesion_free
        The same slice of the same patient without lesions, where there is one.
    faint
        Whether faint blobs are painted, and looked for.
    threads, device
        How to compute; no part of the key.
    """

    bundle: EvaluatedBundle
    entry: SliceEntry
    noise: float | None
    methods: tuple[str, ...]
    maps: MapSource = "true"
    regularisation: float | None = None
    iterations: int = 100
    published: EvaluatedBundle | None = None
    lesion_free: SliceEntry | None = None
    faint: bool = False
    threads: int = 1
    device: str = "cpu"

    @property
    def key(self) -> str:
        """Made of all that the record depends on, where the files lie left out."""
        entry = {name: value for name, value in asdict(self.entry).items() if name != "folder"}
        uses_l1 = self.regularisation is not None
        return digest(
            [
                RECORD_VERSION,
                __version__,
                self.bundle.label,
                self.bundle.identity,
                entry,
                self.noise,
                self.methods,
                self.maps,
                [self.regularisation, self.iterations] if uses_l1 else None,
                self.published.identity if self.published is not None and "published" in self.methods else None,
                self.lesion_free.fingerprint if self.lesion_free is not None else None,
                self.faint,
            ]
        )


def measure(job: Job) -> Record:
    """The record of a job; where the data or a bundle are at fault, a record that says so under ``failed``."""
    try:
        with computing_threads(job.threads), torch.no_grad():
            return _measured(job)
    except (PassError, OSError) as error:
        return died(job, str(error))


def died(job: Job, reason: str) -> Record:
    """The record of a job of which nothing came."""
    return {**_description(job), "failed": reason}


def images_of(job: Job) -> dict[str, Any] | None:
    """What a figure shows: magnitudes ``(ro, pe)`` of ``truth`` and of each method by name, ``boxes``, ``entry``.

    None where the data or a bundle are at fault.
    """
    try:
        with computing_threads(job.threads), torch.no_grad():
            slices, scanned = _scanned(job)
            images: dict[str, Any] = {name: image for name, image, _ in _attempts(scanned, job.methods)}
    except (PassError, OSError):
        return None
    return {
        **images,
        "truth": _magnitude(slices.image),
        "boxes": slices.boxes,
        "entry": job.entry,
        "bundle": job.bundle.label,
        "noise": job.noise,
    }


def _measured(job: Job) -> Record:
    slices, scanned = _scanned(job)
    truth = _magnitude(slices.image)
    regions = [lesion_region(box, (truth.shape[0], truth.shape[1])) for box in slices.boxes]
    blobs, painted = _painted(job, slices, scanned)
    results: dict[str, Any] = {}
    for name, image, seconds in _attempts(scanned, job.methods):
        whole, *inside = (_rounded(asdict(quality)) for quality in qualities(image, truth, regions))
        results[name] = {
            **whole,
            "inside": inside,
            "plan": METHODS[name].lines,
            "seconds": round(seconds, 4),
        }
        if blobs is not None and painted is not None:
            with_blobs = METHODS[name].image(painted, painted.lines(METHODS[name].lines).lines)
            results[name]["faint"] = measured(_magnitude(with_blobs), image, truth, blobs)
    return {
        **_description(job),
        "label": int(slices.label),
        "lesions": len(regions),
        "size": list(truth.shape),
        "measured_lines": int(scanned.reachable.sum()),
        "plan_lines": min(scanned.budget, int(scanned.reachable.sum())),
        "pixel_mm": [round(size, 4) for size in job.entry.pixel_mm],
        "acs": list(indices(scanned.acs)),
        "methods": results,
        "plans": _plans(job, scanned),
        "detection": _detection(slices, scanned) if PASS in job.methods else {},
        "by_lesion": _by_lesion(job, slices, scanned) if PASS in job.methods else None,
    }


def _painted(job: Job, slices: Slices, scanned: ScannedSlice) -> tuple[Blobs | None, ScannedSlice | None]:
    """The same scan with faint blobs, on the lines that were chosen without them."""
    if not job.faint:
        return None, None
    blobs, added = paint(slices, scanned.seed)
    painted = copy(scanned)
    painted.kspace, painted.reconstructions = scanned.kspace + added, {}
    return blobs, painted


def _by_lesion(job: Job, slices: Slices, scanned: ScannedSlice) -> dict[str, Any] | None:
    """Lesions found and named in the image of PASS; None where there is no detector."""
    netad, made = scanned.pipeline.netad, scanned.reconstructions.get(indices(scanned.plan.lines))
    if netad is None or made is None:
        return None
    with CaseFile(Path(job.entry.folder) / (job.entry.case + SUFFIX)) as case:
        pixel_mm = case.info.pixel_mm
    seen = netad(made.image[None].to(scanned.device))
    return match_lesions(netad, seen, [slices.boxes], pixel_mm=pixel_mm)[0]


def _description(job: Job) -> Record:
    entry = job.entry
    return {
        "key": job.key,
        "bundle": job.bundle.label,
        "dataset": entry.dataset,
        "case": entry.case,
        "slice": entry.index,
        "patient": entry.patient,
        "noise": job.noise,
        "maps": job.maps,
        "l1_weight": job.regularisation,
    }


def _scanned(job: Job, entry: SliceEntry | None = None) -> tuple[Slices, ScannedSlice]:
    slices = read_slice(entry or job.entry).to(job.device)
    published = None
    if job.published is not None and "published" in job.methods:
        published = loaded(job.published, job.device)
    return slices, ScannedSlice(
        slices,
        loaded(job.bundle, job.device),
        noise=job.noise,
        maps=job.maps,
        published=published,
        regularisation=job.regularisation,
        iterations=job.iterations,
    )


def _attempts(scanned: ScannedSlice, methods: tuple[str, ...]) -> Iterator[tuple[str, NDArray, float]]:
    """Name, magnitude ``(ro, pe)`` in the unit of the truth and seconds of each method."""
    made: dict[Any, tuple[Tensor, float]] = {}
    for name in methods:
        method = METHODS[name]
        lines = scanned.lines(method.lines).lines
        alike = method.image, indices(lines)  # where a patient gets the population's lines, say
        if alike not in made:
            clock = Clock(scanned.device)
            with clock.running():
                image = method.image(scanned, lines)
            made[alike] = image, clock.seconds
        image, seconds = made[alike]
        yield name, _magnitude(image), seconds


def _plans(job: Job, scanned: ScannedSlice) -> dict[str, Any]:
    """Indices and seconds of all lines chosen; beside personal ones the population's, and those of the lesion_free."""
    if "personal" in scanned.chosen:
        scanned.lines("population")
    plans = {
        name: {"lines": list(indices(chosen.lines)), "seconds": round(chosen.seconds, 4)}
        for name, chosen in scanned.chosen.items()
    }
    if job.lesion_free is not None and "personal" in plans:
        _, lesion_free = _scanned(job, job.lesion_free)
        plans["lesion_free"] = {"lines": list(indices(lesion_free.lines("personal").lines))}
    return plans


def _detection(slices: Slices, scanned: ScannedSlice) -> dict[str, Any]:
    """What the detector of PASS saw in the ACS image and in the reconstruction; nothing where there is none."""
    made = scanned.reconstructions.get(indices(scanned.plan.lines))
    if made is None or made.anomaly_map is None:
        return {}
    seen = {
        "acs_image": (scanned.plan.score, scanned.plan.anomaly_map),
        "reconstruction": (made.score[0], made.anomaly_map),
    }
    mask = slices.anomaly_mask.cpu()
    return {
        name: {"score": round(float(score), _DIGITS), "pixels": pixel_histograms(anomaly_map, mask)}
        for name, (score, anomaly_map) in seen.items()
        if score is not None and anomaly_map is not None
    }


def read_slice(entry: SliceEntry) -> Slices:
    """The slice of an entry."""
    dataset = SliceDataset(entry.folder, cases=[entry.case])
    try:
        return dataset[dataset.entries.index((entry.case, entry.index))]
    finally:
        dataset.close()


def loaded(bundle: EvaluatedBundle, device: str) -> Bundle:
    """The networks of a bundle."""
    return _bundle(bundle.folder, bundle.identity, device)


@lru_cache(maxsize=2)
def _bundle(folder: str, identity: str, device: str) -> Bundle:
    """Loaded once a process; ``identity`` is there so that a bundle which was replaced is loaded anew."""
    return load_bundle(folder, device=device)


@contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Torch with so many threads, in a ``with`` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _magnitude(image: Tensor) -> NDArray[np.float32]:
    return image.abs().float().cpu().numpy()


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, _DIGITS) for name, value in values.items()}


Record = dict[str, Any]


class RecordFile:
    """Records by their key; each key is made of everything that the record depends on.

    Parameters
    ----------
    path
        The file; a last line that was cut off when its writer died is dropped.

    Raises
    ------
    InputError
        If another line is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[str, Record] = {}
        if path.exists():
            self._read()

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> Record:
        return self._records[key]

    def __len__(self) -> int:
        return len(self._records)

    def append(self, record: Record) -> None:
        """Add a record and write it out."""
        line = json.dumps(record, ensure_ascii=False) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._records[record["key"]] = record

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                record = json.loads(line)
                self._records[record["key"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"line {number} of {self.path} is no record of an evaluation: {error!r}") from error


# Probabilities in logits of −14 to 14: where detectors are sure, steps of the probability itself would be too coarse.
BINS, _LIMIT = 2000, 14.0
PIXEL_GROUPS = ("lesion", "normal")


def pixel_histograms(anomaly_map: Tensor, lesions: Tensor) -> dict[str, Any]:
    """Counts of the map's values in lesion pixels and in all others, by bins of the logit.

    Parameters
    ----------
    anomaly_map
        ``(ro, pe)`` in 0 to 1.
    lesions
        ``(ro, pe)`` bool.
    """
    place = (score_logit(anomaly_map.double()) + _LIMIT) * (BINS / (2 * _LIMIT))
    bins = place.long().clamp(0, BINS - 1)
    groups = dict(zip(PIXEL_GROUPS, (lesions, ~lesions), strict=True))
    return {name: _packed(torch.bincount(bins[mask], minlength=BINS)) for name, mask in groups.items()}


def unpacked(histogram: dict[str, Any]) -> NDArray[np.float64]:
    """Counts ``(bins,)``."""
    counts = np.zeros(BINS)
    counts[histogram["first"] : histogram["first"] + len(histogram["counts"])] = histogram["counts"]
    return counts


def _packed(counts: Tensor) -> dict[str, Any]:
    filled = counts.nonzero().flatten()
    if not len(filled):
        return {"first": 0, "counts": []}
    first, last = int(filled[0]), int(filled[-1])
    return {"first": first, "counts": counts[first : last + 1].tolist()}
