"""The methods that are compared: which lines each takes, and how it makes an image of them.

To add a method, add an entry to ``METHODS``; to add a way to choose lines, one to ``LINE_CHOOSERS`` and a method that
takes them. Everything else (tables, figures, the command line) follows from these two.
"""

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

from pass_recon.bundles import Bundle
from pass_recon.phantom.draws import mixed_seed
from pass_recon.pipeline import Pipeline
from pass_recon.preparation import PreparedScan, prepare
from pass_recon.reconstruction.classical import l1_wavelet, zero_filled
from pass_recon.sampling.lines import equispaced_lines, line_budget, reachable_lines, select_lines
from pass_recon.types import InputError, Reconstruction, SamplingPlan
from training.data.dataset import Slices
from training.evaluate.selection import MapSource


@dataclass(frozen=True)
class ChosenLines:
    """Lines ``(pe,)`` bool on the CPU, and the seconds that it took to choose them."""

    lines: Tensor
    seconds: float


def indices(lines: Tensor) -> tuple[int, ...]:
    """The indices of a mask ``(pe,)``."""
    return tuple(lines.nonzero().flatten().tolist())


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


class ScannedSlice:
    """One slice at one noise level with one bundle; every method starts from the same k-space.

    Parameters
    ----------
    slices
        One slice, not a batch.
    bundle
        The networks, on the device of the slice.
    noise
        σ of the noise of each coil; None for that of the case.
    maps
        The true coil maps, or those that `Pipeline` finds in the lines around the centre.
    published
        Bundle of the published weights, for the method of that name.
    regularisation, iterations
        Of L1-wavelet.

    Attributes
    ----------
    kspace
        ``(coils, ro, pe)`` complex64 with every line, in the unit of the truth.
    coil_maps
        The same shape where they are known, else None.
    pipeline
        Of the bundle.
    acs, reachable
        ``(pe,)`` bool: lines that every plan begins with, and lines that hold data.
    budget
        Number of lines of a plan.
    limits
        First and last line that holds data.
    seed
        Of what is random in a method: it depends on case and slice alone.
    chosen
        Lines chosen so far, by name.
    reconstructions
        What `Pipeline.reconstruct` made so far, by the indices of the lines.
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
        self.kspace = slices.kspace(noise=noise, fixed=True)
        self.coil_maps = slices.coil_maps if maps == "true" else None
        self.pipeline = Pipeline(bundle, device=self.device)
        self._published = published
        self.regularisation, self.iterations = regularisation, iterations
        pe = self.kspace.shape[-1]
        self.acs, self.budget = self.pipeline.acs(pe), line_budget(pe, self.pipeline.acceleration)
        first, stop = (int(line) for line in slices.line_range)
        self.limits = first, stop - 1
        self.reachable = reachable_lines(pe, *self.limits)
        self.seed = mixed_seed(slices.case, int(slices.slice_index), "evaluate")
        self.chosen: dict[str, ChosenLines] = {}
        self.reconstructions: dict[tuple[int, ...], Reconstruction] = {}

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.kspace.device

    @property
    def published(self) -> Pipeline:
        """Of the published weights, which came without a detector.

        Raises
        ------
        InputError
            If they are not at hand.
        """
        if self._published is None:
            raise InputError("the published weights are not at hand")
        return Pipeline(self._published, device=self.device, anomaly=False)

    @cached_property
    def plan(self) -> SamplingPlan:
        """The plan of PASS, with what its detector saw in the ACS image."""
        return self.plan_by(self.pipeline)

    def plan_by(self, pipeline: Pipeline) -> SamplingPlan:
        """A plan from the ACS, as at a scanner."""
        acs, shape = self.kspace[..., self.acs.to(self.device)], (self.kspace.shape[-2], self.kspace.shape[-1])
        return pipeline.plan(acs, self.acs, shape, reachable=self.limits, coil_maps=self.coil_maps)

    def population_plan(self) -> SamplingPlan:
        """The plan for everybody."""
        return self.pipeline.population_plan(self.kspace.shape[-1], reachable=self.limits)

    def lines(self, name: str) -> ChosenLines:
        """The lines of that name in ``LINE_CHOOSERS``, chosen once."""
        if name not in self.chosen:
            clock = Clock(self.device)
            with clock.running():
                lines = LINE_CHOOSERS[name](self)
            self.chosen[name] = ChosenLines(lines, clock.seconds)
        return self.chosen[name]


def _equispaced(scanned: ScannedSlice) -> Tensor:
    within = int(scanned.reachable.sum())
    if scanned.budget >= within:
        return scanned.reachable
    # Evenly spread over what the scanner can acquire, as if there were no other lines.
    lines = torch.zeros_like(scanned.reachable)
    lines[scanned.reachable] = equispaced_lines(within, within / scanned.budget, scanned.acs[scanned.reachable])
    return lines


def _random(scanned: ScannedSlice) -> Tensor:
    logits = torch.rand(len(scanned.acs), generator=torch.Generator().manual_seed(scanned.seed))
    return select_lines(logits, scanned.acs, scanned.budget, scanned.reachable)


LINE_CHOOSERS: dict[str, Callable[[ScannedSlice], Tensor]] = {
    "personal": lambda scanned: scanned.plan.lines,
    "population": lambda scanned: scanned.population_plan().lines,
    "equispaced": _equispaced,
    "random": _random,
    "published": lambda scanned: scanned.plan_by(scanned.published).lines,
}
"""From a slice to lines ``(pe,)`` bool on the CPU, by name."""

Card = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """A row of the tables.

    Attributes
    ----------
    title
        Its name there.
    lines
        The lines it takes, by their name in ``LINE_CHOOSERS``.
    image
        From a slice and lines ``(pe,)`` bool on the CPU to the image ``(ro, pe)`` in the unit of the truth.
    compared
        Whether the tables show by how much PASS is better.
    pictured
        Whether example pictures show it.
    inapplicable
        From the cards of the bundle and of the published weights, or None, to the reason why it cannot be tried.
    """

    title: str
    lines: str
    image: Callable[[ScannedSlice, Tensor], Tensor]
    compared: bool = False
    pictured: bool = False
    inapplicable: Callable[[Card, Card | None], str] = lambda card, published: ""


def reconstructed(scanned: ScannedSlice, lines: Tensor) -> Tensor:
    """The image of the bundle's own networks."""
    found = scanned.pipeline.reconstruct(scanned.kspace, lines, coil_maps=scanned.coil_maps)
    scanned.reconstructions[indices(lines)] = found
    return found.image


