"""What the card of a bundle says: facts that runs and evaluations wrote down."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pass_recon.common.settings import read_table, to_dict
from training.engine.run_folder import DATA, SETTINGS, VERSIONS, WEIGHTS, read_tensors, settings_of
from training.engine.settings import run_settings
from training.recipe import Run, read_recipe
from training.stages.netad import NetADSettings
from training.stages.registry import STAGES

UNSTATED = "not stated: whoever trained these weights decides; the data keep the licences of their owners"
RESEARCH = "Research software, not for clinical use."
WITHOUT_SAMPLER = (
    "There is no anomaly-aware sampling network: on validation patients a patient's own lines were no better than the "
    "population's, which everybody gets."
)
WITHOUT_DETECTOR = "There is no anomaly detector: the networks get a map of zeros, as in part of their training."
_QUALITY = ("psnr", "ssim")
_DETECTION = ("image_auc", "pixel_auc", "calibration_error")
_PATHS = ("initial", "reconstruction", "sampling", "netad", "backbone", "calibration", "path")


def data_of(run: Path) -> list[dict[str, Any]]:
    """What a run wrote down of its training data; nothing where it did not."""
    path = run / DATA
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _sentence(row: Mapping[str, Any]) -> str:
    """One row of the facts."""
    if row["source"] == "simulated":
        origin = "simulated patients and k-space"
    elif row["measured"]:
        origin = f"measured k-space ({row['source']})"
    else:
        origin = f"images ({row['source']}) with simulated coils, phase and noise"
    return (
        f"{row['dataset']}: {row['examination']}, {row['patients']} patients, {row['slices']} slices, "
        f"{row['annotated']} cases with boxes, {origin}{_grid(row)}"
    )


def _grid(row: Mapping[str, Any]) -> str:
    """Sizes of pixels, and how many lines there were; runs from before they were written down say nothing."""
    pixels, lines = row.get("pixel_mm"), row.get("measured_lines")
    told = f", pixels of {_range(pixels)} mm" if pixels else ""
    return told + (f", {_range(lines)} lines" if lines else "")


def _range(ends: Sequence[float]) -> str:
    low, high = (f"{end:.3g}" for end in ends)
    return low if low == high else f"{low} to {high}"


def _origin(facts: Sequence[Mapping[str, Any]]) -> str:
    measured = {bool(row["measured"]) for row in facts}
    if not measured:
        return "The runs did not write down what data they had."
    if measured == {True}:
        return "Trained on measured k-space."
    return "Trained on measured and on simulated k-space." if True in measured else "Trained on simulated k-space only."


def _detector(run: Path) -> str:
    if not (run / SETTINGS).is_file():
        return WITHOUT_DETECTOR
    settings = settings_of(run, NetADSettings)
    if settings.clip or settings.path:
        clip = " ".join(part for part in (settings.clip, settings.pretrained, Path(settings.path).name) if part)
        return f"The vision-language backbone is {clip}, as published; it is not trained here."
    return "The vision-language backbone is a small CLIP, trained on the images named here and their captions alone."


def lineage(run: Path) -> list[Path]:
    """The runs that a run builds on, and itself, in the order in which they were trained."""
    settings_class = STAGES[read_table(run / SETTINGS)["stage"]].settings_class
    settings = settings_of(run, settings_class)
    names = [Path(name).name for setting in run_settings(settings_class) if (name := getattr(settings, setting))]
    before = [run.parent / name for name in names if (run.parent / name / SETTINGS).is_file()]
    return list(dict.fromkeys([*(earlier for path in before for earlier in lineage(path)), run]))


def gain_of(run: Path, name: str) -> float:
    """What personal lines were worth on validation patients, dB."""
    return float(read_tensors(run / WEIGHTS)[1].get(f"gain {name}", 0.0))


def described(
    runs: Path,
    reconstruction: Path,
    name: str,
    measured: Sequence[Mapping[str, Any]],
    recipe: Path | None,
    *,
    attribution: Sequence[str],
    licence: str,
) -> dict[str, Any]:
    """What a bundle's card says of where its weights come from: what the runs wrote down, and nothing else."""
    parts = [part for part in (reconstruction, runs / "sampling", runs / "netad") if (part / SETTINGS).is_file()]
    lineage_of_all = list(dict.fromkeys(run for part in parts for run in lineage(part)))
    usual = {} if recipe is None else {run.folder.name: run for run in read_recipe(recipe, runs)}
    versions = json.loads((reconstruction / VERSIONS).read_text(encoding="utf-8"))
    made: dict[str, Any] = {run.name: _made(run, usual.get(run.name)) for run in lineage_of_all}
    made["trained_with"] = {
        **({} if recipe is None else {"recipe": recipe.name}),
        **{key: versions[key] for key in ("pass_recon", "torch", "python", "machine", "threads")},
    }
    metrics = {place: found for result in measured for place, found in card_metrics(result, name).items()}
    facts = [row for run in lineage_of_all for row in data_of(run)]
    notes = [RESEARCH, _origin(facts), _detector(runs / "netad")]
    notes += [] if gain_of(runs / "sampling", name) > 0 else [WITHOUT_SAMPLER]
    data = list(dict.fromkeys([*map(_sentence, facts), *attribution]))
    return {"data": data, "licence": licence, "notes": " ".join(notes), "metrics": metrics, "recipe": made}


def _made(folder: Path, planned: Run | None) -> str:
    """How far a run got, and its settings where they are not the recipe's; without a recipe, not the defaults."""
    values = read_table(folder / SETTINGS)
    stage = values.pop("stage")
    usual = _named(to_dict(STAGES[stage].settings_class() if planned is None else planned.settings))
    apart = [f"{name} {value}" for name, value in _named(values).items() if usual.get(name) != value]
    told = f"stage {stage}, {_steps(folder)} steps"
    return (
        f"{told}; unlike {'the defaults' if planned is None else 'the recipe'}: {', '.join(apart)}" if apart else told
    )


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of settings that are paths the last part: where it lay is nobody's business."""
    return {name: Path(value).name if name in _PATHS else value for name, value in settings.items()}


def card_metrics(results: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a card says of an evaluation: of every dataset and noise level the quality of PASS and what it gains.

    Parameters
    ----------
    results
        ``results.json`` of `pass-recon evaluate`.
    name
        Of the bundle.
    """
    found = {}
    for group in results["groups"]:
        if group["bundle"] != name:
            continue
        ours = group["methods"]["pass"]
        found[f"{group['dataset']}, noise {group['noise']:g}, {group['maps']} coil maps"] = {
            "patients": group["patients"],
            "slices": group["slices"],
            "whole image": _rounded(ours, _QUALITY),
            "inside lesions": _rounded(ours["inside"], _QUALITY),
            "psnr of PASS minus": _rounded(group["differences"]),
            "detection": {view: _rounded(found, _DETECTION) for view, found in group["detection"].items()},
        }
    return found


def _rounded(value: Any, names: Sequence[str] = ()) -> Any:
    """Figures, or those of the names, as a card has them: four digits, an interval as its mean and its ends."""
    if isinstance(value, Mapping):
        if {"mean", "low", "high"} <= set(value):
            ends = [value[name] for name in ("mean", "low", "high") if value[name] is not None]
            return _rounded(ends if len(ends) > 1 else ends[0] if ends else None)
        return {name: _rounded(item) for name, item in value.items() if name in (names or value)}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(float(f"{value:.4g}"), 4) if isinstance(value, float) else value


def _steps(folder: Path) -> int:
    return int(read_tensors(folder / WEIGHTS)[1].get("step", 0)) if (folder / WEIGHTS).is_file() else 0
