"""What a dataset holds: its cases, the split by patient, what was skipped and why.

`manifest.json` is made anew from the case files after every preparation, so it can always be made again.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pass_recon.common.files import write_json
from pass_recon.phantom.draws import mixed_seed
from pass_recon.types import InputError
from training.data.case_file import ABNORMAL, NORMAL, SUFFIX, CaseFile, CaseInfo
from training.data.jobs import Outcome

FILE = "manifest.json"
SPLITS = ("train", "validation", "test")
_STEPS = 1 << 30


@dataclass(frozen=True)
class SplitSettings:
    """How patients are divided.

    Attributes
    ----------
    fractions
        Of the patients in training, validation and test; they add up to 1.
    seed
        Another seed, another division.
    """

    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise InputError(f"the fractions of the split must be positive and add up to 1, got {self.fractions}")


def assign_splits(
    patients: Iterable[str],
    settings: SplitSettings,
    known: Mapping[str, str] | None = None,
    annotated: Iterable[str] = (),
) -> dict[str, str]:
    """Assign each patient to a split.

    A patient's place follows from its id and the seed alone, so that adding patients moves nobody. Only where a split
    would be empty though there are patients enough, or training would have no annotated patient though there is one,
    does it get the patient nearest to it; ``known`` assignments always stand.

    Parameters
    ----------
    patients
        Their ids.
    settings
        Fractions and seed.
    known
        Splits of patients assigned before.
    annotated
        Those of the patients that detectors can learn from.

    Returns
    -------
    dict
        Split by patient id.
    """
    places = {name: mixed_seed(settings.seed, "split", name) % _STEPS / _STEPS for name in sorted(set(patients))}
    bounds = [sum(settings.fractions[: number + 1]) for number in range(len(SPLITS))]
    bounds[-1] = 1.0
    splits = {name: SPLITS[sum(place >= bound for bound in bounds)] for name, place in places.items()}
    kept = {name: split for name, split in (known or {}).items() if name in splits and split in SPLITS}
    splits |= kept
    middles = {name: bound - part / 2 for name, bound, part in zip(SPLITS, bounds, settings.fractions, strict=True)}

    def move(names: Iterable[str], split: str) -> None:
        movable = [name for name in names if name not in kept]
        if movable:
            splits[min(movable, key=lambda name: (abs(places[name] - middles[split]), name))] = split

    sick = set(annotated) & places.keys()
    if settings.fractions[0] > 0 and not any(splits[name] == SPLITS[0] for name in sick):
        move(sick, SPLITS[0])
    for split, fraction in zip(SPLITS, settings.fractions, strict=True):
        size = Counter(splits.values())
        largest = max(SPLITS, key=lambda name: size[name])
        lone = [name for name in sick if splits[name] == SPLITS[0]]
        # A single patient is one to learn from; the only annotated one stays where it is learned from.
        if fraction > 0 and size[split] == 0 and size[largest] > (0 if split == SPLITS[0] else 1):
            move([name for name in splits if splits[name] == largest and [name] != lone], split)
    return splits


def write_manifest(folder: Path, settings: SplitSettings, outcomes: Iterable[Outcome] = ()) -> dict[str, Any]:
    """Describe all cases of a dataset in ``manifest.json``.

    Assignments and skipped files of an earlier manifest stand, unless seed or fractions changed or the outcome is new;
    those that the source gives always stand.
    """
    earlier = _earlier(folder)
    same = earlier.get("seed") == settings.seed and earlier.get("fractions") == list(settings.fractions)
    known = {case["patient_id"]: case["split"] for case in earlier.get("cases", [])} if same else {}
    cases = [_entry(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    splits: dict[str, str] = {}
    for anatomy in sorted({case["anatomy"] for case in cases}):
        # Each by itself, so that none lacks a split because the other has it.
        patients = {case["patient_id"] for case in cases if case["anatomy"] == anatomy}
        given = {case["patient_id"]: case["given_split"] for case in cases if case["given_split"]}
        annotated = {case["patient_id"] for case in cases if case["anatomy"] == anatomy and is_annotated(case)}
        splits |= assign_splits(patients, settings, known | splits | given, annotated)
    for case in cases:
        case["split"] = splits[case["patient_id"]]
    skipped = dict(earlier.get("skipped", {}))
    for outcome in outcomes:
        skipped.pop(outcome.name, None)
        if outcome.fate == "skipped":
            skipped[outcome.name] = outcome.reason
    manifest = {
        "seed": settings.seed,
        "fractions": list(settings.fractions),
        "cases": cases,
        "skipped": dict(sorted(skipped.items())),
    }
    write_json(folder / FILE, manifest)
    return manifest


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read ``manifest.json``.

    Raises
    ------
    InputError
        If there is none, or it is damaged.
    """
    path = Path(folder) / FILE
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} is not a prepared dataset: it has no {FILE}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return manifest


