"""The method in two calls: ``plan`` from the ACS of a slice, ``reconstruct`` from the lines that were then acquired.

Without a bundle both are classical: the variable-density population plan and CG-SENSE. With a bundle the classical
reconstruction and the population plan stay at hand as the fallback; it is the caller who decides when to fall back.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pass_recon.anomaly import AnomalyResult, describe
from pass_recon.bundles import Bundle, load_bundle
from pass_recon.physics.coils import espirit_maps
from pass_recon.reconstruction.classical import cg_sense, root_sum_of_squares, zero_filled
from pass_recon.reconstruction.unrolled import Stage
from pass_recon.sampling.lines import (
    acquisition_order,
    acs_count,
    acs_fraction,
    acs_mask,
    calibration_width,
    line_budget,
    reachable_lines,
    select_lines,
    variable_density_lines,
)
from pass_recon.types import Box, InputError, Reconstruction, SamplingPlan

MAXIMUM_CALIBRATION_WIDTH = 24
MINIMUM_CALIBRATION_WIDTH = 4
_READOUT_GAP = 0.2


def acs_maps(kspace: Tensor, width: int) -> Tensor:
    """Coil maps from the ACS as a plan and a reconstruction use them.

    ESPIRiT with a larger kernel, a higher threshold and more support than usual: of so few lines the usual settings
    darken or crop tissue, in images of the knee, which fills the field of view, by 4 to 5 dB at 4×. Two things pull at
    the support: air inside it adds noise (0.1 to 0.3 dB from a crop of 0.7 to one of 0.6), and from 0.8 on tissue of
    single patients is lost (1 to 10 dB, with higher thresholds sooner). A gap beyond the ends of the readout, because
    legs and necks reach them: without one, maps explain a simulated knee to 36 dB of its peak, with it to 48 dB of 13
    lines and to 51 dB of 26.

    Parameters
    ----------
    kspace
        ``(..., coils, ro, pe)``, zero outside the ACS.
    width
        Number of ACS lines.

    Returns
    -------
    Tensor
        ``(..., coils, ro, pe)``.
    """
    if kspace.shape[-3] == 1:  # Nothing tells a coil from the object: a crop would only blacken dark tissue.
        return torch.ones_like(kspace)
    # Where there are few lines, the readout still has enough samples to make up for some of them.
    gap = round(_READOUT_GAP * kspace.shape[-2])
    samples = round((1 + _READOUT_GAP) * MAXIMUM_CALIBRATION_WIDTH)
    region = min(samples, kspace.shape[-2] + gap), min(MAXIMUM_CALIBRATION_WIDTH, width)
    return espirit_maps(kspace, region, kernel_width=10, threshold=0.03, crop=0.6, gap=gap)


def intensity_scale(kspace: Tensor, acs: Tensor) -> Tensor:
    """Brightest pixel of the low-resolution image, the unit in which every image peaks at about 1.

    It depends on the ACS alone, because the scanner never sees a ground truth.

    Parameters
    ----------
    kspace
        ``(..., coils, ro, pe)`` complex64.
    acs
        ``(pe,)`` bool.

    Returns
    -------
    Tensor
        ``(..., 1, 1)``, 1 where the ACS holds only zeros.
    """
    scale = root_sum_of_squares(kspace * acs.to(kspace.device)).amax((-2, -1), keepdim=True)
    return torch.where(scale > 0, scale, torch.ones_like(scale))


class _Prepared(NamedTuple):
    """K-space ``(slices, coils, ro, pe)`` at an image peak of about 1, its maps, and the scale ``(slices, 1, 1)``."""

    kspace: Tensor
    coil_maps: Tensor
    scale: Tensor


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
        R; each plan holds exactly round(pe / R) lines. By default the bundle's, or 4.
    anomaly
        Whether to look for anomalies. Without, the networks are given a map of zeros.

    Raises
    ------
    BundleError
        If there is no such bundle or it cannot be trusted.
    InputError
        If the bundle is for another acceleration.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path | None = None,
        *,
        device: str | torch.device = "cpu",
        acceleration: float | None = None,
        anomaly: bool = True,
    ) -> None:
        if bundle == "classical":
            bundle = None
        self.device = torch.device(device)
        self.bundle = load_bundle(bundle) if isinstance(bundle, str | Path) else bundle
        if self.bundle is None:
            self.name, self.acceleration = "classical", acceleration or 4.0
            self.acs_fraction = acs_fraction(self.acceleration)
        else:
            self.bundle.to(self.device)
            self.name, self.acceleration = self.bundle.name, self.bundle.acceleration
            self.acs_fraction = self.bundle.acs_fraction
        if acceleration not in (None, self.acceleration):
            raise InputError(f"bundle {self.name} is for {self.acceleration:g}×, but {acceleration:g}× was asked for")
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
    ) -> SamplingPlan:
        """Choose the lines of one slice from its ACS.

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

        Raises
        ------
        InputError
            If shapes do not go together, a sample is not finite, or the lines do not surround the centre of k-space.
        """
        start = perf_counter()
        kspace, lines = self._on_grid(acs, acs_lines, shape)
        if self.bundle is None or (self.bundle.sampler.personal is None and self.netad is None):
            plan = self.population_plan(shape[1], reachable=reachable)
            plan.seconds["plan"] = perf_counter() - start
            return plan
        prepared = self._prepare(kspace[None], lines)
        image = zero_filled(*prepared[:2], lines.to(self.device))
        seen = self._look(image)
        looked = perf_counter()
        logits = self.bundle.sampler(image, None if seen is None else seen.map)[0].cpu()
        budget = line_budget(shape[1], self.acceleration)
        chosen = select_lines(logits, lines, budget, _reachable(shape[1], reachable))
        return SamplingPlan(
            lines=chosen,
            order=acquisition_order(chosen, lines),
            acceleration=self.acceleration,
            source="population" if self.bundle.sampler.personal is None else "personal",
            score=None if seen is None else float(seen.score[0]),
            anomaly_map=None if seen is None else seen.map[0].cpu(),
            bundle=self.name,
            seconds={"detection": looked - start, "plan": perf_counter() - start},
        )

    @torch.no_grad()
    def population_plan(
        self, pe: int, *, reachable: tuple[int, int] | None = None, fallback: str | None = None
    ) -> SamplingPlan:
        """The plan for everybody; ``fallback`` says why it is used although a personal one was wanted."""
        acs, within = self.acs(pe), _reachable(pe, reachable)
        if self.bundle is None:
            lines = variable_density_lines(pe, self.acceleration, acs, within)
        else:
            logits = self.bundle.sampler.population(pe).cpu()
            lines = select_lines(logits, acs, line_budget(pe, self.acceleration), within)
        return SamplingPlan(
            lines=lines,
            order=acquisition_order(lines, acs),
            acceleration=self.acceleration,
            source="population",
            bundle=self.name,
            fallback=fallback,
        )

    @torch.no_grad()
    def reconstruct(
        self,
        kspace: ArrayLike,
        line_mask: ArrayLike,
        *,
        calibration: ArrayLike | None = None,
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
            return self.classical(kspace, line_mask, calibration=calibration)
        start = perf_counter()
        data, mask, source = self._checked(kspace, line_mask, calibration)
        lines = _lines_for_maps(source, mask, calibration is not None)
        prepared = self._prepare(data, lines, source)
        mapped = perf_counter()
        look = None if self.netad is None else self.netad.anomaly_map
        stages = list(self.bundle.reconstructor.iterate(*prepared[:2], mask, look))
        reconstructed = perf_counter()
        seen = self._look(stages[-1].image)
        image = stages[-1].image * prepared.scale
        one = np.ndim(kspace) == 3
        return Reconstruction(
            image=(image[0] if one else image).cpu(),
            anomaly_map=None if seen is None else (seen.map[0] if one else seen.map).cpu(),
            boxes=() if seen is None else self._boxes(seen, pixel_mm),
            score=() if seen is None else tuple(seen.score.tolist()),
            bundle=self.name,
            seconds={
                "coil_maps": mapped - start,
                "reconstruction": reconstructed - mapped,
                "detection": perf_counter() - reconstructed,
            },
            intermediates=_intermediates(prepared, stages) if intermediates else {},
        )

    @torch.no_grad()
    def classical(
        self,
        kspace: ArrayLike,
        line_mask: ArrayLike,
        *,
        calibration: ArrayLike | None = None,
        fallback: str | None = None,
    ) -> Reconstruction:
        """CG-SENSE, or the root sum of squares where there is no ACS to estimate coil maps from.

        Parameters and errors are those of ``reconstruct``; ``fallback`` says why this image was not the one wanted.
        """
        start = perf_counter()
        data, mask, source = self._checked(kspace, line_mask, calibration)
        one = np.ndim(kspace) == 3
        lines = _lines_for_maps(source, mask, calibration is not None)
        if calibration_width(lines) < MINIMUM_CALIBRATION_WIDTH:
            image = root_sum_of_squares(data).to(torch.complex64)
            reasons = [reason for reason in (fallback, _no_acs(lines)) if reason]
            return Reconstruction(
                image=(image[0] if one else image).cpu(),
                fallback="; ".join(reasons),
                seconds={"reconstruction": perf_counter() - start},
            )
        prepared = self._prepare(data, lines, source)
        mapped = perf_counter()
        image = cg_sense(*prepared[:2], mask) * prepared.scale
        return Reconstruction(
            image=(image[0] if one else image).cpu(),
            fallback=fallback,
            seconds={"coil_maps": mapped - start, "reconstruction": perf_counter() - mapped},
        )

    def _prepare(self, kspace: Tensor, lines: Tensor, calibration: Tensor | None = None) -> _Prepared:
        """Scale by the ACS and estimate coil maps from ``lines`` ``(pe,)`` of the calibration, or of the k-space."""
        pe, width = kspace.shape[-1], calibration_width(lines)
        if width < MINIMUM_CALIBRATION_WIDTH:
            raise InputError(_no_acs(lines))
        # Plan and reconstruction must see one scale, also where more lines around the centre came than the plan saw.
        scale = intensity_scale(kspace, acs_mask(pe, min(width, acs_count(pe, self.acs_fraction))))
        source = kspace if calibration is None else calibration
        source = source * acs_mask(pe, width).to(source.device)
        return _Prepared(kspace / scale.unsqueeze(-3), acs_maps(source / scale.unsqueeze(-3), width), scale)

    def _look(self, image: Tensor) -> AnomalyResult | None:
        """What the detector sees in images ``(b, ro, pe)``; None where there is none."""
        return None if self.netad is None else self.netad(image)

    def _boxes(self, seen: AnomalyResult, pixel_mm: tuple[float, float]) -> tuple[tuple[Box, ...], ...]:
        assert self.netad is not None
        return tuple(findings.boxes for findings in describe(self.netad, seen, pixel_mm=pixel_mm))

    def _on_grid(self, acs: ArrayLike, acs_lines: ArrayLike, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """K-space ``(coils, ro, pe)`` that holds the ACS and nothing else, and the mask ``(pe,)`` of its lines."""
        data = self._complex(acs)
        indices = np.asarray(acs_lines)
        if indices.dtype == bool:
            indices = indices.nonzero()[0]
        if data.ndim != 3 or data.shape[1:] != (shape[0], len(indices)):
            raise InputError(
                f"ACS of shape {tuple(data.shape)} is not (coils, {shape[0]}, {len(indices)}), what grid and lines say"
            )
        if not all(0 <= index < shape[1] for index in indices):
            raise InputError(f"ACS lines {indices.min()} to {indices.max()} do not lie within {shape[1]} lines")
        grid, lines = data.new_zeros(data.shape[0], *shape), torch.zeros(shape[1], dtype=torch.bool)
        grid[..., torch.as_tensor(indices)] = data
        lines[torch.as_tensor(indices)] = True
        return grid, lines

    def _checked(
        self, kspace: ArrayLike, line_mask: ArrayLike, calibration: ArrayLike | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Masked k-space ``(slices, coils, ro, pe)``, its mask, and the k-space to calibrate from, alike in shape."""
        data, mask = self._complex(kspace), torch.as_tensor(np.asarray(line_mask), device=self.device)
        if data.ndim not in (3, 4):
            raise InputError(f"k-space must be ([slices,] coils, ro, pe), got shape {tuple(data.shape)}")
        if mask.dtype != torch.bool or mask.shape != data.shape[-1:]:
            raise InputError(
                f"the line mask must be bool of shape ({data.shape[-1]},), got {mask.dtype} {tuple(mask.shape)}"
            )
        source = data * mask if calibration is None else self._complex(calibration)
        if source.shape != data.shape:
            raise InputError(f"calibration {tuple(source.shape)} and k-space {tuple(data.shape)} differ in shape")
        return _batched(data * mask), mask, _batched(source)

    def _complex(self, array: ArrayLike) -> Tensor:
        data = torch.as_tensor(array).to(self.device, torch.complex64)
        if not torch.isfinite(torch.view_as_real(data)).all():
            raise InputError("the k-space holds NaN or infinity")
        return data


def _reachable(pe: int, reachable: tuple[int, int] | None) -> Tensor | None:
    return None if reachable is None else reachable_lines(pe, *reachable)


def _batched(kspace: Tensor) -> Tensor:
    return kspace if kspace.ndim == 4 else kspace[None]


def _lines_for_maps(source: Tensor, mask: Tensor, separate: bool) -> Tensor:
    """Mask ``(pe,)`` on the CPU of the lines from whose centre maps can be estimated."""
    return (source.abs().amax((0, 1, 2)) > 0 if separate else mask).cpu()


def _no_acs(lines: Tensor) -> str:
    return (
        f"no coil maps: {calibration_width(lines)} lines around the centre of k-space were acquired, "
        f"at least {MINIMUM_CALIBRATION_WIDTH} are needed"
    )


def _intermediates(prepared: _Prepared, stages: list[Stage]) -> dict[str, Tensor]:
    return {
        "coil_maps": prepared.coil_maps.cpu(),
        "x": torch.stack([stage.image * prepared.scale for stage in stages]).cpu(),
        "x_global": torch.stack([stage.global_image * prepared.scale for stage in stages]).cpu(),
        "map": torch.stack([stage.anomaly_map for stage in stages]).cpu(),
    }
