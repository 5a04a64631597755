"""From finished runs to bundles, and from an evaluation to the metrics on their cards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pass_recon.bundles import Bundle, save_bundle
from pass_recon.common.settings import read_table
from pass_recon.config import NetworkConfig, SamplerConfig
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.sampling.budget import acs_fraction
from pass_recon.sampling.personal import LineSampler
from pass_recon.types import InputError
from training.cards import UNSTATED, data_of, described, gain_of, lineage
from training.engine.run_folder import SETTINGS, WEIGHTS, load_weights, settings_of
from training.recipe import read_recipe
from training.stages.anomaly_maps import NETAD, load_detectors
from training.stages.reconstruction import ReconstructionSettings
from training.stages.sampling import SamplingSettings
from training.stages.shared import acceleration_of, bundle_name

SHARED = ("reconstructor", "general", "backbone", "netad")
"""Files that bundles of one folder have in common."""


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


def make_bundles(
    runs: Path,
    output: Path,
    *,
    results: Sequence[Path] = (),
    recipe: Path | None = None,
    attribution: Sequence[str] = (),
    licence: str = UNSTATED,
) -> list[Path]:
    """Write a bundle for every examination and acceleration that the stages had data of, replacing older ones.

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
    attribution
        What the cards say of the data beside the facts: whose they are, and under which licence.
    licence
        Of the weights.

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
    known = {row["examination"] for row in data_of(runs / "sampling")}
    for examination in sampling.examinations:
        if known and examination not in known:
            continue
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
                card=described(runs, reconstruction, name, measured, recipe, attribution=attribution, licence=licence),
            )
            folders.append(save_bundle(bundle, output / name, half=True, shared=SHARED, overwrite=True))
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
    return max(having, key=lambda run: len(lineage(run)))


def _sampler(run: Path, name: str, network: NetworkConfig, lines: int) -> LineSampler:
    fraction = acs_fraction(acceleration_of(name))
    sampler = LineSampler(SamplerConfig(lines, network, fraction, centred=True))
    sampler.load_state_dict(load_weights(run, f"samplers.{name}."))
    if gain_of(run, name) > 0:
        return sampler
    population_alone = LineSampler(SamplerConfig(lines, None, fraction))
    population_alone.population.load_state_dict(sampler.population.state_dict())
    return population_alone


def _reconstructor(run: Path) -> UnrolledReconstructor:
    reconstructor = UnrolledReconstructor(settings_of(run, ReconstructionSettings).reconstructor)
    reconstructor.load_state_dict(load_weights(run, "reconstructor."))
    return reconstructor


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
