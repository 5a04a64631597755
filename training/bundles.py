"""From finished runs to bundles, and from an evaluation to the metrics on their cards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pass_recon.bundles import Bundle, save_bundle
from pass_recon.config import NetworkConfig, ReconstructorConfig, SamplerConfig, from_dict
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.sampling.budget import acs_fraction
from pass_recon.sampling.personal import LineSampler
from pass_recon.types import InputError
from training.engine.run_folder import SETTINGS, VERSIONS, WEIGHTS, load_weights, read_tensors
from training.engine.settings import read_table
from training.stages.anomaly_maps import NETAD, load_detectors
from training.stages.losses import acceleration_of, bundle_name
from training.stages.registry import STAGES

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
# The last that was trained for an acceleration makes its bundles.
_RECONSTRUCTORS = ("guided_4x", "guided_8x", "guided", "reconstruction")
_RUNS = ("initial", "reconstruction", "sampling", "netad", "backbone", "calibration", "path")
FOR_EVERYBODY = (
    " There is no anomaly-aware sampling network: on validation patients a patient's own lines were no better than the "
    "population's, which everybody gets."
)
WITHOUT_DETECTOR = " There is no anomaly detector: the networks get a map of zeros, as in part of their training."


def make_bundles(runs: Path, output: Path, *, results: Sequence[Path] = ()) -> list[Path]:
    """Write a bundle for every kind and acceleration that the stages were trained for, replacing older ones.

    Where personal lines were no better than the population's on validation patients, a bundle has no AS network.

    Parameters
    ----------
    runs
        Holds the run folders ``reconstruction``, if wanted ``guided``, ``guided_4x`` and ``guided_8x``, ``sampling``,
        and ``netad``, without which bundles have no detector.
    output
        A folder for the bundles.
    results
        Results of `pass-recon evaluate`, whose metrics go to the cards.

    Raises
    ------
    InputError
        If a run is missing or has no weights yet.
    """
    sampling = read_table(runs / "sampling" / SETTINGS)
    netads = load_detectors(runs / "netad") if (runs / "netad" / NETAD).is_file() else {}
    trained = {acceleration: _trained_for(acceleration, runs) for acceleration in sampling["accelerations"]}
    reconstructors = {run: _reconstructor(run) for run in trained.values()}
    measured = [json.loads(path.read_text(encoding="utf-8")) for path in results]
    folders = []
    for kind in sampling["kinds"]:
        for acceleration in sampling["accelerations"]:
            name, first = bundle_name(kind, acceleration), trained[acceleration]
            sampler = _sampler(runs / "sampling", name, lines=read_table(first / SETTINGS)["lines"])
            anatomy, contrast = kind.split("-")
            bundle = Bundle(
                name=name,
                anatomy=anatomy,
                contrast=contrast,
                acceleration=float(acceleration),
                acs_fraction=acs_fraction(acceleration),
                reconstructor=reconstructors[first],
                sampler=sampler,
                netad=netads.get(kind),
                card=_description(runs, first, name, measured),
            )
            shared = ("reconstructor", "backbone", "netad")
            folders.append(save_bundle(bundle, output / name, half=True, shared=shared, overwrite=True))
    _forget_unused(output, folders)
    return folders


def _trained_for(acceleration: float, runs: Path) -> Path:
    """The run folder of the reconstructor for an acceleration."""
    finished = [runs / name for name in _RECONSTRUCTORS if (runs / name / WEIGHTS).is_file()]
    for run in finished:
        if acceleration in read_table(run / SETTINGS)["accelerations"]:
            return run
    raise InputError(f"no reconstructor for {acceleration:g}× among the finished runs of {runs}")


def _sampler(run: Path, name: str, lines: int) -> LineSampler:
    network, acceleration = read_table(run / SETTINGS)["network"], acceleration_of(name)
    sampler = LineSampler(
        SamplerConfig(lines, from_dict(NetworkConfig, network), acs_fraction(acceleration), centred=True)
    )
    sampler.load_state_dict(load_weights(run, f"samplers.{name}."))
    if _gain(run, name) > 0:
        return sampler
    for_everybody = LineSampler(SamplerConfig(lines, None, acs_fraction(acceleration)))
    for_everybody.population.load_state_dict(sampler.population.state_dict())
    return for_everybody


def _gain(run: Path, name: str) -> float:
    """What personal lines were worth on validation patients, dB."""
    return float(read_tensors(run / WEIGHTS)[1].get(f"gain {name}", 0.0))


def _reconstructor(run: Path) -> UnrolledReconstructor:
    reconstructor = UnrolledReconstructor(from_dict(ReconstructorConfig, read_table(run / SETTINGS)["reconstructor"]))
    reconstructor.load_state_dict(load_weights(run, "reconstructor."))
    return reconstructor


def _description(runs: Path, first: Path, name: str, measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    elsewhere = set(_RECONSTRUCTORS) - set(_lineage(first.name))
    stages = {stage: runs / stage for stage in STAGES if stage not in elsewhere}
    recipe = {
        stage: {"settings": _without_paths(read_table(folder / SETTINGS)), "steps_done": _steps(folder)}
        for stage, folder in stages.items()
        if (folder / SETTINGS).is_file()
    }
    metrics = {place: found for result in measured for place, found in card_metrics(result, name).items()}
    versions = json.loads((first / VERSIONS).read_text(encoding="utf-8"))
    recipe["trained_with"] = {key: versions[key] for key in ("torch", "python", "machine", "threads")}
    notes = NOTES + (WITH_DETECTOR if "netad" in recipe else WITHOUT_DETECTOR)
    notes += "" if _gain(runs / "sampling", name) > 0 else FOR_EVERYBODY
    return {"data": list(DATA), "licence": LICENCE, "notes": notes, "metrics": metrics, "recipe": recipe}


def _lineage(stage: str) -> list[str]:
    """A stage and those whose weights it went on with, the last first."""
    before = dict(STAGES[stage].after).get("initial")
    return [stage, *(_lineage(before) if before else [])]


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
            "whole image": {metric: ours[metric] for metric in ("psnr", "ssim", "nmse")},
            "inside lesions": ours["inside"],
            "psnr of PASS minus": group["differences"],
            "detection": group["detection"],
        }
    return found


def _without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that name a run keep its name: where it lay is nobody's business."""
    return {name: Path(value).name if name in _RUNS else value for name, value in settings.items()}


def _steps(folder: Path) -> int:
    return int(read_tensors(folder / WEIGHTS)[1].get("step", 0)) if (folder / WEIGHTS).is_file() else 0


def _forget_unused(output: Path, folders: Sequence[Path]) -> None:
    """Remove shared files that no bundle of the folder names any more."""
    cards = [json.loads((folder / "card.json").read_text(encoding="utf-8")) for folder in output.glob("*/")
             if (folder / "card.json").is_file()]  # fmt: skip
    used = {name for card in cards for name, entry in card["files"].items() if entry["shared"]}
    if not folders:
        raise InputError(f"no bundle was made in {output}")
    for path in (output / "common").glob("*.safetensors"):
        if path.name not in used:
            path.unlink()
