"""The methods that are compared: which lines each takes, and how it makes an image of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pass_recon.reconstruction.classical import cg_sense, l1_wavelet, zero_filled
from pass_recon.types import InputError
from training.evaluate.trial import Trial

L1 = "l1-wavelet"
PASS = "pass"


@dataclass(frozen=True)
class Method:
    """A row of the tables.

    Attributes
    ----------
    title
        Its name there.
    plan
        The lines it takes, by the name of `training.evaluate.trial.PLANNERS`.
    image
        From a trial and the line mask ``(pe,)`` on its device to the image ``(1, ro, pe)`` at a peak of about 1.
    """

    title: str
    plan: str
    image: Callable[[Trial, Tensor], Tensor]


def _zero_filled(trial: Trial, mask: Tensor) -> Tensor:
    return zero_filled(trial.kspace, trial.coil_maps, mask)


def _cg_sense(trial: Trial, mask: Tensor) -> Tensor:
    return cg_sense(trial.kspace, trial.coil_maps, mask)


def _l1_wavelet(trial: Trial, mask: Tensor) -> Tensor:
    if trial.regularisation is None:
        raise InputError("L1-wavelet needs its λ, which was never tuned")
    with _seeded(trial.seed):
        return l1_wavelet(
            trial.kspace[0],
            trial.coil_maps[0],
            mask,
            regularisation=trial.regularisation,
            iterations=trial.iterations,
        )[None]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Sigpy begins its search for the step length at numbers from numpy's global generator."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _network(trial: Trial, mask: Tensor) -> Tensor:
    netad = trial.bundle.netad
    look = None if netad is None else netad.anomaly_map
    image: Tensor = trial.bundle.reconstructor(trial.kspace, trial.coil_maps, mask, look)[0]
    return image


def _network_without_map(trial: Trial, mask: Tensor) -> Tensor:
    image: Tensor = trial.bundle.reconstructor(trial.kspace, trial.coil_maps, mask)[0]
    return image


def _published(trial: Trial, mask: Tensor) -> Tensor:
    if trial.published is None:
        raise InputError("the published weights are not at hand")
    image: Tensor = trial.published.reconstructor(trial.kspace, trial.coil_maps, mask)[0]
    return image


# In the order of the tables.
METHODS: dict[str, Method] = {
    "zero-filled": Method("zero-filled", "personal", _zero_filled),
    "cg-sense": Method("CG-SENSE", "personal", _cg_sense),
    L1: Method("L1-wavelet", "personal", _l1_wavelet),
    "equispaced": Method("equispaced lines, same network", "equispaced", _network),
    "random": Method("random lines, same network", "random", _network),
    "population": Method("population lines, same network", "population", _network),
    "no-map": Method("PASS without its map", "personal", _network_without_map),
    PASS: Method("PASS", "personal", _network),
    "published": Method("published weights", "published", _published),
}


def asked_methods(names: Sequence[str]) -> tuple[str, ...]:
    """These methods, or all, in the order of the tables.

    Raises
    ------
    InputError
        If one is unknown.
    """
    unknown = sorted(set(names) - set(METHODS))
    if unknown:
        raise InputError(f"there is no method {', '.join(unknown)}; there are {', '.join(METHODS)}")
    return tuple(name for name in METHODS if not names or name in names)


def inapplicable(card: Mapping[str, Any], published: Mapping[str, Any] | None) -> dict[str, str]:
    """Which methods a bundle cannot be compared with, and why.

    Parameters
    ----------
    card
        The bundle's.
    published
        The card of the published weights; None where they are not given.
    """
    reasons = {}
    if card["configuration"]["netad"] is None:
        reasons["no-map"] = "the bundle has no detector, so PASS has no map to leave out"
    if card["configuration"]["sampler"].get("personal") is None:
        reasons["population"] = "the bundle has no AS network: the lines of PASS are the population's"
    if published is None:
        reasons["published"] = "no --published bundle was given"
    elif differing := [name for name in _ALIKE if card[name] != published[name]]:
        told = ", ".join(f"{name.replace('_', ' ')} {published[name]}" for name in differing)
        reasons["published"] = f"the published weights are for {told}"
    return reasons


_ALIKE = ("anatomy", "contrast", "acceleration", "acs_fraction")
