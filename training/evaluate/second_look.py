"""Whether the second look pays: lesions against a fixed acceleration of the same mean scan time, and what it costs.

A cohort with a given share of sick patients is scanned at the first acceleration. Slices whose score passes the
threshold get the lines that lead to the second one. What the cohort takes on average is given to everybody alike in the
scan it is held against, with lines of the same order and the same networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from pass_recon import __version__
from pass_recon.bundles import nearest_bundle, shipped_bundles
from pass_recon.common.files import write_json, written_aside
from pass_recon.common.settings import checked
from pass_recon.metrics import lesion_region, qualities
from pass_recon.pipeline import Pipeline
from pass_recon.sampling.budget import SUSPICIOUS
from pass_recon.types import InputError, PassError
from training.evaluate.measures import Record, RecordFile, computing_threads, loaded, read_slice
from training.evaluate.methods import ScannedSlice
from training.evaluate.report import interval_text, table_text
from training.evaluate.selection import (
    EvaluatedBundle,
    EvaluationSettings,
    MapSource,
    SliceEntry,
    dataset_labels,
    digest,
    evaluated_bundles,
    slice_entries,
)
from training.evaluate.statistics import as_plain, bootstrap
from training.evaluate.workers import Workers

RECORDS, RESULTS, TABLES = "second_look.jsonl", "second_look.json", "second_look.md"
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@checked
@dataclass(frozen=True)
class SecondLookSettings(EvaluationSettings):
    """An evaluation of the second look.

    Attributes
    ----------
    accelerations
        Of the first round, and of both together.
    sick
        Share of sick patients in the cohort. Those of ``data`` with lesions are sick; all others, and those of
        ``lesion_free``, are not.
    threshold
        Score from which a slice gets a second round.
    """

    accelerations: tuple[float, ...] = (8.0, 4.0)
    sick: float = 0.3
    threshold: float = SUSPICIOUS

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.accelerations) != 2 or not self.accelerations[0] > self.accelerations[1] >= 1:
            raise InputError(f"accelerations must be two, the first above the second, got {list(self.accelerations)}")
        if not 0 <= self.sick <= 1:
            raise InputError(f"the share of sick patients must lie between 0 and 1, got {self.sick:g}")


@dataclass(frozen=True)
class _Look:
    """One slice to be scanned at ``first``, and with the additional lines that lead to ``second`` where it is given.

    These are reconstructed with the networks of ``second_bundle``.
    """

    bundle: EvaluatedBundle
    entry: SliceEntry
    noise: float | None
    maps: MapSource
    first: float
    second: float | None
    second_bundle: EvaluatedBundle | None
    threads: int = 1
    device: str = "cpu"

    @property
    def key(self) -> str:
        """Made of all that the record depends on."""
        entry = {name: value for name, value in asdict(self.entry).items() if name != "folder"}
        what = [self.bundle.label, self.bundle.identity, entry, self.noise, self.maps, self.first]
        what += [self.second, self.second_bundle.identity if self.second_bundle is not None else None]
        return digest(["second look", __version__, *what])


def look(job: _Look) -> Record:
    """The record of a job; where the data or a bundle are at fault, a record that says so under ``failed``."""
    try:
        with computing_threads(job.threads), torch.no_grad():
            return _looked(job)
    except (PassError, OSError) as error:
        return died(job, str(error))


def died(job: _Look, reason: str) -> Record:
    """The record of a job of which nothing came."""
    return {**_description(job), "failed": reason}


def _description(job: _Look) -> Record:
    entry = job.entry
    place = {"dataset": entry.dataset, "case": entry.case, "slice": entry.index, "patient": entry.patient}
    return {"key": job.key, "bundle": job.bundle.label, **place, "noise": job.noise, "lesions": entry.lesions}


def _looked(job: _Look) -> Record:
    bundle = loaded(job.bundle, job.device)
    slices = read_slice(job.entry).to(job.device)
    scanned = ScannedSlice(slices, bundle, noise=job.noise, maps=job.maps)
    pipeline = Pipeline(bundle, device=job.device, acceleration=job.first)
    kspace, maps = scanned.kspace, scanned.coil_maps
    ro, pe = kspace.shape[-2:]
    acs = pipeline.acs(pe)
    plan = pipeline.plan(kspace[..., acs.to(kspace.device)], acs, (ro, pe), reachable=scanned.limits, coil_maps=maps)
    truth = slices.image.abs().cpu().numpy()
    regions = [lesion_region(box, (ro, pe)) for box in slices.boxes]
    rounds, lines = {}, plan.lines
    found = {**_description(job), "pe": pe}
    for number in ("first", "second"):
        if number == "second":
            if job.second is None:
                break
            additional = pipeline.second_plan(plan, None, job.second, reachable=scanned.limits).lines
            found["additional"] = int(additional.sum())
            if not regions:  # only inside lesions does it matter what the image looks like
                break
            lines = plan.lines | additional
            if job.second_bundle is not job.bundle:
                assert job.second_bundle is not None
                second = loaded(job.second_bundle, job.device)
                pipeline = Pipeline(second, device=job.device, acceleration=job.second, first=pipeline)
        made = pipeline.reconstruct(kspace, lines, coil_maps=maps)
        whole, *inside = qualities(made.image.abs().numpy(), truth, regions)
        rounds[number] = {
            "lines": int(lines.sum()),
            "score": round(made.score[0], 6) if made.score else None,
            "whole": round(whole.psnr, 4),
            "inside": round(float(np.mean([quality.psnr for quality in inside])), 4) if inside else None,
        }
    return {**found, **rounds}


def _second_bundle(bundle: EvaluatedBundle, acceleration: float) -> EvaluatedBundle:
    """As the chain does: of the shipped bundles that of the smaller acceleration."""
    name = nearest_bundle(bundle.examination, acceleration) if bundle.label in shipped_bundles() else None
    return bundle if name is None else evaluated_bundles([name])[0]


def evaluate_second_look(settings: SecondLookSettings) -> dict[str, Any]:
    """Evaluate, and write ``second_look.json``, ``second_look.md`` and the records, from which it goes on.

    Raises
    ------
    BundleError, InputError
        If a bundle or dataset is missing or damaged, a cohort has no sick or no healthy patient, or a bundle has no
        detector.
    """
    settings.output.mkdir(parents=True, exist_ok=True)
    workers, file = Workers(settings, look, died), RecordFile(settings.output / RECORDS)
    groups = []
    for bundle in evaluated_bundles(settings.bundles):
        if bundle.card["configuration"]["netad"] is None:
            raise InputError(f"bundle {bundle.label} has no detector, and cannot look twice")
        entries = _cohort(settings, bundle)
        for noise in settings.noise:
            groups.append(_group(settings, bundle, noise, entries, workers, file))
    results: dict[str, Any] = as_plain(
        {"command": settings.command, "settings": settings.described(), "groups": groups,
         "failed": list(workers.failed.values())}
    )  # fmt: skip
    write_json(settings.output / RESULTS, results)
    with written_aside(settings.output / TABLES) as aside:
        aside.write_text(second_look_page(results), encoding="utf-8")
    return results


def _cohort(settings: SecondLookSettings, bundle: EvaluatedBundle) -> list[SliceEntry]:
    """Slices of all patients; those of patients without lesions are told apart from the same ones with them."""
    chosen = {"split": settings.split, "patients": settings.patients, "slices": settings.slices}
    entries = [
        entry
        for folder, label in dataset_labels(settings.data).items()
        for entry in slice_entries(folder, label, bundle.examination, **chosen)  # type: ignore[arg-type]
    ]
    if settings.lesion_free is not None:
        label = settings.lesion_free.resolve().name
        healthy = slice_entries(settings.lesion_free, label, bundle.examination, **chosen)  # type: ignore[arg-type]
        known = {entry.patient for entry in entries if entry.patient not in _sick(entries)}
        entries += [
            replace(entry, patient=f"{entry.patient} without lesions")
            for entry in healthy
            if entry.patient not in known
        ]
    sick = _sick(entries)
    if not sick or all(entry.patient in sick for entry in entries):
        raise InputError(
            f"a cohort needs sick and healthy patients; of {bundle.examination} there are {len(sick)} sick ones of "
            f"{len({entry.patient for entry in entries})}: add a dataset, or --lesion-free"
        )
    return entries


def _sick(entries: Sequence[SliceEntry]) -> set[str]:
    return {entry.patient for entry in entries if entry.lesions}


def _group(
    settings: SecondLookSettings,
    bundle: EvaluatedBundle,
    noise: float,
    entries: Sequence[SliceEntry],
    workers: Workers[_Look],
    file: RecordFile,
) -> dict[str, Any]:
    first, second = settings.accelerations
    other, how = _second_bundle(bundle, second), (workers.threads, settings.device)
    template = _Look(bundle, entries[0], noise, settings.maps, first, second, other, *how)
    records = _evaluated(workers.run([replace(template, entry=entry) for entry in entries], file))
    chances = {"resamples": settings.resamples, "seed": settings.seed}
    price = price_of(records, settings.threshold, settings.sick, **chances)
    fixed = [
        replace(template, entry=entry, first=price["fixed_acceleration"], second=None, second_bundle=None)
        for entry in entries
        if entry.lesions
    ]
    held_against = {_place(record): record["first"]["inside"] for record in _evaluated(workers.run(fixed, file))}
    sick = [record for record in records if record["lesions"] and _place(record) in held_against]
    patients = [record["patient"] for record in sick]
    twice = [_image(record, settings.threshold)["inside"] for record in sick]
    alike = [held_against[_place(record)] for record in sick]
    return {
        "bundle": bundle.label,
        "examination": bundle.examination,
        "noise": noise,
        "slices": len(records),
        "lesion_slices": len(sick),
        **price,
        "inside": {
            "first_round": bootstrap([record["first"]["inside"] for record in sick], patients, **chances),
            "second_look": bootstrap(twice, patients, **chances),
            "fixed": bootstrap(alike, patients, **chances),
            "both_rounds": bootstrap([record["second"]["inside"] for record in sick], patients, **chances),
            "gain": bootstrap(np.subtract(twice, alike), patients, **chances),
        },
        "thresholds": [price_of(records, threshold, settings.sick, **chances) for threshold in THRESHOLDS],
    }


def _evaluated(records: Sequence[Record]) -> list[Record]:
    found = [record for record in records if "failed" not in record]
    if not found:
        raise InputError(f"no slice could be evaluated: {'; '.join(sorted({one['failed'] for one in records})[:3])}")
    return found


def _place(record: Record) -> tuple[str, str, int]:
    return record["dataset"], record["case"], record["slice"]


def _image(record: Record, threshold: float) -> Mapping[str, Any]:
    """What a scanner shows at the end."""
    asked = record["first"]["score"] >= threshold and "second" in record
    found: Mapping[str, Any] = record["second" if asked else "first"]
    return found


def price_of(
    records: Sequence[Record], threshold: float, sick_share: float, *, resamples: int, seed: int
) -> dict[str, Any]:
    """What a cohort takes at a threshold, patient by patient.

    Parameters
    ----------
    records
        Of slices: ``first`` with lines and score, ``additional`` lines, ``pe``, ``lesions``, ``patient``.
    threshold
        Score from which a slice gets its additional lines.
    sick_share
        Share of sick patients, for the mean scan time.
    resamples, seed
        Of the bootstrap by patient.

    Returns
    -------
    dict
        ``missed``, share of sick patients with no slice asked for among those with lesions; ``healthy_extra`` and
        ``sick_extra``, additional lines as a share of those of the first round; ``healthy_asked``, share of healthy
        patients that were scanned longer; ``fixed_acceleration`` of the same mean scan time.
    """
    sick = {record["patient"] for record in records if record["lesions"]}
    asked = {id(record): record["first"]["score"] >= threshold for record in records}
    extra = [record["additional"] / record["first"]["lines"] * asked[id(record)] for record in records]
    share = [(record["first"]["lines"] + record["additional"] * asked[id(record)]) / record["pe"] for record in records]

    def over(values: Sequence[float], which: set[str], least: bool = False) -> Any:
        """By patient: the mean of each one's slices, or 1 if any is above 0."""
        by_patient: dict[str, list[float]] = {}
        for record, number in zip(records, values, strict=True):
            if record["patient"] in which:
                by_patient.setdefault(record["patient"], []).append(number)
        ones = [float(max(many) > 0) if least else float(np.mean(many)) for many in by_patient.values()]
        return bootstrap(ones, list(by_patient), resamples=resamples, seed=seed)

    healthy = {record["patient"] for record in records} - sick
    found = over([float(asked[id(record)] and record["lesions"] > 0) for record in records], sick, least=True)
    time = sick_share * over(share, sick).mean + (1 - sick_share) * over(share, healthy).mean
    return {
        "threshold": threshold,
        "sick_patients": len(sick),
        "healthy_patients": len(healthy),
        "missed": replace(found, mean=1 - found.mean, low=_less(found.high), high=_less(found.low)),
        "healthy_asked": over(extra, healthy, least=True),
        "healthy_extra": over(extra, healthy),
        "sick_extra": over(extra, sick),
        "fixed_acceleration": round(1 / time, 4),
    }


