"""The whole evaluation, from bundles and datasets to tables and figures."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pass_recon.common.files import write_json, written_aside
from pass_recon.types import InputError
from training.evaluate.faint_summary import faint_summary
from training.evaluate.lesion_detection import free_response
from training.evaluate.measures import Job, Record, RecordFile, died, measure
from training.evaluate.methods import L1, asked_methods, inapplicable
from training.evaluate.report import draw, markdown
from training.evaluate.selection import (
    EvaluatedBundle,
    EvaluationSettings,
    SliceEntry,
    dataset_labels,
    evaluated_bundles,
    slice_entries,
)
from training.evaluate.statistics import as_plain, group_summary, grouped
from training.evaluate.tuning import Tuned, tune, tuning_entries
from training.evaluate.workers import Workers

RECORDS, TUNING, RESULTS, TABLES = "records.jsonl", "tuning.jsonl", "results.json", "results.md"
_PACKAGES = ("pass-gadgetron", "torch", "numpy", "scikit-image", "sigpy", "open_clip_torch")
_Level = tuple[str, float | None]  # label of a bundle, noise


@dataclass(frozen=True)
class _Pairing:
    """A bundle with the slices of one dataset that it is for."""

    bundle: EvaluatedBundle
    entries: tuple[SliceEntry, ...]

    def levels(self, settings: EvaluationSettings) -> dict[float | None, list[SliceEntry]]:
        """The slices by noise level; measured ones have a level of their own."""
        measured = [entry for entry in self.entries if entry.measured]
        others = [entry for entry in self.entries if not entry.measured]
        levels: dict[float | None, list[SliceEntry]] = dict.fromkeys(settings.noise, others) if others else {}
        return {**levels, None: measured} if measured else levels


def evaluate(settings: EvaluationSettings) -> dict[str, Any]:
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
    bundles = evaluated_bundles(settings.bundles)
    published = evaluated_bundles([settings.published])[0] if settings.published else None
    pairings, unmatched = _pairings(settings, bundles)
    settings.output.mkdir(parents=True, exist_ok=True)
    workers = Workers(settings, measure, died)
    left_out = {bundle.label: _left_out(methods, bundle, published) for bundle in bundles}
    templates = {
        (pairing.bundle.label, noise): Job(
            pairing.bundle,
            entries[0],
            noise,
            tuple(name for name in methods if name not in left_out[pairing.bundle.label]),
            settings.maps,
            iterations=settings.iterations,
            published=published,
            faint=settings.faint,
            threads=workers.threads,
            device=settings.device,
        )
        for pairing in pairings
        for noise, entries in pairing.levels(settings).items()
    }
    weights = _weights(settings, pairings, templates, workers)
    jobs = _jobs(settings, pairings, templates, weights)
    records = [record for record in workers.run(jobs, RecordFile(settings.output / RECORDS)) if "failed" not in record]
    if not records:
        reasons = sorted({record["failed"] for record in workers.failed.values()})
        raise InputError(f"no slice could be evaluated: {'; '.join(reasons[:3])}")
    by_label = {bundle.label: bundle for bundle in bundles}
    chances = {"resamples": settings.resamples, "seed": settings.seed}
    results = {
        **_provenance(settings, bundles, published),
        "tuning": [{"bundle": label, "noise": noise, **as_plain(found)} for (label, noise), found in weights.items()],
        "left_out": _told(left_out, templates, weights),
        "without_data": unmatched,
        "failed": list(workers.failed.values()),
        "groups": [_group(members, by_label[name[1]], chances) for name, members in grouped(records).items()],
    }
    results["figures"] = draw(settings.output, results["groups"], records, {job.key: job for job in jobs}, workers.how)
    write_json(settings.output / RESULTS, results)
    with written_aside(settings.output / TABLES) as aside:
        aside.write_text(markdown(results), encoding="utf-8")
    return results


def _group(members: list[Record], bundle: EvaluatedBundle, chances: dict[str, int]) -> dict[str, Any]:
    summary = group_summary(members, bundle, **chances)
    faint = {name: faint_summary(members, name, **chances) for name in summary["methods"]}
    looked = [record for record in members if record["by_lesion"] is not None]
    plain: dict[str, Any] = as_plain(
        {"faint": {name: found for name, found in faint.items() if found is not None},
         "by_lesion": free_response(looked, **chances) if looked else None}
    )  # fmt: skip
    return {**summary, **plain}


def _pairings(settings: EvaluationSettings, bundles: Sequence[EvaluatedBundle]) -> tuple[list[_Pairing], list[str]]:
    pairings, unmatched = [], []
    for folder, label in dataset_labels(settings.data).items():
        for bundle in bundles:
            found = slice_entries(
                folder,
                label,
                bundle.examination,
                split=settings.split,
                patients=settings.patients,
                slices=settings.slices,
            )
            if found:
                pairings.append(_Pairing(bundle, tuple(found)))
            else:
                which = "" if settings.split == "all" else f" in its {settings.split} split"
                unmatched.append(f"{label} has no {bundle.examination} case{which} for {bundle.label}")
    if not pairings:
        raise InputError("there is nothing to evaluate: " + "; ".join(unmatched))
    # One bundle after the other, so that each process loads each of them once.
    return sorted(pairings, key=lambda pairing: pairing.bundle.label), unmatched


def _left_out(methods: Sequence[str], bundle: EvaluatedBundle, published: EvaluatedBundle | None) -> dict[str, str]:
    reasons = inapplicable(bundle.card, None if published is None else published.card)
    return {name: reason for name, reason in reasons.items() if name in methods}


def _weights(
    settings: EvaluationSettings, pairings: Sequence[_Pairing], templates: dict[_Level, Job], workers: Workers[Job]
) -> dict[_Level, Tuned]:
    """The tuned λ of every level where L1-wavelet is asked for and there is somebody to tune it on."""
    evaluated = sorted({entry.patient for pairing in pairings for entry in pairing.entries})
    entries = {
        level: found
        for level, job in templates.items()
        if L1 in job.methods
        and (found := tuning_entries(settings, job.bundle.examination, evaluated, measured=level[1] is None))
    }
    file = RecordFile(settings.output / TUNING)
    plain = {level: replace(templates[level], faint=False) for level in entries}
    return tune(plain, entries, lambda jobs: workers.run(jobs, file))


def _jobs(
    settings: EvaluationSettings,
    pairings: Sequence[_Pairing],
    templates: dict[_Level, Job],
    weights: dict[_Level, Tuned],
) -> list[Job]:
    jobs = []
    for pairing in pairings:
        lesion_free = _lesion_free(settings, pairing)
        for noise, entries in pairing.levels(settings).items():
            level = (pairing.bundle.label, noise)
            template = templates[level]
            if level in weights:
                template = replace(template, regularisation=weights[level].weight)
            else:
                template = replace(template, methods=tuple(name for name in template.methods if name != L1))
            jobs += [
                replace(template, entry=entry, lesion_free=lesion_free.get((entry.case, entry.index)))
                for entry in entries
            ]
    return jobs


def _lesion_free(settings: EvaluationSettings, pairing: _Pairing) -> dict[tuple[str, int], SliceEntry]:
    """The same slice of the same patient without lesions, of each slice that has some."""
    if settings.lesion_free is None:
        return {}
    # All slices of them: a patient without lesions would have others chosen.
    healthy = slice_entries(
        settings.lesion_free, settings.lesion_free.resolve().name, pairing.bundle.examination, slices=1 << 30
    )
    known = {(entry.case, entry.index): entry for entry in healthy if not entry.lesions}
    wanted = [(entry.case, entry.index) for entry in pairing.entries if entry.lesions]
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


def _provenance(
    settings: EvaluationSettings, bundles: Sequence[EvaluatedBundle], published: EvaluatedBundle | None
) -> dict[str, Any]:
    return {
        "command": settings.command,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": settings.described(),
        "software": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "bundles": {bundle.label: _described(bundle) for bundle in bundles},
        "published": None if published is None else _described(published),
    }


def _described(bundle: EvaluatedBundle) -> dict[str, Any]:
    return {
        "folder": bundle.folder,
        "anatomy": bundle.card["anatomy"],
        "contrast": bundle.card["contrast"],
        "acceleration": bundle.acceleration,
        "sha256": bundle.hashes,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
