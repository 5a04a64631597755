"""Pieces of the losses that the stages share. Ground truth never enters the models: it stays here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pass_recon.sampling.budget import acs_count, acs_fraction, line_budget
from pass_recon.sampling.lines import acs_mask
from pass_recon.sampling.population import draw_lines, line_probabilities, straight_through
from training.data.dataset import Slices, collate


def bundle_name(examination: str, acceleration: float) -> str:
    """For example ``brain-t1-4x`` of the examination ``brain-t1``."""
    return f"{examination}-{acceleration:g}x"


def acceleration_of(name: str) -> float:
    """R of a bundle by the name that `bundle_name` gave it."""
    return float(name.rsplit("-", 1)[1].removesuffix("x"))


def examinations_of(slices: Slices) -> list[str]:
    """Anatomy and contrast of each slice of a batch, such as ``brain-t1``."""
    return [f"{anatomy}-{contrast}" for anatomy, contrast in zip(slices.anatomy, slices.contrast, strict=True)]


def acs_of(pe: int, acceleration: float) -> Tensor:
    """``(pe,)`` bool: the ACS of a scan at this acceleration."""
    return acs_mask(pe, acs_count(pe, acs_fraction(acceleration)))


def chance_of(generator: torch.Generator | None) -> torch.Generator:
    """Chance on the CPU that follows from a generator of any device, so that the host need not wait for that."""
    return torch.Generator().manual_seed(0 if generator is None else generator.initial_seed() % 2**62)


def drawn_lines(
    logits: Tensor,
    accelerations: Sequence[float],
    damping: float | Tensor,
    generator: torch.Generator | None = None,
    *,
    reachable: Tensor | None = None,
) -> Tensor:
    """Lines drawn by their logits ``(b, pe)``, as 0 and 1 with the gradient of their probabilities (LOUPE).

    Parameters
    ----------
    logits
        ``(b, pe)``.
    accelerations
        Of each of the b.
    damping
        As `straight_through` takes it.
    generator
        On the device of the logits.
    reachable
        ``(b, pe)`` bool: the lines that were measured; the budget is drawn among them. All by default.
    """
    pe = logits.shape[-1]
    acs = torch.stack([acs_of(pe, acceleration) for acceleration in accelerations])
    budgets = torch.tensor([line_budget(pe, acceleration) for acceleration in accelerations])
    probabilities = line_probabilities(logits, acs, budgets, reachable=reachable)
    return straight_through(draw_lines(probabilities.detach(), generator), probabilities, damping)


def with_fair_noise(kspace: Tensor, noise: Tensor, lines: Tensor, damping: float | Tensor) -> Tensor:
    """The same k-space, with a gradient of lines that does not hold their noise against those acquired.

    An image follows the noise n of an acquired line by n / (1 + λ), so that of its residual −n λ / (1 + λ) is left, and
    their product makes noisy lines look harmful. For a line left out there is no such term, although it would bring
    as much noise: training at high noise then swaps every line for another. Twice the residual in place of once
    agreed best with dropping and adding single lines (4× and 8×, σ 0.004 and 0.015).

    Parameters
    ----------
    kspace, noise
        ``(b, coils, ro, pe)`` complex64; the noise is part of the k-space.
    lines
        ``(b, pe)``, 0 and 1 with a gradient (`straight_through`).
    damping
        λ of the solution.
    """
    acquired = lines.detach()
    nothing = (lines - acquired)[:, None, None]  # 0, with a gradient
    return kspace - nothing * (2 * damping / (1 + damping)) * acquired[:, None, None] * noise


def with_a_gradient(loss: Tensor, logits: Iterable[Tensor]) -> Tensor:
    """The same loss, in which all logits take part: processes that train together must agree on what has a gradient."""
    return loss + 0 * torch.stack([each.sum() for each in logits]).sum()


class ValidationScan(NamedTuple):
    """A validation slice as it is scanned for one bundle: what a batch of that one slice holds."""

    bundle: str
    acceleration: float
    item: Slices
    slices: Slices
    kspace: Tensor
    coil_maps: Tensor


def validation_scans(
    items: Sequence[Slices], accelerations: Sequence[float], noise: tuple[float, float], device: torch.device
) -> Iterator[ValidationScan]:
    """Each slice at every acceleration, with noise of the middle of a range (on a logarithmic scale)."""
    for item in items:
        slices = collate([item]).to(device)
        kspace = slices.kspace(noise=(noise[0] * noise[1]) ** 0.5, fixed=True)
        for acceleration in accelerations:
            name = bundle_name(examinations_of(slices)[0], acceleration)
            yield ValidationScan(name, acceleration, item, slices, kspace, slices.coil_maps)


def lesion_weight(slices: Slices, anomaly_map: Tensor) -> Tensor:
    """``(b, ro, pe)``: 1 in known lesions, elsewhere what the detector says."""
    return torch.maximum(anomaly_map, slices.anomaly_mask.to(anomaly_map.dtype))
