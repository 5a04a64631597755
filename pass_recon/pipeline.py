"""The method in two calls: ``plan`` from the ACS of a slice, ``reconstruct`` from the lines that were then acquired.

Without a bundle both are classical: the variable-density population plan and CG-SENSE. With a bundle the classical
reconstruction and the population plan stay at hand as the fallback; it is the caller who decides when to fall back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pass_recon.anomaly import AnomalyResult, describe
from pass_recon.arrays import kspace_of_acs, maps_of, masked_kspace, slices_of
from pass_recon.bundles import Bundle, load_bundle
from pass_recon.cleaning import CleanScan, clean, joined
from pass_recon.networks import in_bfloat16, single_precision
from pass_recon.preparation import (
    MINIMUM_CALIBRATION_WIDTH,
    PreparedScan,
    classical_image,
    glimpse,
    no_calibration,
    prepare,
    scale_lines,
)
from pass_recon.quality import TrainedFor, inspect
from pass_recon.quality.guard import GUARDS, judge
from pass_recon.quality.training import check_matrix
from pass_recon.reconstruction.classical import root_sum_of_squares
from pass_recon.reconstruction.unrolled import Iterate, UnrolledReconstructor
from pass_recon.sampling.budget import LEAST_ACCELERATION, MOST_ACCELERATION, SUSPICIOUS
from pass_recon.sampling.lines import (
    acquisition_order,
    acs_count,
    acs_fraction,
    acs_mask,
    calibration_run,
    line_budget,
    reachable_lines,
    select_lines,
    variable_density_lines,
)
from pass_recon.types import Box, InputError, QualityFinding, Reconstruction, SamplingPlan

# How far a scan may be from what a bundle's own reconstructor was trained on, in size and in lines: a patient's own
# lines differ from the population's by a few in a hundred.
_UNLIKE = 0.15


class Pipeline:
    """Plan and reconstruct slices with one bundle at one acceleration, on one device.

    Parameters
    ----------
    bundle
        A bundle, its name or its folder. None or ``"classical"``: the population plan and CG-SENSE, which need no
        training.
    device
        Where to compute, as torch names it. Results always come back on the CPU.
    acceleration
        R; each plan holds exactly round(pe / R) lines. By default the bundle's, or 4; from 2 to 10 where the bundle
        ranks all lines.
    anomaly
        Whether to look for anomalies. Without, the networks are given a map of zeros.
    guard
        ``"warn"``: the network's image is held against left-out lines and CG-SENSE, which about doubles the time; what
        does not stand is told in ``quality``. ``"replace"``: CG-SENSE's image takes its place. An attribute, too.
    first
        The pipeline of the first round, where this one is for slices with the additional lines of a second look: on
        these the bundle's own reconstructor is 0.3 to 0.7 dB better inside lesions than the general one. An attribute,
        too, as is ``remark``, what is to be said of all that it computes.
    precision
        Of the reconstructor's convolutions: ``"float32"``, ``"bfloat16"``, or ``"auto"``, as `in_bfloat16` tells.

    Raises
    ------
    BundleError
        If there is no such bundle or it cannot be trusted.
    InputError
        If the bundle is for another acceleration, or there is no such guard or precision.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path | None = None,
        *,
        device: str | torch.device = "cpu",
        acceleration: float | None = None,
        anomaly: bool = True,
        guard: str = "off",
        first: Pipeline | None = None,
        precision: str = "auto",
    ) -> None:
        if guard not in GUARDS:
            raise InputError(f"guard must be one of {', '.join(GUARDS)}, got {guard!r}")
        self.guard, self.first, self.remark = guard, first, ""
        if bundle == "classical":
            bundle = None
        self.device = torch.device(device)
        self._bfloat16 = in_bfloat16(precision, self.device)
        self.bundle = load_bundle(bundle) if isinstance(bundle, str | Path) else bundle
        own = 4.0 if self.bundle is None else self.bundle.acceleration
        self.name = "classical" if self.bundle is None else self.bundle.name
        self.acceleration = own if acceleration is None else float(acceleration)
        # Whether it is the acceleration that the bundle's lines, and its first reconstructor, were learned for.
        self._own = self.bundle is not None and self.acceleration == own
        self.acs_fraction = self.bundle.acs_fraction if self.bundle and self._own else acs_fraction(self.acceleration)
        if self.bundle is not None:
            self.bundle.to(self.device)
            ranked, least, most = self.bundle.sampler.config.ranked, LEAST_ACCELERATION, MOST_ACCELERATION
            if not self._own and not (ranked and least <= self.acceleration <= most):
                served = f"{least:g}× to {most:g}×" if ranked else f"{own:g}×"
                raise InputError(f"bundle {self.name} is for {served}, but {acceleration:g}× was asked for")
        self.netad = self.bundle.netad if self.bundle is not None and anomaly else None

    def acs(self, pe: int) -> Tensor:
        """Mask ``(pe,)`` of the lines that the scanner must send before it can have a plan."""
        return acs_mask(pe, acs_count(pe, self.acs_fraction))

    @torch.no_grad()
    def plan(
        self,
        acs: ArrayLike,
        acs_lines: ArrayLike,
        shape: tuple[int, int],
        *,
        reachable: tuple[int, int] | None = None,
        coil_maps: ArrayLike | None = None,
    ) -> SamplingPlan:
        """Choose the lines of one slice from its ACS; at once, without a look at it, where all patients get the same.

        Parameters
        ----------
        acs
            ``(coils, ro, n_acs)`` complex k-space.
        acs_lines
            Where these lines belong: ``n_acs`` indices, or a mask ``(pe,)``.
        shape
            ``(ro, pe)`` of the full grid.
        reachable
            First and last line that the scanner can acquire, by default all. Of a scan that covers less of k-space than
            the budget, the plan is all there is.
        coil_maps
            ``(coils, ro, pe)`` where they are known; by default they are estimated from the ACS.

        Raises
        ------
        InputError
            If shapes do not go together, a sample is not finite, or the lines do not surround the centre of k-space.
        """
        start = perf_counter()
        kspace, lines = kspace_of_acs(acs, acs_lines, shape, self.device)
        if self.bundle is None or self.bundle.sampler.personal is None or not self._own:
            plan = self.population_plan(shape[1], reachable=reachable)
            plan.seconds["plan"] = perf_counter() - start
            return plan
        found = inspect(kspace, lines, brief=True)
        quality = (*check_matrix(shape, TrainedFor()), *found.findings)
        if found.empty:
            plan = self.population_plan(shape[1], reachable=reachable, fallback=quality[-1].sentence)
            return replace(plan, quality=quality)
        known = None if coil_maps is None else maps_of(coil_maps, kspace[None])[:, found.coils]
        usable, trusted = found.kspace[found.coils][None], found.calibration_lines.cpu()
        image = glimpse(usable, lines, trusted) if known is None else prepare(usable, lines, coil_maps=known).acs_image
        seen = self._look(image)
        looked = perf_counter()
        logits = self.bundle.sampler(image, None if seen is None else seen.map)[0].cpu()
        budget = line_budget(shape[1], self.acceleration)
        chosen = select_lines(logits, lines, budget, _reachable(shape[1], reachable))
        return SamplingPlan(
            lines=chosen,
            order=acquisition_order(chosen, lines),
            acceleration=self.acceleration,
            source="personal",
            score=None if seen is None else float(seen.score[0]),
            anomaly_map=None if seen is None else seen.map[0].cpu(),
            bundle=self.name,
            seconds={"detection": looked - start, "plan": perf_counter() - start},
            quality=quality,
        )

    @torch.no_grad()
    def population_plan(
        self, pe: int, *, reachable: tuple[int, int] | None = None, fallback: str | None = None
    ) -> SamplingPlan:
        """The plan for everybody; ``fallback`` says why it is used although a personal one was wanted."""
        acs, within = self.acs(pe), _reachable(pe, reachable)
        lines = self._everybodys(pe, self.acceleration, acs, line_budget(pe, self.acceleration), within)
        return SamplingPlan(
            lines=lines,
            order=acquisition_order(lines, acs),
            acceleration=self.acceleration,
            source="population",
            bundle=self.name,
            fallback=fallback,
        )

    @torch.no_grad()
    def second_plan(
        self,
        plan: SamplingPlan,
        reconstruction: Reconstruction | None,
        acceleration: float,
        *,
        threshold: float = SUSPICIOUS,
        most: int | None = None,
        reachable: tuple[int, int] | None = None,
    ) -> SamplingPlan:
        """The additional lines of one slice after a look at its first image: none where nothing was seen.

        They are the ACS of ``acceleration`` and the next ones of the order of lines: a plan nested in that of
        ``acceleration`` is completed to it. To a patient's own lines, or another scan's, the best others are added.

        Parameters
        ----------
        plan
            The lines that have come.
        reconstruction
            The image made of them, of which the score counts. None: the lines are wanted whatever was seen, as where
            another slice of the scan is suspicious.
        acceleration
            R with the additional lines: with them there are round(pe / R) lines.
        threshold
            Score from which on more lines are wanted.
        most
            No more additional lines than this.
        reachable
            First and last line that the scanner can acquire, by default all.

        Returns
        -------
        SamplingPlan
            Of the additional lines alone.
        """
        score = reconstruction.score[0] if reconstruction is not None and reconstruction.score else None
        wanted = reconstruction is None or (score is not None and score >= threshold)
        pe, came = len(plan.lines), int(plan.lines.sum())
        budget = max(line_budget(pe, acceleration), came) if wanted else came
        budget = min(budget, came + most) if most is not None else budget
        within = _reachable(pe, reachable)
        given = plan.lines | acs_mask(pe, acs_count(pe, acs_fraction(acceleration)))
        given = given if within is None else given & (within | plan.lines)
        given = given if int(given.sum()) <= budget else plan.lines
        lines = self._everybodys(pe, acceleration, given, budget, within) & ~plan.lines
        blind = reconstruction is not None and score is None
        return SamplingPlan(
            lines=lines,
            order=tuple(lines.nonzero().flatten().tolist()),
            acceleration=acceleration,
            source="population",
            score=score,
            bundle=self.name,
            fallback="no detector has looked at the image" if blind else None,
        )

    def _everybodys(self, pe: int, acceleration: float, given: Tensor, budget: int, within: Tensor | None) -> Tensor:
        """The lines ``given`` ``(pe,)`` and the best others for all patients, ``budget`` in all."""
        if self.bundle is None:
            return variable_density_lines(pe, acceleration, given, within, budget=budget)
        sampler = self.bundle.sampler
        learned = acceleration == self.bundle.acceleration or not sampler.config.ranked
        return select_lines((sampler.population(pe) if learned else sampler.ranked(pe)).cpu(), given, budget, within)

    @torch.no_grad()
    def reconstruct(
        self,
        kspace: ArrayLike,
        line_mask: ArrayLike,
        *,
        calibration: ArrayLike | None = None,
        coil_maps: ArrayLike | None = None,
        multiband: int = 1,
        pixel_mm: tuple[float, float] = (1.0, 1.0),
        intermediates: bool = False,
    ) -> Reconstruction:
        """Reconstruct one slice ``(coils, ro, pe)`` or several ``(slices, coils, ro, pe)``.

        Parameters
        ----------
        kspace
            Complex k-space in any unit; lines outside the mask are ignored.
        line_mask
            ``(pe,)`` bool, common to all slices.
        calibration
            K-space of the same shape that holds the lines of a separate calibration scan and zeros elsewhere, to
            estimate the coil maps from. By default the lines around the centre of ``kspace``.
        coil_maps
            ``([slices,] coils, ro, pe)`` where they are known.
        multiband
            Number of slices that were excited together, where the scan tells: they are not told apart, but it is said.
        pixel_mm
            Pixel size along readout and phase encoding, by which findings too small to be one are left out.
        intermediates
            Also return ``coil_maps``, and ``x``, ``x_global`` and ``map`` of every stage, stages first.

        Raises
        ------
        InputError
            If shapes do not go together, a sample is not finite, or there is no ACS to estimate coil maps from.
        """
        if self.bundle is None:
            return self.classical(kspace, line_mask, calibration=calibration, coil_maps=coil_maps, multiband=multiband)
        results = [
            self._nothing(scan) if scan.empty else self._by_networks(scan, pixel_mm, intermediates)
            for scan in self._clean(kspace, line_mask, calibration, coil_maps, multiband)
        ]
        return joined(results, one=np.ndim(kspace) == 3)

    def _by_networks(self, scan: CleanScan, pixel_mm: tuple[float, float], intermediates: bool) -> Reconstruction:
        start = perf_counter()
        prepared, mask = self._prepared(scan), scan.line_mask
        mapped = perf_counter()
        network = self._reconstructor(mask, prepared.kspace.shape[-2])
        iterates = self._iterates(network, prepared, mask)
        reconstructed = perf_counter()
        image = iterates[-1].image
        seen = self._look(image)
        boxes = () if seen is None else self._boxes(seen, pixel_mm)
        detected = perf_counter()
        findings, image, fallback = self._guarded(scan, prepared, network, image, boxes)
        return Reconstruction(
            image=(image * prepared.scale).cpu(),
            anomaly_map=None if seen is None else seen.map.cpu(),
            boxes=boxes,
            score=() if seen is None else tuple(seen.score.tolist()),
            bundle=self.name,
            fallback=fallback,
            seconds={
                "coil_maps": mapped - start,
                "reconstruction": reconstructed - mapped,
                "detection": detected - reconstructed,
                "guard": perf_counter() - detected,
            },
            intermediates=_intermediates(prepared, iterates, scan.coils) if intermediates else {},
            quality=findings,
        )

    def _iterates(self, network: UnrolledReconstructor, prepared: PreparedScan, line_mask: Tensor) -> list[Iterate]:
        look = None if self.netad is None else self._anomaly_map
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            return list(network.iterate(prepared.kspace, prepared.coil_maps, line_mask, look))

    def _anomaly_map(self, image: Tensor) -> Tensor:
        """What steers the networks; the detector's scores differ by less than bfloat16 tells apart."""
        assert self.netad is not None
        with single_precision(image):
            return self.netad.anomaly_map(image)

    def _reconstructor(self, line_mask: Tensor, ro: int) -> UnrolledReconstructor:
        """The bundle's own for lines like those that it was trained with, else the general one where it has one."""
        assert self.bundle is not None
        own, general, pe = self.bundle.reconstructor, self.bundle.general, line_mask.shape[-1]
        if general is None:
            return own
        if not self._own or any(abs(n / self.bundle.sampler.config.lines - 1) > _UNLIKE for n in (ro, pe)):
            return general
        alike = (_share_in_common(lines.to(line_mask.device), line_mask) for lines in self._usual_lines(pe))
        return own if any(share > 1 - _UNLIKE for share in alike) else general

    def _usual_lines(self, pe: int) -> Iterator[Tensor]:
        """Masks ``(pe,)`` that the bundle's own reconstructor is for."""
        yield self.population_plan(pe).lines
        if self.first is not None:
            begun = self.first.population_plan(pe)
            yield begun.lines | self.first.second_plan(begun, None, self.acceleration).lines

    def _guarded(
        self,
        scan: CleanScan,
        prepared: PreparedScan,
        network: UnrolledReconstructor,
        image: Tensor,
        boxes: tuple[tuple[Box, ...], ...],
    ) -> tuple[tuple[tuple[QualityFinding, ...], ...], Tensor, str | None]:
        """All findings, the images to send, and why they are not the network's."""
        if self.guard == "off":
            return scan.findings, image, None
        verdict = judge(
            prepared.kspace,
            prepared.coil_maps,
            scan.line_mask,
            network=lambda lines: self._iterates(network, prepared, lines)[-1].image,
            classical=lambda lines: classical_image(prepared, lines),
            image=image,
            boxes=boxes,
        )
        findings = tuple((*known, *new) for known, new in zip(scan.findings, verdict.findings, strict=True))
        if self.guard == "warn" or not verdict.replaced.any():
            return findings, image, None
        image = torch.where(verdict.replaced[:, None, None], classical_image(prepared, scan.line_mask), image)
        return findings, image, verdict.reason

    def _nothing(self, scan: CleanScan) -> Reconstruction:
        """The classical image of a scan without signal, and nothing seen in it."""
        result = self._classically(scan, scan.findings[0][-1].sentence)
        if self.netad is not None:
            result = replace(result, anomaly_map=torch.zeros_like(result.image.real), boxes=((),), score=(0.0,))
        return replace(result, bundle=self.name)

    @torch.no_grad()
    def classical(
        self,
        kspace: ArrayLike,
        line_mask: ArrayLike,
        *,
        calibration: ArrayLike | None = None,
        coil_maps: ArrayLike | None = None,
        multiband: int = 1,
        fallback: str | None = None,
    ) -> Reconstruction:
        """CG-SENSE, or the root sum of squares where there is no ACS to estimate coil maps from.

        Parameters and errors are those of ``reconstruct``; ``fallback`` says why this image was not the one wanted.
        """
        scans = self._clean(kspace, line_mask, calibration, coil_maps, multiband)
        return joined([self._classically(scan, fallback) for scan in scans], one=np.ndim(kspace) == 3)

    def _classically(self, scan: CleanScan, fallback: str | None) -> Reconstruction:
        start = perf_counter()
        seconds: dict[str, float] = {}
        run, several = calibration_run(scan.calibration_lines), scan.kspace.shape[1] > 1
        if scan.coil_maps is None and len(run) < MINIMUM_CALIBRATION_WIDTH and several:
            image = root_sum_of_squares(scan.kspace * scan.line_mask).to(torch.complex64)
            fallback = "; ".join(reason for reason in (fallback, no_calibration(scan.calibration_lines)) if reason)
        else:
            prepared = self._prepared(scan)
            seconds["coil_maps"] = perf_counter() - start
            image = classical_image(prepared, scan.line_mask) * prepared.scale
        seconds["reconstruction"] = perf_counter() - start - sum(seconds.values())
        return Reconstruction(image=image.cpu(), fallback=fallback, seconds=seconds, quality=scan.findings)

    def _prepared(self, scan: CleanScan) -> PreparedScan:
        # Plan and reconstruction must see one scale, also where more lines around the centre came than the plan saw.
        acs = scale_lines(scan.calibration_lines, acs_count(scan.kspace.shape[-1], self.acs_fraction))
        return prepare(
            scan.kspace,
            acs,
            coil_maps=scan.coil_maps,
            calibration=scan.calibration,
            calibration_lines=scan.calibration_lines,
        )

    def _clean(
        self,
        kspace: ArrayLike,
        line_mask: ArrayLike,
        calibration: ArrayLike | None,
        coil_maps: ArrayLike | None,
        multiband: int,
    ) -> list[CleanScan]:
        data, mask = masked_kspace(kspace, line_mask, self.device)
        source = None if calibration is None else slices_of(calibration, self.device)
        if source is not None and source.shape != data.shape:
            raise InputError(f"calibration {tuple(source.shape)} and k-space {tuple(data.shape)} differ in shape")
        known = None if coil_maps is None else maps_of(coil_maps, data)
        trained = None if self.bundle is None else TrainedFor()
        return clean(data, mask, calibration=source, coil_maps=known, trained=trained, multiband=multiband)

    def _look(self, image: Tensor) -> AnomalyResult | None:
        """What the detector sees in images ``(b, ro, pe)``; None where there is none."""
        return None if self.netad is None else self.netad(image)

    def _boxes(self, seen: AnomalyResult, pixel_mm: tuple[float, float]) -> tuple[tuple[Box, ...], ...]:
        assert self.netad is not None
        return tuple(findings.boxes for findings in describe(self.netad, seen, pixel_mm=pixel_mm))


def _reachable(pe: int, reachable: tuple[int, int] | None) -> Tensor | None:
    return None if reachable is None else reachable_lines(pe, *reachable)


def _share_in_common(one: Tensor, other: Tensor) -> float:
    return int((one & other).sum()) / max(int(one.sum()), int(other.sum()))


def _intermediates(prepared: PreparedScan, iterates: list[Iterate], coils: Tensor) -> dict[str, Tensor]:
    maps = prepared.coil_maps.new_zeros(len(prepared.coil_maps), len(coils), *prepared.coil_maps.shape[-2:])
    maps[:, coils] = prepared.coil_maps
    return {
        "coil_maps": maps.cpu(),
        "x": torch.stack([iterate.image * prepared.scale for iterate in iterates]).cpu(),
        "x_global": torch.stack([iterate.global_image * prepared.scale for iterate in iterates]).cpu(),
        "map": torch.stack([iterate.anomaly_map for iterate in iterates]).cpu(),
    }
