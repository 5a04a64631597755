"""The methods that are compared: which lines each takes, and how it makes an image of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pass_recon.anomaly import AnomalyResult
from pass_recon.bundles import Bundle
from pass_recon.phantom.draws import mixed_seed
from pass_recon.preparation import acs_maps, intensity_scale
from pass_recon.reconstruction.classical import cg_sense, l1_wavelet, zero_filled
from pass_recon.sampling.lines import (
    acs_count,
    acs_mask,
    equispaced_lines,
    line_budget,
    reachable_lines,
    select_lines,
)
from pass_recon.types import InputError
from training.data.dataset import Slices
from training.evaluate.selection import MapSource


@dataclass(frozen=True)
class Plan:
    """Lines ``(pe,)`` bool on the CPU, and the seconds that it took to choose them from the ACS image."""

    lines: Tensor
    seconds: float


class Clock:
    """Seconds spent in a ``with`` block, work that the device still had to do included."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure."""
        self._wait()
        start = perf_counter()
        yield
        self._wait()
        self.seconds = perf_counter() - start

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class Trial:
    """One slice at one noise level with one bundle; every method starts from the same k-space, maps and scale.

    Parameters
    ----------
    slices
        One slice, not a batch.
    bundle
        The networks, on the device of the slice.
    noise
        σ of the noise of each coil; None for that of the case.
    maps
        The true coil maps, or those that ESPIRiT finds in the ACS.
    published
        Bundle of the published weights, for the method of that name.
    regularisation, iterations
        Of L1-wavelet.

    Attributes
    ----------
    kspace, coil_maps
        ``(1, coils, ro, pe)`` complex64 at an image peak of about 1.
    scale
        ``(1, 1, 1)``, by which images are multiplied to be compared with the truth; it comes from the ACS alone.
    acs
        ``(pe,)`` bool.
    seed
        Of what is random in a method: it depends on case and slice alone.
    plans
        Those made so far, by name.
    reconstruction
        ``(1, ro, pe)``, the image of PASS once it was made.
    """

    def __init__(
        self,
        slices: Slices,
        bundle: Bundle,
        *,
        noise: float | None,
        maps: MapSource = "true",
        published: Bundle | None = None,
        regularisation: float | None = None,
        iterations: int = 100,
    ) -> None:
        kspace = slices.kspace(noise=noise, fixed=True)[None]
        pe = kspace.shape[-1]
        self.bundle, self.published = bundle, published
        self.regularisation, self.iterations = regularisation, iterations
        self.acs = acs_mask(pe, acs_count(pe, bundle.acs_fraction))
        self.scale = intensity_scale(kspace, self.acs)
        self.kspace = kspace / self.scale.unsqueeze(-3)
        self.coil_maps = slices.coil_maps[None] if maps == "true" else estimated_maps(self.kspace, self.acs)
        self.budget = line_budget(pe, bundle.acceleration)
        first, stop = (int(line) for line in slices.line_range)
        self.reachable = reachable_lines(pe, first, stop - 1)
        self.seed = mixed_seed(slices.case, int(slices.slice_index), "evaluate")
        self.plans: dict[str, Plan] = {}
        self.reconstruction: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.kspace.device

    @cached_property
    def acs_image(self) -> Tensor:
        """``(1, ro, pe)``: the first glimpse of the patient."""
        return zero_filled(self.kspace, self.coil_maps, self.acs.to(self.device))

    @cached_property
    def glimpse(self) -> AnomalyResult | None:
        """What the detector sees in the ACS image; None where there is none."""
        return None if self.bundle.netad is None else self.bundle.netad(self.acs_image)

    def plan(self, name: str) -> Plan:
        """The plan of that name in `PLANNERS`, made once."""
        if name not in self.plans:
            clock, _ = Clock(self.device), self.acs_image  # common to all plans, so no part of their time
            with clock.running():
                lines = PLANNERS[name](self).cpu()
            self.plans[name] = Plan(lines, clock.seconds)
        return self.plans[name]


def estimated_maps(kspace: Tensor, acs: Tensor) -> Tensor:
    """Maps of ``(b, coils, ro, pe)`` from the ACS lines alone, as a scan has them."""
    return acs_maps(kspace * acs.to(kspace.device), int(acs.sum()))


def _personal(trial: Trial) -> Tensor:
    return _by_sampler(trial, trial.bundle)


def _published_lines(trial: Trial) -> Tensor:
    if trial.published is None:
        raise InputError("the published weights are not at hand")
    return _by_sampler(trial, trial.published)


def _by_sampler(trial: Trial, bundle: Bundle) -> Tensor:
    asked = bundle is trial.bundle and bundle.sampler.personal is not None
    seen = trial.glimpse if asked else None
    logits = bundle.sampler(trial.acs_image, None if seen is None else seen.map)[0].cpu()
    return select_lines(logits, trial.acs, trial.budget, trial.reachable)


def _population(trial: Trial) -> Tensor:
    logits = trial.bundle.sampler.population(trial.kspace.shape[-1]).cpu()
    return select_lines(logits, trial.acs, trial.budget, trial.reachable)


def _equispaced(trial: Trial) -> Tensor:
    within = int(trial.reachable.sum())
    if trial.budget >= within:
        return trial.reachable
    # Evenly spread over what the scanner can acquire, as if there were no other lines.
    lines = torch.zeros_like(trial.reachable)
    lines[trial.reachable] = equispaced_lines(within, within / trial.budget, trial.acs[trial.reachable])
    return lines


def _random(trial: Trial) -> Tensor:
    logits = torch.rand(len(trial.acs), generator=torch.Generator().manual_seed(trial.seed))
    return select_lines(logits, trial.acs, trial.budget, trial.reachable)


PLANNERS: dict[str, Callable[[Trial], Tensor]] = {
    "personal": _personal,
    "population": _population,
    "equispaced": _equispaced,
    "random": _random,
    "published": _published_lines,
}


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
        The lines it takes, by the name of `training.evaluate.methods.PLANNERS`.
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
