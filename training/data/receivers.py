"""Coil maps and phase of a simulated array around a volume that has neither."""

from __future__ import annotations

import torch
from torch import Tensor

from pass_recon.anatomies import ANATOMIES
from pass_recon.phantom.acquisition import smooth_phase
from pass_recon.phantom.coils import simulate_coils
from pass_recon.phantom.draws import Draws, mixed_seed
from pass_recon.phantom.shapes import SliceGrid


class SimulatedReceivers:
    """One array and one phase for a volume, evaluated slice by slice.

    Parameters
    ----------
    name
        Of the volume; each has its own array.
    seed
        Of all volumes.
    coils
        Number of coils.
    anatomy
        ``brain`` or ``knee``.
    """

    def __init__(self, name: str, seed: int, coils: int, anatomy: str) -> None:
        self._seed = mixed_seed(seed, name)
        self._coils = coils
        self._radii = ANATOMIES[anatomy].array_mm

    def on_slice(self, shape: tuple[int, int], pixel_mm: float, level_mm: float) -> tuple[Tensor, Tensor]:
        """Maps ``(coils, ro, pe)`` with Σ|S|² = 1 and phase ``(ro, pe)`` in radians on a slice at ``level_mm``."""
        readout, phase = ((torch.arange(size) - size // 2) * pixel_mm for size in shape)
        patient = torch.zeros(1, dtype=torch.long)
        grid = SliceGrid(readout, phase, torch.tensor([level_mm]), patient, pixel_mm, 0.0)
        # Drawn anew for each slice: the same seed gives the same wires, so memory does not grow with the volume.
        maps, _ = simulate_coils(Draws([self._seed], "coils"), self._coils, grid, self._radii)
        return maps[0], smooth_phase(Draws([self._seed], "phase"), grid)[0]
