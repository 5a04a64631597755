"""From finished runs to bundles, and from an evaluation to the metrics on their cards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pass_recon.bundles import Bundle, save_bundle
from pass_recon.common.settings import read_table, to_dict
from pass_recon.config import NetworkConfig, SamplerConfig
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.sampling.budget import acs_fraction
from pass_recon.sampling.personal import LineSampler
from pass_recon.types import InputError
from training.engine.run_folder import SETTINGS, VERSIONS, WEIGHTS, load_weights, read_tensors, settings_of
from training.engine.settings import run_settings
from training.recipe import Run, read_recipe
from training.stages.anomaly_maps import NETAD, load_detectors
from training.stages.reconstruction import ReconstructionSettings
from training.stages.registry import STAGES
from training.stages.sampling import SamplingSettings
from training.stages.shared import acceleration_of, bundle_name

DATA = (
    "Open MS data (Lesjak et al., Neuroinformatics 2016; CC-BY): T1w and FLAIR magnitude volumes of three patients "
    "(01, 03, 04), with simulated lesions painted in, simulated coils, phase and noise",
    "simulated patients of pass_recon.phantom: brain T1w and FLAIR, knee PD",
)
LICENCE = "MIT; the Open MS data are CC-BY and must be attributed as above"
NOTES = (
    "Research software, not for clinical use. Trained on the data named here, most of it simulated; never on measured "
    "k-space."
)
WITH_DETECTOR = (
    " The vision-language backbone is a small CLIP of our own, trained on the same slices and their captions, because "
    "no published weights were at hand: OpenAI's or BiomedCLIP's plug in by name, see the README."
)
_QUALITY = ("psnr", "ssim")
_DETECTION = ("image_auc", "pixel_auc", "calibration_error")
_PATHS = ("initial", "reconstruction", "sampling", "netad", "backbone", "calibration", "path")
WITHOUT_SAMPLER = (
    " There is no anomaly-aware sampling network: on validation patients a patient's own lines were no better than the "
    "population's, which everybody gets."
)
WITHOUT_DETECTOR = " There is no anomaly detector: the networks get a map of zeros, as in part of their training."


def train_all(
    recipe: Path, data: Sequence[Path], folder: Path, device: str = "auto", *, changes: Sequence[str] = ()
) -> None:
    """Every run of a recipe, each in a folder of its own below ``folder``, then the bundles.

    What is done already is not done again, and what was interrupted goes on.

    Parameters
    ----------
    recipe
        YAML with a table a run.
    data
        Prepared datasets.
    folder
        Of the run folders and the bundles.
    device
        ``auto``, ``cpu``, ``cuda`` …
    changes
        Settings to change, ``run.name=value``.

    Raises
    ------
    InputError
        If a table or a change is not understood; nothing has been trained then.
    """
    for run in read_recipe(recipe, folder, changes):
        run.stage.train(run.settings, data, run.folder, device)
    make_bundles(folder, folder / "bundles", recipe=recipe)


def make_bundles(runs: Path, output: Path, *, results: Sequence[Path] = (), recipe: Path | None = None) -> list[Path]:
    """Write a bundle for every examination and acceleration that the stages were trained for, replacing older ones.

    An acceleration gets the reconstructor for it that has most runs before it. Where personal lines were no better than
    the population's on validation patients, a bundle has no AS network.

    Parameters
    ----------
    runs
        Holds run folders: those of the stage reconstruction, ``sampling``, and ``netad``, without which bundles have no
        detector.
    output
        A folder for the bundles.
    results
        Results of `pass-recon evaluate`, whose metrics go to the cards.
    recipe
        What the runs were made by; cards name it, and say where a run differs from it.

    Raises
    ------
    InputError
        If a run is missing or has no weights yet.
    """
    sampling = settings_of(runs / "sampling", SamplingSettings)
    netads = load_detectors(runs / "netad") if (runs / "netad" / NETAD).is_file() else {}
    trained = {acceleration: _trained_for(acceleration, runs) for acceleration in sampling.accelerations}
    reconstructors = {run: _reconstructor(run) for run in trained.values()}
    measured = [json.loads(path.read_text(encoding="utf-8")) for path in results]
    folders = []
    for examination in sampling.examinations:
        for acceleration in sampling.accelerations:
            name, reconstruction = bundle_name(examination, acceleration), trained[acceleration]
            lines = settings_of(reconstruction, ReconstructionSettings).lines
            sampler = _sampler(runs / "sampling", name, sampling.network, lines)
            anatomy, contrast = examination.split("-")
            bundle = Bundle(
                name=name,
                anatomy=anatomy,
                contrast=contrast,
                acceleration=float(acceleration),
                acs_fraction=acs_fraction(acceleration),
                reconstructor=reconstructors[reconstruction],
                sampler=sampler,
                netad=netads.get(examination),
                card=_description(runs, reconstruction, name, measured, recipe),
            )
            shared = ("reconstructor", "backbone", "netad")
            folders.append(save_bundle(bundle, output / name, half=True, shared=shared, overwrite=True))
    forget_unused(output, folders)
    return folders


def _trained_for(acceleration: float, runs: Path) -> Path:
    """The run folder of the reconstructor for an acceleration: of those that have it, the one with most runs before."""
    having = [
        path.parent
        for path in sorted(runs.glob(f"*/{WEIGHTS}"))
        if read_table(path.parent / SETTINGS)["stage"] == "reconstruction"
        and acceleration in settings_of(path.parent, ReconstructionSettings).accelerations
    ]
    if not having:
        raise InputError(f"no reconstructor for {acceleration:g}× among the finished runs of {runs}")
    return max(having, key=lambda run: len(_lineage(run)))


def _lineage(run: Path) -> list[Path]:
    """The runs that a run builds on, and itself, in the order in which they were trained."""
    settings_class = STAGES[read_table(run / SETTINGS)["stage"]].settings_class
    settings = settings_of(run, settings_class)
    names = [Path(name).name for setting in run_settings(settings_class) if (name := getattr(settings, setting))]
    before = [run.parent / name for name in names if (run.parent / name / SETTINGS).is_file()]
    return list(dict.fromkeys([*(earlier for path in before for earlier in _lineage(path)), run]))


def _sampler(run: Path, name: str, network: NetworkConfig, lines: int) -> LineSampler:
    fraction = acs_fraction(acceleration_of(name))
    sampler = LineSampler(SamplerConfig(lines, network, fraction, centred=True))
    sampler.load_state_dict(load_weights(run, f"samplers.{name}."))
    if _gain(run, name) > 0:
        return sampler
    population_alone = LineSampler(SamplerConfig(lines, None, fraction))
    population_alone.population.load_state_dict(sampler.population.state_dict())
    return population_alone


def _gain(run: Path, name: str) -> float:
    """What personal lines were worth on validation patients, dB."""
    return float(read_tensors(run / WEIGHTS)[1].get(f"gain {name}", 0.0))


def _reconstructor(run: Path) -> UnrolledReconstructor:
    reconstructor = UnrolledReconstructor(settings_of(run, ReconstructionSettings).reconstructor)
    reconstructor.load_state_dict(load_weights(run, "reconstructor."))
    return reconstructor


def _description(
    runs: Path, reconstruction: Path, name: str, measured: Sequence[Mapping[str, Any]], recipe: Path | None
) -> dict[str, Any]:
    parts = [part for part in (reconstruction, runs / "sampling", runs / "netad") if (part / SETTINGS).is_file()]
    lineage = dict.fromkeys(run for part in parts for run in _lineage(part))
    usual = {} if recipe is None else {run.folder.name: run for run in read_recipe(recipe, runs)}
    versions = json.loads((reconstruction / VERSIONS).read_text(encoding="utf-8"))
    made: dict[str, Any] = {run.name: _made(run, usual.get(run.name)) for run in lineage}
    made["trained_with"] = {
        **({} if recipe is None else {"recipe": recipe.name}),
        **{key: versions[key] for key in ("pass_recon", "torch", "python", "machine", "threads")},
    }
    metrics = {place: found for result in measured for place, found in card_metrics(result, name).items()}
    notes = NOTES + (WITH_DETECTOR if "netad" in made else WITHOUT_DETECTOR)
    notes += "" if _gain(runs / "sampling", name) > 0 else WITHOUT_SAMPLER
    return {"data": list(DATA), "licence": LICENCE, "notes": notes, "metrics": metrics, "recipe": made}


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


def forget_unused(output: Path, folders: Sequence[Path]) -> None:
    """Remove shared files that no bundle of the folder names any more."""
    cards = [json.loads((folder / "card.json").read_text(encoding="utf-8")) for folder in output.glob("*/")
             if (folder / "card.json").is_file()]  # fmt: skip
    used = {name for card in cards for name, entry in card["files"].items() if entry["shared"]}
    if not folders:
        raise InputError(f"no bundle was made in {output}")
    for path in (output / "common").glob("*.safetensors"):
        if path.name not in used:
            path.unlink()
