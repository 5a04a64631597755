"""What is measured on one slice: every method's image against the truth, plans, and what the detector saw."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
from training.data.dataset import SliceDataset, Slices
from training.evaluate.methods import METHODS, PASS, Clock, Trial
from training.evaluate.selection import Contender, MapSource, Subject, digest

RECORD_VERSION = 1
_DIGITS = 6


@dataclass(frozen=True)
class Job:
    """One slice at one noise level with one bundle.

    Attributes
    ----------
    contender, published
        The bundles.
    subject
        The slice.
    noise
        σ; None for that of the case.
    methods
        Those that apply.
    maps, regularisation, iterations
        As in `Trial`.
    twin
        The same slice of the same patient without lesions, where there is one.
    threads, device
        How to compute; no part of the key.
    """

    contender: Contender
    subject: Subject
    noise: float | None
    methods: tuple[str, ...]
    maps: MapSource = "true"
    regularisation: float | None = None
    iterations: int = 100
    published: Contender | None = None
    twin: Subject | None = None
    threads: int = 1
    device: str = "cpu"

    @property
    def key(self) -> str:
        """Made of all that the record depends on, where the files lie left out."""
        subject = {name: value for name, value in asdict(self.subject).items() if name != "folder"}
        uses_l1 = self.regularisation is not None
        return digest(
            [
                RECORD_VERSION,
                __version__,
                self.contender.label,
                self.contender.identity,
                subject,
                self.noise,
                self.methods,
                self.maps,
                [self.regularisation, self.iterations] if uses_l1 else None,
                self.published.identity if self.published is not None and "published" in self.methods else None,
                self.twin.fingerprint if self.twin is not None else None,
            ]
        )


def measure(job: Job) -> Record:
    """The record of a job; where the data or a bundle are at fault, a record that says so under ``failed``."""
    try:
        with _threads(job.threads), torch.no_grad():
            return _measured(job)
    except (PassError, OSError) as error:
        return died(job, str(error))


def died(job: Job, reason: str) -> Record:
    """The record of a job of which nothing came."""
    return {**_description(job), "failed": reason}


def images_of(job: Job) -> dict[str, Any] | None:
    """What a figure shows: magnitudes ``(ro, pe)`` of ``truth`` and of each method by name, ``boxes``, ``subject``.

    None where the data or a bundle are at fault.
    """
    try:
        with _threads(job.threads), torch.no_grad():
            slices, trial = _scanned(job)
            images: dict[str, Any] = {name: image for name, image, _ in _attempts(trial, job.methods)}
    except (PassError, OSError):
        return None
    return {
        **images,
        "truth": _magnitude(slices.image),
        "boxes": slices.boxes,
        "subject": job.subject,
        "bundle": job.contender.label,
        "noise": job.noise,
    }


def _measured(job: Job) -> Record:
    slices, trial = _scanned(job)
    truth = _magnitude(slices.image)
    regions = [lesion_region(box, (truth.shape[0], truth.shape[1])) for box in slices.boxes]
    results = {}
    for name, image, seconds in _attempts(trial, job.methods):
        whole, *inside = (_rounded(asdict(quality)) for quality in qualities(image, truth, regions))
        results[name] = {
            **whole,
            "inside": inside,
            "plan": METHODS[name].plan,
            "seconds": round(seconds, 4),
        }
    return {
        **_description(job),
        "label": int(slices.label),
        "lesions": len(regions),
        "size": list(truth.shape),
        "acs": _indices(trial.acs),
        "methods": results,
        "plans": _plans(job, trial),
        "detection": _detection(slices, trial) if PASS in job.methods else {},
    }


def _description(job: Job) -> Record:
    subject = job.subject
    return {
        "key": job.key,
        "bundle": job.contender.label,
        "dataset": subject.dataset,
        "case": subject.case,
        "slice": subject.index,
        "patient": subject.patient,
        "noise": job.noise,
        "maps": job.maps,
        "l1_weight": job.regularisation,
    }


def _scanned(job: Job, subject: Subject | None = None) -> tuple[Slices, Trial]:
    slices = _read(subject or job.subject).to(job.device)
    published = None
    if job.published is not None and "published" in job.methods:
        published = _bundle(job.published.folder, job.published.identity, job.device)
    return slices, Trial(
        slices,
        _bundle(job.contender.folder, job.contender.identity, job.device),
        noise=job.noise,
        maps=job.maps,
        published=published,
        regularisation=job.regularisation,
        iterations=job.iterations,
    )


def _attempts(trial: Trial, methods: tuple[str, ...]) -> Iterator[tuple[str, NDArray, float]]:
    """Name, magnitude in the unit of the truth and seconds of each method."""
    made: dict[Any, tuple[Tensor, float]] = {}
    for name in methods:
        method = METHODS[name]
        lines = trial.plan(method.plan).lines
        alike = method.image, tuple(_indices(lines))  # where a patient gets the population's lines, say
        if alike not in made:
            clock = Clock(trial.device)
            with clock.running():
                image = method.image(trial, lines.to(trial.device))
            made[alike] = image, clock.seconds
        image, seconds = made[alike]
        if name == PASS:
            trial.reconstruction = image
        yield name, _magnitude(image[0] * trial.scale[0].to(image.device)), seconds


def _plans(job: Job, trial: Trial) -> dict[str, Any]:
    """Indices and seconds of every plan that was made; beside a personal one the population's, and the twin's lines."""
    if "personal" in trial.plans:
        trial.plan("population")
    plans = {
        name: {"lines": _indices(plan.lines), "seconds": round(plan.seconds, 4)} for name, plan in trial.plans.items()
    }
    if job.twin is not None and "personal" in plans:
        _, twin = _scanned(job, job.twin)
        plans["twin"] = {"lines": _indices(twin.plan("personal").lines)}
    return plans


def _detection(slices: Slices, trial: Trial) -> dict[str, Any]:
    """What the detector says of the ACS image and of the reconstruction; nothing where there is no detector."""
    netad = trial.bundle.netad
    if netad is None or trial.reconstruction is None:
        return {}
    seen = {"glimpse": trial.glimpse, "final": netad(trial.reconstruction)}
    return {
        name: {
            "score": round(float(result.score[0]), _DIGITS),
            "pixels": pixel_histograms(result.map[0], slices.anomaly_mask),
        }
        for name, result in seen.items()
        if result is not None
    }


def _read(subject: Subject) -> Slices:
    dataset = SliceDataset(subject.folder, cases=[subject.case])
    try:
        return dataset[dataset.entries.index((subject.case, subject.index))]
    finally:
        dataset.close()


@lru_cache(maxsize=2)
def _bundle(folder: str, identity: str, device: str) -> Bundle:
    """Loaded once a process; ``identity`` is there so that a bundle which was replaced is loaded anew."""
    return load_bundle(folder, device=device)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _magnitude(image: Tensor) -> NDArray[np.float32]:
    return image.abs().float().cpu().numpy()


def _indices(mask: Tensor) -> list[int]:
    indices: list[int] = mask.nonzero().flatten().tolist()
    return indices


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