def _without_map(scanned: ScannedSlice, lines: Tensor) -> Tensor:
    pipeline = Pipeline(scanned.pipeline.bundle, device=scanned.device, anomaly=False)
    return pipeline.reconstruct(scanned.kspace, lines, coil_maps=scanned.coil_maps).image


def _published(scanned: ScannedSlice, lines: Tensor) -> Tensor:
    return scanned.published.reconstruct(scanned.kspace, lines, coil_maps=scanned.coil_maps).image


def _cg_sense(scanned: ScannedSlice, lines: Tensor) -> Tensor:
    return scanned.pipeline.classical(scanned.kspace, lines, coil_maps=scanned.coil_maps).image


def _zero_filled(scanned: ScannedSlice, lines: Tensor) -> Tensor:
    prepared = _prepared(scanned, lines)
    return (zero_filled(prepared.kspace, prepared.coil_maps, lines.to(scanned.device)) * prepared.scale)[0]


def _l1_wavelet(scanned: ScannedSlice, lines: Tensor) -> Tensor:
    if scanned.regularisation is None:
        raise InputError("L1-wavelet needs its λ, which was never tuned")
    prepared = _prepared(scanned, lines)
    weight, iterations = scanned.regularisation, scanned.iterations
    with _seeded(scanned.seed):
        image = l1_wavelet(
            prepared.kspace[0], prepared.coil_maps[0], lines, regularisation=weight, iterations=iterations
        )
    return image * prepared.scale[0].cpu()


def _prepared(scanned: ScannedSlice, lines: Tensor) -> PreparedScan:
    """What `Pipeline` starts from, for methods that it does not have."""
    kspace = (scanned.kspace * lines.to(scanned.device))[None]
    maps = None if scanned.coil_maps is None else scanned.coil_maps[None]
    return prepare(kspace, scanned.acs, coil_maps=maps, calibration_lines=lines)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Sigpy begins its search for the step length at numbers from numpy's global generator."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _no_detector(card: Card, published: Card | None) -> str:
    if card["configuration"]["netad"] is None:
        return "the bundle has no detector, so PASS has no map to leave out"
    return ""


def _no_sampler(card: Card, published: Card | None) -> str:
    if card["configuration"]["sampler"].get("personal") is None:
        return "the bundle has no AS network: the lines of PASS are the population's"
    return ""


def _not_published(card: Card, published: Card | None) -> str:
    if published is None:
        return "no --published bundle was given"
    alike = ("anatomy", "contrast", "acceleration", "acs_fraction")
    differing = [name for name in alike if card[name] != published[name]]
    told = ", ".join(f"{name.replace('_', ' ')} {published[name]}" for name in differing)
    return f"the published weights are for {told}" if told else ""


L1 = "l1-wavelet"
PASS = "pass"
METHODS: dict[str, Method] = {
    "zero-filled": Method("zero-filled", "personal", _zero_filled, pictured=True),
    "cg-sense": Method("CG-SENSE", "personal", _cg_sense),
    L1: Method("L1-wavelet", "personal", _l1_wavelet, compared=True, pictured=True),
    "equispaced": Method("equispaced lines, same network", "equispaced", reconstructed, compared=True),
    "random": Method("random lines, same network", "random", reconstructed),
    "population": Method(
        "population lines, same network", "population", reconstructed, compared=True, pictured=True,
        inapplicable=_no_sampler,
    ),
    "no-map": Method("PASS without its map", "personal", _without_map, compared=True, inapplicable=_no_detector),
    PASS: Method("PASS", "personal", reconstructed, pictured=True),
    "published": Method("published weights", "published", _published, compared=True, inapplicable=_not_published),
}  # fmt: skip
"""By name, in the order of the tables."""


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


def inapplicable(card: Card, published: Card | None) -> dict[str, str]:
    """Which methods a bundle cannot be compared with, and why, given its card and that of the published weights."""
    reasons = {name: method.inapplicable(card, published) for name, method in METHODS.items()}
    return {name: reason for name, reason in reasons.items() if reason}
