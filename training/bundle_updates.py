"""Bundles that get another network or newly measured figures, and stay otherwise as they are."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pass_recon.bundles import CARD, Bundle, load_bundle, save_bundle, write_card
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.types import InputError
from training.bundles import SHARED, forget_unused
from training.cards import card_metrics
from training.engine.run_folder import WEIGHTS, load_weights, read_tensors, settings_of
from training.stages.anomaly_maps import load_detectors
from training.stages.mixture import MixtureTraining

_RECIPE, _MEASURED = ("backbone", "netad"), "detection"


def replace_detectors(
    run: Path, bundles: Path, *, data: Sequence[str] = (), made: Mapping[str, Any] | None = None
) -> list[Path]:
    """Give every bundle in a folder the detector of its examination, and its card the truth about it.

    What the card says of the old detector's quality goes; measure anew. The networks that were trained with its maps
    stay.

    Parameters
    ----------
    run
        Of `train netad`.
    bundles
        Folder of bundles; shared files that nobody needs any more are removed.
    data
        What the detectors saw beyond the card's own data.
    made
        How they were made, for ``backbone`` and ``netad`` of the card's recipe.

    Raises
    ------
    InputError
        If no bundle there is of an examination that the run has.
    """
    netads = load_detectors(run)
    having = {
        path: bundle for path, bundle in _bundles_in(bundles).items() if f"{bundle.anatomy}-{bundle.contrast}" in netads
    }
    if not having:
        raise InputError(f"no bundle in {bundles} is of an examination that {run} has: {', '.join(netads)}")
    for bundle in having.values():
        bundle.netad = netads[f"{bundle.anatomy}-{bundle.contrast}"]
        card = bundle.card
        card["data"] = list(dict.fromkeys([*card["data"], *data]))
        card["recipe"] = {**card["recipe"], **{name: entry for name, entry in (made or {}).items() if name in _RECIPE}}
        for measured in card["metrics"].values():
            measured.pop(_MEASURED, None)
    return _saved(having, bundles)


def replace_reconstructor(run: Path, bundles: Path, *, own_lines: Collection[str] = ()) -> list[Path]:
    """Give every bundle in a folder the reconstructor of a run of `train mixture` for lines of all kinds.

    What the cards say of the images' quality goes where the reconstructor of a bundle's own lines changes too.

    Parameters
    ----------
    run
        Of `train mixture`.
    bundles
        Folder of bundles; shared files that nobody needs any more are removed.
    own_lines
        Names of the bundles whose own lines it reconstructs too: they have no other reconstructor afterwards.

    Raises
    ------
    InputError
        If there is no bundle, or none of a name in ``own_lines``.
    """
    settings = settings_of(run, MixtureTraining)
    reconstructor = UnrolledReconstructor(settings.reconstructor)
    reconstructor.load_state_dict(load_weights(run, "reconstructor."))
    steps = int(read_tensors(run / WEIGHTS)[1].get("step", 0))
    found = _bundles_in(bundles)
    if missing := set(own_lines) - {bundle.name for bundle in found.values()}:
        raise InputError(f"no bundle in {bundles} is called {', '.join(sorted(missing))}")
    for bundle in found.values():
        bundle.card["recipe"] = {**bundle.card.get("recipe", {}), "mixture": f"stage mixture, {steps} steps"}
        if bundle.name in own_lines:
            bundle.reconstructor, bundle.general = reconstructor, None
            bundle.card["metrics"] = {}
        else:
            bundle.general = reconstructor
    return _saved(found, bundles)


def record_results(bundles: Path, results: Sequence[Path]) -> list[Path]:
    """Write what `pass-recon evaluate` measured on the cards of the bundles in a folder.

    Raises
    ------
    InputError
        If the results are of none of them.
    """
    measured = [json.loads(path.read_text(encoding="utf-8")) for path in results]
    told = []
    for folder in _bundles_in(bundles):
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        new = {place: entry for result in measured for place, entry in card_metrics(result, card["name"]).items()}
        if new:
            card["metrics"] = {**card.get("metrics", {}), **new}
            write_card(folder, card)
            told.append(folder)
    if not told:
        raise InputError(f"{', '.join(map(str, results))}: results of no bundle in {bundles}")
    return told


def _bundles_in(folder: Path) -> dict[Path, Bundle]:
    found = {path.parent: load_bundle(path.parent.absolute()) for path in sorted(folder.glob(f"*/{CARD}"))}
    if not found:
        raise InputError(f"there is no bundle in {folder}")
    return found


def _saved(changed: Mapping[Path, Bundle], folder: Path) -> list[Path]:
    saved = [save_bundle(bundle, path, half=True, shared=SHARED, overwrite=True) for path, bundle in changed.items()]
    forget_unused(folder, saved)
    return saved
