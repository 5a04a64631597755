"""The whole evaluation, from bundles and datasets to tables and figures.

L1-wavelet's λ is tuned on other patients first: a baseline that was not tuned is no baseline.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import numpy as np

from pass_recon.common.files import write_json, written_aside
from pass_recon.common.parallel import available_cores, in_parallel
from pass_recon.types import InputError
from training.evaluate.measures import Job, Record, RecordFile, died, measure
from training.evaluate.methods import L1, asked_methods, inapplicable
from training.evaluate.report import draw, markdown
from training.evaluate.selection import Contender, Settings, Subject, contenders, dataset_labels, subjects_of
from training.evaluate.statistics import as_plain, group_summary, grouped

Key = TypeVar("Key", bound=Hashable)

# λ = 2ⁿ. PSNR is so flat around its best that steps of two lose less than 0.05 dB.
_START = (-10, -8, -6)
_LIMITS = (-24, 4)


@dataclass(frozen=True)
class Tuned:
    """λ, its mean PSNR on the tuning slices and that of all λ tried; ``at_limit`` where even the limit was best."""

    weight: float
    psnr: float
    tried: dict[float, float]
    slices: int
    at_limit: bool = False


def best_exponents(
    keys: Sequence[Key], measure: Callable[[list[tuple[Key, int]]], Mapping[tuple[Key, int], float]]
) -> dict[Key, dict[int, float]]:
    """Search n of λ = 2ⁿ for several problems at once, until the best of each lies inside its grid.

    A coarse grid is extended while its best lies on its edge, then both neighbours of the best are tried, so that what
    is taken was better than half of it and than twice of it.

    Parameters
    ----------
    keys
        The problems.
    measure
        From (problem, n) to mean PSNR; called with all that can be done at once. What it leaves out cannot be measured.

    Returns
    -------
    dict
        For each problem, PSNR by n.
    """
    known: dict[Key, dict[int, float]] = {key: {} for key in keys}
    asked = [(key, exponent) for key in keys for exponent in _START]
    while asked:
        found = measure(asked)
        for (key, exponent), value in found.items():
            known[key][exponent] = value
        failed = {key for key, exponent in asked if exponent not in known[key]}
        asked = [(key, exponent) for key in keys if key not in failed for exponent in _next(known[key])]
    return known


def _next(known: Mapping[int, float]) -> list[int]:
    best = max(known, key=lambda exponent: (known[exponent], exponent))
    low, high = min(known), max(known)
    if best == low and low > _LIMITS[0]:
        return [low - 2]
    if best == high and high < _LIMITS[1]:
        return [high + 2]
    around = (best - 1, best + 1)
    return [exponent for exponent in around if exponent not in known and _LIMITS[0] <= exponent <= _LIMITS[1]]


def tuned(exponents: Mapping[int, float], slices: int) -> Tuned:
    """The best of what was tried."""
    best = max(exponents, key=lambda exponent: (exponents[exponent], exponent))
    tried = {2.0**exponent: exponents[exponent] for exponent in sorted(exponents)}
    return Tuned(2.0**best, exponents[best], tried, slices, best in (min(exponents), max(exponents)))


def tuning_subjects(
    settings: Settings, kind: tuple[str, str], evaluated: Sequence[str], *, measured: bool
) -> list[Subject]:
    """Slices of patients that are not evaluated: from ``--tuning``, or from the validation split of the data.

    Parameters
    ----------
    settings
        What was asked for.
    kind
        Anatomy and contrast.
    evaluated
        Patients on which results are reported.
    measured
        Whether the slices are to have their own noise, or none that could be mistaken for what is added.
    """
    folders = [settings.tuning] if settings.tuning is not None else list(settings.data)
    for folder in folders:
        for split in ("validation", "all") if settings.tuning is not None else ("validation",):
            # Two slices a case, of which the second serves only where there are few patients.
            found = subjects_of(folder, folder.resolve().name, kind, split=split, slices=2, without=evaluated)
            found = [subject for subject in found if subject.measured == measured]
            if found:
                return _spread(found, settings.tuning_slices)
    return []


def tune(
    templates: Mapping[Key, Job],
    subjects: Mapping[Key, Sequence[Subject]],
    run: Callable[[list[Job]], list[Record]],
) -> dict[Key, Tuned]:
    """Tune λ of each bundle and noise level by whole-image PSNR on the lines of its own plan.

    Parameters
    ----------
    templates
        A job of each, whose subject and λ are replaced.
    subjects
        The tuning slices of each.
    run
        Does jobs, possibly many at once; gives their records in the same order.
    """

    def measure(asked: list[tuple[Key, int]]) -> dict[tuple[Key, int], float]:
        jobs, owners = [], []
        for key, exponent in asked:
            for subject in subjects[key]:
                changes = {"subject": subject, "regularisation": 2.0**exponent, "methods": (L1,), "twin": None}
                jobs.append(replace(templates[key], **changes))  # type: ignore[arg-type]
                owners.append((key, exponent))
        found: dict[tuple[Key, int], list[float]] = {}
        for owner, record in zip(owners, run(jobs), strict=True):
            if "failed" not in record:
                found.setdefault(owner, []).append(record["methods"][L1]["psnr"])
        return {owner: float(np.mean(values)) for owner, values in found.items()}

    known = best_exponents(list(templates), measure)
    return {key: tuned(values, len(subjects[key])) for key, values in known.items() if values}


def _spread(subjects: list[Subject], count: int) -> list[Subject]:
    """First one of each patient, then a second; so many, evenly spread."""
    taken: dict[str, int] = {}
    rounds: list[tuple[int, int, Subject]] = []
    for number, subject in enumerate(subjects):
        rounds.append((taken.get(subject.patient, 0), number, subject))
        taken[subject.patient] = taken.get(subject.patient, 0) + 1
    ordered = [subject for *_, subject in sorted(rounds, key=lambda item: item[:2])]
    first = ordered[: max(len(taken), count)]
    step = max(len(first) / count, 1.0)
    return [first[int(number * step)] for number in range(min(count, len(first)))]


RECORDS, TUNING, RESULTS, TABLES = "records.jsonl", "tuning.jsonl", "results.json", "results.md"
_PACKAGES = ("pass-gadgetron", "torch", "numpy", "scikit-image", "sigpy", "open_clip_torch")
_Level = tuple[str, float | None]  # label of a bundle, noise


@dataclass(frozen=True)
class _Pairing:
    """A bundle with the slices of one dataset that it is for."""

    contender: Contender
    subjects: tuple[Subject, ...]

    def levels(self, settings: Settings) -> dict[float | None, list[Subject]]:
        """The slices by noise level; measured ones have a level of their own."""
        measured = [subject for subject in self.subjects if subject.measured]
        others = [subject for subject in self.subjects if not subject.measured]
        levels: dict[float | None, list[Subject]] = dict.fromkeys(settings.noise, others) if others else {}
        return {**levels, None: measured} if measured else levels


@dataclass
class _Crew:
    """Does jobs, those that are not in the file of records yet."""

    settings: Settings
    failed: dict[str, Record] = field(default_factory=dict)

    @property
    def workers(self) -> int:
        """Processes on this machine."""
        settings = self.settings
        if settings.workers or settings.device != "cpu":
            return settings.workers or 1  # several processes would each want the whole device
        return max(available_cores() // max(settings.threads, 1), 1)

    @property
    def threads(self) -> int:
        """Torch threads of each process: together as many as there are cores."""
        if self.settings.threads or self.settings.scheduler:
            return self.settings.threads or 1
        return max(available_cores() // self.workers, 1)

    def run(self, jobs: Sequence[Job], file: RecordFile) -> list[Record]:
        """The record of each job, in their order; one that failed says so."""
        missing = {job.key: job for job in jobs if job.key not in file}
        with closing(in_parallel(measure, list(missing.values()), died, unit="slice", **self.how)) as results:
            for record in results:
                if "failed" in record:
                    self.failed[record["key"]] = record
                else:
                    file.append(record)
        return [file[job.key] if job.key in file else self.failed[job.key] for job in jobs]

    @property
    def how(self) -> dict[str, Any]:
        """Arguments of `in_parallel`."""
        return {
            "workers": self.workers,
            "scheduler": self.settings.scheduler,
            "progress": self.settings.progress,
        }


def evaluate(settings: Settings) -> dict[str, Any]:
    """Evaluate, and write ``records.jsonl``, ``results.json``, ``results.md`` and figures.

    Returns
    -------
    dict
        What ``results.json`` holds.

    Raises
    ------
    BundleError, InputError
        If a bundle or dataset is missing or damaged, nothing fits together, or no slice could be evaluated.
    """
    methods = asked_methods(settings.methods)
    entrants = contenders(settings.bundles)
    published = contenders([settings.published])[0] if settings.published else None
    pairings, unmatched = _pairings(settings, entrants)
    settings.output.mkdir(parents=True, exist_ok=True)
    crew = _Crew(settings)
    left_out = {entrant.label: _left_out(methods, entrant, published) for entrant in entrants}
    templates = {
        (pairing.contender.label, noise): Job(
            pairing.contender,
            subjects[0],
            noise,
            tuple(name for name in methods if name not in left_out[pairing.contender.label]),
            settings.maps,
            iterations=settings.iterations,
            published=published,
            threads=crew.threads,
            device=settings.device,
        )
        for pairing in pairings
        for noise, subjects in pairing.levels(settings).items()
    }
    weights = _weights(settings, pairings, templates, crew)
    jobs = _jobs(settings, pairings, templates, weights)
    records = [record for record in crew.run(jobs, RecordFile(settings.output / RECORDS)) if "failed" not in record]
    if not records:
        reasons = sorted({record["failed"] for record in crew.failed.values()})
        raise InputError(f"no slice could be evaluated: {'; '.join(reasons[:3])}")
    by_label = {entrant.label: entrant for entrant in entrants}
    chances = {"resamples": settings.resamples, "seed": settings.seed}
    results = {
        **_provenance(settings, entrants, published),
        "tuning": [{"bundle": label, "noise": noise, **as_plain(found)} for (label, noise), found in weights.items()],
        "left_out": _told(left_out, templates, weights),
        "without_data": unmatched,
        "failed": list(crew.failed.values()),
        "groups": [group_summary(members, by_label[name[1]], **chances) for name, members in grouped(records).items()],
    }
    results["figures"] = draw(settings.output, results["groups"], records, {job.key: job for job in jobs}, crew.how)
    write_json(settings.output / RESULTS, results)
    with written_aside(settings.output / TABLES) as aside:
        aside.write_text(markdown(results), encoding="utf-8")
    return results


def _pairings(settings: Settings, entrants: Sequence[Contender]) -> tuple[list[_Pairing], list[str]]:
    pairings, unmatched = [], []
    for folder, label in dataset_labels(settings.data).items():
        for entrant in entrants:
            found = subjects_of(
                folder,
                label,
                entrant.kind,
                split=settings.split,
                patients=settings.patients,
                slices=settings.slices,
            )
            if found:
                pairings.append(_Pairing(entrant, tuple(found)))
            else:
                which = "" if settings.split == "all" else f" in its {settings.split} split"
                unmatched.append(f"{label} has no {' '.join(entrant.kind)} case{which} for {entrant.label}")
    if not pairings:
        raise InputError("there is nothing to evaluate: " + "; ".join(unmatched))
    # One bundle after the other, so that each process loads each of them once.
    return sorted(pairings, key=lambda pairing: pairing.contender.label), unmatched


def _left_out(methods: Sequence[str], entrant: Contender, published: Contender | None) -> dict[str, str]:
    reasons = inapplicable(entrant.card, None if published is None else published.card)
    return {name: reason for name, reason in reasons.items() if name in methods}


def _weights(
    settings: Settings, pairings: Sequence[_Pairing], templates: dict[_Level, Job], crew: _Crew
) -> dict[_Level, Tuned]:
    """The tuned λ of every level where L1-wavelet is asked for and there is somebody to tune it on."""
    evaluated = sorted({subject.patient for pairing in pairings for subject in pairing.subjects})
    subjects = {
        level: found
        for level, job in templates.items()
        if L1 in job.methods
        and (found := tuning_subjects(settings, job.contender.kind, evaluated, measured=level[1] is None))
    }
    file = RecordFile(settings.output / TUNING)
    return tune({level: templates[level] for level in subjects}, subjects, lambda jobs: crew.run(jobs, file))


def _jobs(
    settings: Settings,
    pairings: Sequence[_Pairing],
    templates: dict[_Level, Job],
    weights: dict[_Level, Tuned],
) -> list[Job]:
    jobs = []
    for pairing in pairings:
        twins = _twins(settings, pairing)
        for noise, subjects in pairing.levels(settings).items():
            level = (pairing.contender.label, noise)
            template = templates[level]
            if level in weights:
                template = replace(template, regularisation=weights[level].weight)
            else:
                template = replace(template, methods=tuple(name for name in template.methods if name != L1))
            jobs += [
                replace(template, subject=subject, twin=twins.get((subject.case, subject.index)))
                for subject in subjects
            ]
    return jobs


def _twins(settings: Settings, pairing: _Pairing) -> dict[tuple[str, int], Subject]:
    """The same slice of the same patient without lesions, of each slice that has some."""
    if settings.twins is None:
        return {}
    # All slices of them: a patient without lesions would have others chosen.
    healthy = subjects_of(settings.twins, settings.twins.resolve().name, pairing.contender.kind, slices=1 << 30)
    known = {(subject.case, subject.index): subject for subject in healthy if not subject.lesions}
    wanted = [(subject.case, subject.index) for subject in pairing.subjects if subject.lesions]
    return {place: known[place] for place in wanted if place in known}


def _told(
    left_out: dict[str, dict[str, str]], templates: dict[_Level, Job], weights: dict[_Level, Tuned]
) -> dict[str, dict[str, str]]:
    """Why methods are missing, L1-wavelet included."""
    told = {label: dict(reasons) for label, reasons in left_out.items()}
    for level, job in templates.items():
        if L1 in job.methods and level not in weights:
            told[level[0]][L1] = "there is no slice to tune λ on: no --tuning data, no validation split, or none usable"
    return told


def _provenance(settings: Settings, entrants: Sequence[Contender], published: Contender | None) -> dict[str, Any]:
    return {
        "command": settings.command,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": settings.described(),
        "software": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "bundles": {entrant.label: _described(entrant) for entrant in entrants},
        "published": None if published is None else _described(published),
    }


def _described(bundle: Contender) -> dict[str, Any]:
    return {
        "folder": bundle.folder,
        "anatomy": bundle.kind[0],
        "contrast": bundle.kind[1],
        "acceleration": bundle.acceleration,
        "sha256": bundle.hashes,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
