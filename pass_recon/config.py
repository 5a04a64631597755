"""Settings of the networks as they stand in a bundle's card: plain values, checked by name and type."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pass_recon.common.settings import checked
from pass_recon.types import InputError


@checked
@dataclass(frozen=True)
class NetworkConfig:
    """One network: its name in the registry of its kind, and the arguments it is built with.

    Attributes
    ----------
    name
        For example ``"unet"`` or ``"published"``.
    settings
        Keyword arguments of that network; what is left out takes the network's default.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)


@checked
@dataclass(frozen=True)
class ReconstructorConfig:
    """The unrolled ADMM. The defaults are ours; the published network has 5 inner and 5 CG iterations.

    Attributes
    ----------
    denoiser, enhancer
        D and G.
    stages
        K, each consulting the anomaly map anew.
    inner_iterations
        N, ADMM iterations in a stage.
    cg_iterations
        Conjugate-gradient iterations for every data-consistency step.
    rho
        ρ, the weight of the ADMM split.
    tolerance
        A slice is left alone for the rest of its stage once ``‖x − r‖`` is below this.
    denoiser_weight, enhancer_weight
        λ₁ and λ₂ before training.
    positive_weights
        Learn log λ, so that λ stays positive; False learns λ itself, as published.
    warm_start
        CG starts at what the networks say instead of at 0, as published: where no line was acquired nothing but the
        networks says anything, and from 0 a few iterations with a small λ₁ do not get there.
    initial_iterations
        Conjugate-gradient iterations for the first image; 0 for ``cg_iterations``.
    condition
        Features by which the networks and λ₁, λ₂ know the scan (`ScanCondition`) and the iteration; 0 for none.
    """

    denoiser: NetworkConfig = field(default_factory=lambda: NetworkConfig("unet"))
    enhancer: NetworkConfig = field(default_factory=lambda: NetworkConfig("gated_unet"))
    stages: int = 3
    inner_iterations: int = 2
    cg_iterations: int = 4
    rho: float = 1.0
    tolerance: float = 1e-6
    denoiser_weight: float = 0.05
    enhancer_weight: float = 0.5
    positive_weights: bool = True
    warm_start: bool = False
    initial_iterations: int = 0
    condition: int = 0

    def __post_init__(self) -> None:
        for name in ("stages", "inner_iterations", "cg_iterations"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("initial_iterations", "condition"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("rho", "denoiser_weight", "enhancer_weight"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")


@checked
@dataclass(frozen=True)
class SamplerConfig:
    """Population logits and, on top of them, the anomaly-aware sampling (AS) network.

    Attributes
    ----------
    lines
        Number of population logits; scans with another number of lines interpolate them.
    personal
        The AS network; None where the population's plan is all there is.
    acs_fraction
        Fraction of the lines that form the ACS, whose logits mean nothing.
    ranked
        It also ranks all lines for any acceleration from 2 to 10: a plan is the ACS and the first lines.
    centred
        The population's logits contain what the AS network asks for on average, so that a patient's correction is
        what is personal about it.
    """

    lines: int = 320
    personal: NetworkConfig | None = field(default_factory=lambda: NetworkConfig("line_network"))
    acs_fraction: float = 0.08
    centred: bool = False
    ranked: bool = False

    def __post_init__(self) -> None:
        if self.lines < 1:
            raise InputError(f"lines must be at least 1, got {self.lines}")
        if not 0 < self.acs_fraction < 1:
            raise InputError(f"acs_fraction must lie between 0 and 1, got {self.acs_fraction}")