def is_annotated(case: Mapping[str, Any]) -> bool:
    """Whether a case of a manifest has findings with boxes: what few-shot training learns from."""
    return bool(case["abnormal_slices"] and case["boxes"])


def subset(cases: Iterable[Mapping[str, Any]], fraction: float) -> list[Mapping[str, Any]]:
    """A share of the cases of each examination, at least one, chosen by their names: a larger share holds a smaller."""
    given = list(cases)
    if fraction >= 1:
        return given
    examinations: dict[tuple[str, str], list[str]] = {}
    for case in given:
        examinations.setdefault((case["anatomy"], case["contrast"]), []).append(case["name"])
    chosen: set[str] = set()
    for names in examinations.values():
        names.sort(key=lambda name: (mixed_seed("subset", name), name))
        chosen.update(names[: math.ceil(fraction * len(names))])
    return [case for case in given if case["name"] in chosen]


def training_facts(folders: Iterable[str | Path], fraction: float = 1.0) -> list[dict[str, Any]]:
    """What the training splits of datasets hold: a row for each dataset, examination and origin of its k-space.

    ``fraction`` is the share of the cases that is trained on.
    """
    rows: dict[tuple[str, str, str, bool], dict[str, Any]] = {}
    patients: dict[tuple[str, str, str, bool], set[str]] = {}
    for folder in folders:
        trained = [case for case in read_manifest(folder)["cases"] if case["split"] == SPLITS[0]]
        for case in subset(trained, fraction):
            examination = f"{case['anatomy']}-{case['contrast']}"
            key = (Path(folder).resolve().name, examination, case["source"], bool(case["measured"]))
            empty = dict(zip(("dataset", "examination", "source", "measured"), key, strict=True))
            row = rows.setdefault(key, {**empty, "patients": 0, "slices": 0, "annotated": 0})
            patients.setdefault(key, set()).add(case["patient_id"])
            row["annotated"] += is_annotated(case)
            for name, sizes in (
                ("pixel_mm", case.get("pixel_mm", [])),
                ("measured_lines", [case.get("measured_lines", 0)]),
            ):
                row[name] = _span([*row.get(name, []), *(size for size in sizes if size > 0)])
            row["patients"], row["slices"] = len(patients[key]), row["slices"] + case["slices"]
    return list(rows.values())


def _span(values: list[float]) -> list[float]:
    """The smallest and the largest."""
    return [min(values), max(values)] if values else []


def _earlier(folder: Path) -> dict[str, Any]:
    return read_manifest(folder) if (folder / FILE).exists() else {}


def _entry(path: Path) -> dict[str, Any]:
    with CaseFile(path) as case:
        info: CaseInfo = case.info
        labels = Counter(record.label for record in case.records)
        findings = Counter(box.label for record in case.records for box in record.boxes)
        return {
            "name": info.name,
            "patient_id": info.patient_id,
            "source": info.source,
            "origin": info.origin,
            "anatomy": info.anatomy,
            "contrast": info.contrast,
            "acquisition": info.acquisition,
            "measured": info.measured,
            "reviewed": info.reviewed,
            "slices": case.shape.slices,
            "coils": case.shape.coils,
            "shape": [case.shape.readout, case.shape.phase],
            "measured_lines": info.line_range[1] - info.line_range[0],
            "pixel_mm": [round(size, 4) for size in info.pixel_mm],
            "slice_mm": info.slice_mm,
            "abnormal_slices": labels[ABNORMAL],
            "normal_slices": labels[NORMAL],
            "boxes": dict(sorted(findings.items())),
            "note": info.note,
            "given_split": info.split,
        }
