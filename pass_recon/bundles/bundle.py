"""A bundle in memory: everything that reconstructs one anatomy and contrast at one acceleration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from pass_recon.anomaly import NetAD
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.sampling.personal import LineSampler


@dataclass
class Bundle:
    """Networks that were trained together, and what they are for.

    ``load_bundle`` gives them in evaluation mode and frozen: nothing keeps activations for a gradient that nobody
    wants. To train on, call ``requires_grad_()`` and ``train()`` on the part concerned.

    Attributes
    ----------
    name
        For example ``"brain-t1-4x"``.
    anatomy, contrast
        For example ``"brain"`` and ``"t1"``.
    acceleration
        R, the nominal acceleration.
    acs_fraction
        Fraction of the lines that form the ACS.
    reconstructor
        ``reconstructor(kspace, coil_maps, line_mask, anomaly=None) -> (x, x_global)``.
    sampler
        ``sampler(acs_image, anomaly_map=None) -> logits``.
    netad
        The anomaly detector; None if the bundle has none, as the published weights, whose CLIP is not among them.
    general
        A reconstructor for any other lines, matrix and acceleration; None where ``reconstructor`` serves all.
    card
        Data, licence, notes, metrics, versions: the bundle's ``card.json``.
    """

    name: str
    anatomy: str
    contrast: str
    acceleration: float
    acs_fraction: float
    reconstructor: UnrolledReconstructor
    sampler: LineSampler
    netad: NetAD | None = None
    general: UnrolledReconstructor | None = None
    card: dict[str, Any] = field(default_factory=dict)

    def to(self, device: str | torch.device) -> Bundle:
        """Move all networks to a device, in place; returns the bundle."""
        for network in (self.reconstructor, self.general, self.sampler, self.netad):
            if network is not None:
                network.to(device)
        return self

    def freeze(self) -> Bundle:
        """Evaluation mode and no gradients, in place; returns the bundle."""
        for network in (self.reconstructor, self.general, self.sampler, self.netad):
            if network is not None:
                network.eval().requires_grad_(False)
        return self
