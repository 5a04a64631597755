"""Other detectors for bundles that stay otherwise as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pass_recon.bundles import load_bundle, save_bundle
from pass_recon.types import InputError
from training.bundles import forget_unused
from training.stages.anomaly_maps import load_detectors

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
    folders = []
    for folder in sorted(path.parent for path in bundles.glob("*/card.json")):
        bundle = load_bundle(f"./{folder}" if not folder.is_absolute() else folder)
        examination = f"{bundle.anatomy}-{bundle.contrast}"
        if examination not in netads:
            continue
        bundle.netad = netads[examination]
        card = bundle.card
        card["data"] = list(dict.fromkeys([*card["data"], *data]))
        card["recipe"] = {**card["recipe"], **{name: entry for name, entry in (made or {}).items() if name in _RECIPE}}
        for measured in card["metrics"].values():
            measured.pop(_MEASURED, None)
        shared = ("reconstructor", "backbone", "netad")
        folders.append(save_bundle(bundle, folder, half=True, shared=shared, overwrite=True))
    if not folders:
        raise InputError(f"no bundle in {bundles} is of an examination that {run} has: {', '.join(netads)}")
    forget_unused(bundles, sorted(path.parent for path in bundles.glob("*/card.json")))
    return folders