def _less(value: float | None) -> float | None:
    return None if value is None else 1 - value


def second_look_page(results: Mapping[str, Any]) -> str:
    """The page of tables."""
    settings = results["settings"]
    first, second = settings["accelerations"]
    head = [
        "bundle", "noise", "lesion slices", f"{first:g}×", "second look", "fixed, same mean time", f"{second:g}×",
        "second look − fixed", "lines of healthy", "healthy asked", "sick missed", "lines of sick",
    ]  # fmt: skip
    rows = [
        [
            group["bundle"],
            f"σ {group['noise']:g}",
            str(group["lesion_slices"]),
            interval_text(group["inside"]["first_round"]),
            interval_text(group["inside"]["second_look"]),
            f"{interval_text(group['inside']['fixed'])} at {group['fixed_acceleration']:.2f}×",
            interval_text(group["inside"]["both_rounds"]),
            interval_text(group["inside"]["gain"], sign="+"),
            *_price_cells(group),
        ]
        for group in results["groups"]
    ]
    parts = [
        "# The second look",
        f"    {results['command']}" if results["command"] else "",
        f"{first:g}× → {second:g}× where the score passes {settings['threshold']:g}, {100 * settings['sick']:.0f} % of "
        f"the patients sick. PSNR inside lesions in dB; 95 % intervals by bootstrap over patients.",
        table_text(head, rows),
    ]
    for group in results["groups"]:
        prices = [[f"{price['threshold']:g}", *_price_cells(price), f"{price['fixed_acceleration']:.2f}×"]
                  for price in group["thresholds"]]  # fmt: skip
        title = f"## Thresholds: {group['bundle']}, σ {group['noise']:g}, {group['sick_patients']} sick and "
        parts += [title + f"{group['healthy_patients']} healthy patients", table_text(
            ["threshold", "lines of healthy", "healthy asked", "sick missed", "lines of sick", "fixed, same mean time"],
            prices,
        )]  # fmt: skip
    parts += [f"- {item['case']} slice {item['slice']} failed: {item['failed']}" for item in results["failed"]]
    return "\n\n".join(part for part in parts if part) + "\n"


def _price_cells(price: Mapping[str, Any]) -> list[str]:
    return [
        _percent(price["healthy_extra"], "+"),
        _percent(price["healthy_asked"]),
        _percent(price["missed"]),
        _percent(price["sick_extra"], "+"),
    ]


def _percent(found: Mapping[str, Any], sign: str = "") -> str:
    ends = "" if found["low"] is None else f" [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"
    return f"{100 * found['mean']:{sign}.1f} %{ends}"
