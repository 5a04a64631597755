"""The method in two calls: ``plan`` from the ACS of a slice, ``reconstruct`` from the lines that were then acquired.

Without a bundle both are classical: the variable-density population plan and CG-SENSE. With a bundle the same classical
pair stays at hand as the fallback (``population_plan``, ``classical``); it is the caller who decides when to fall back.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pass_recon.physics.coils import espirit_maps
from pass_recon.reconstruction.classical import cg_sense, root_sum_of_squares
from pass_recon.sampling.lines import (
    acquisition_order,
    acs_count,
    acs_fraction,
    acs_mask,
    calibration_width,
    variable_density_lines,
)
from pass_recon.types import BundleError, InputError, Reconstruction, SamplingPlan

MAXIMUM_CALIBRATION_WIDTH = 24
MINIMUM_CALIBRATION_WIDTH = 4


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


class Pipeline:
    """Plan and reconstruct slices with one bundle at one acceleration, on one device.

    Parameters
    ----------
    bundle
        None or ``"classical"``: the population plan and CG-SENSE, which need no training.
    device
        Where to compute, as torch names it. Results always come back on the CPU.
    acceleration
        R; each plan holds exactly round(pe / R) lines.

    Raises
    ------
    BundleError
        If there is no such bundle.
    """

    name = "classical"

    def __init__(self, bundle: str | None = None, *, device: str = "cpu", acceleration: float = 4.0) -> None:
        if bundle not in (None, "classical"):
            raise BundleError(f"there is no bundle {bundle!r}; known: classical")
        self.device = torch.device(device)
        self.acceleration = acceleration
        self.acs_fraction = acs_fraction(acceleration)

    def acs(self, pe: int) -> Tensor:
        """Mask ``(pe,)`` of the lines that the scanner must send before it can have a plan."""
        return acs_mask(pe, acs_count(pe, self.acs_fraction))

    def plan(self, acs: ArrayLike, acs_lines: ArrayLike, shape: tuple[int, int]) -> SamplingPlan:
        """Choose the lines of one slice from its ACS.

        Parameters
        ----------
        acs
            ``(coils, ro, n_acs)`` complex k-space.
        acs_lines
            Where these lines belong: ``n_acs`` indices, or a mask ``(pe,)``.
        shape
            ``(ro, pe)`` of the full grid.

        Raises
        ------
        InputError
            If shapes do not go together or a sample is not finite.
        """
        start = perf_counter()
        self._on_grid(acs, acs_lines, shape)
        plan = self.population_plan(shape[1])
        plan.seconds["plan"] = perf_counter() - start
        return plan

    def population_plan(self, pe: int, *, fallback: str | None = None) -> SamplingPlan:
        """The plan for everybody; ``fallback`` says why it is used although a personal one was wanted."""
        acs = self.acs(pe)
        lines = variable_density_lines(pe, self.acceleration, acs)
        return SamplingPlan(
            lines=lines,
            order=acquisition_order(lines, acs),
            acceleration=self.acceleration,
            source="population",
            bundle=self.name,
            fallback=fallback,
        )

    def reconstruct(self, kspace: ArrayLike, line_mask: ArrayLike) -> Reconstruction:
        """Reconstruct one slice ``(coils, ro, pe)`` or several ``(slices, coils, ro, pe)``.

        Parameters
        ----------
        kspace
            Complex k-space in any unit; lines outside the mask are ignored.
        line_mask
            ``(pe,)`` bool, common to all slices.

        Raises
        ------
        InputError
            If shapes do not go together or a sample is not finite.
        """
        return self.classical(kspace, line_mask)

    def classical(self, kspace: ArrayLike, line_mask: ArrayLike, *, fallback: str | None = None) -> Reconstruction:
        """CG-SENSE, or the root sum of squares where there is no ACS to estimate coil maps from.

        Parameters and errors are those of ``reconstruct``; ``fallback`` says why this image was not the one wanted.
        """
        start = perf_counter()
        data, mask = self._checked(kspace, line_mask)
        width = calibration_width(mask)
        if width < MINIMUM_CALIBRATION_WIDTH:
            reason = f"no coil maps: only {width} lines around the centre of k-space were acquired"
            return Reconstruction(
                image=root_sum_of_squares(data).to(torch.complex64).cpu(),
                fallback=fallback or reason,
                seconds={"reconstruction": perf_counter() - start},
            )
        scale = intensity_scale(data, acs_mask(mask.shape[-1], width))
        data = data / scale.unsqueeze(-3)
        maps = espirit_maps(data, min(MAXIMUM_CALIBRATION_WIDTH, width))
        mapped = perf_counter()
        image = cg_sense(data, maps, mask) * scale
        return Reconstruction(
            image=image.cpu(),
            fallback=fallback,
            seconds={"coil_maps": mapped - start, "reconstruction": perf_counter() - mapped},
        )

    def _on_grid(self, acs: ArrayLike, acs_lines: ArrayLike, shape: tuple[int, int]) -> Tensor:
        """K-space ``(coils, ro, pe)`` that holds the ACS and nothing else."""
        data = self._complex(acs)
        lines = np.asarray(acs_lines)
        if lines.dtype == bool:
            lines = lines.nonzero()[0]
        if data.ndim != 3 or data.shape[1:] != (shape[0], len(lines)):
            raise InputError(
                f"ACS of shape {tuple(data.shape)} is not (coils, ro, n_acs) with ro = {shape[0]}, n_acs = {len(lines)}"
            )
        if not all(0 <= line < shape[1] for line in lines):
            raise InputError(f"ACS lines {lines.min()} to {lines.max()} do not lie within {shape[1]} lines")
        grid = data.new_zeros(data.shape[0], *shape)
        grid[..., torch.as_tensor(lines)] = data
        return grid

    def _checked(self, kspace: ArrayLike, line_mask: ArrayLike) -> tuple[Tensor, Tensor]:
        data, mask = self._complex(kspace), torch.as_tensor(np.asarray(line_mask), device=self.device)
        if data.ndim not in (3, 4):
            raise InputError(f"k-space must be ([slices,] coils, ro, pe), got shape {tuple(data.shape)}")
        if mask.dtype != torch.bool or mask.shape != data.shape[-1:]:
            raise InputError(
                f"the line mask must be bool of shape ({data.shape[-1]},), got {mask.dtype} {tuple(mask.shape)}"
            )
        return data * mask, mask

    def _complex(self, array: ArrayLike) -> Tensor:
        data = torch.as_tensor(array).to(self.device, torch.complex64)
        if not torch.isfinite(torch.view_as_real(data)).all():
            raise InputError("the k-space holds NaN or infinity")
        return data
