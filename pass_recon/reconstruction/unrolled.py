"""The unrolled ADMM of PASS: data consistency by conjugate gradients, a denoiser, and an anomaly-aware enhancer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pass_recon.config import NetworkConfig, ReconstructorConfig
from pass_recon.networks import single_precision
from pass_recon.physics.encoding import SenseOperator
from pass_recon.physics.solvers import conjugate_gradient, implicit_conjugate_gradient
from pass_recon.reconstruction.condition import ScanCondition, scan_features
from pass_recon.reconstruction.denoiser import build_denoiser
from pass_recon.reconstruction.enhancer import build_enhancer
from pass_recon.types import InputError

Result = TypeVar("Result")
AnomalyMap = Callable[[Tensor], Tensor]


class Iterate(NamedTuple):
    """What one stage hands on, each ``(b, ro, pe)``.

    Attributes
    ----------
    image
        x after the inner iterations, complex64.
    global_image
        x before them, complex64.
    anomaly_map
        The map of ``global_image`` that steered the stage, float32, without gradient.
    """

    image: Tensor
    global_image: Tensor
    anomaly_map: Tensor


class _Iteration(NamedTuple):
    """What an iteration tells the networks of the scan, ``(b, condition)`` or nothing, and its λ₁ and λ₂."""

    known: tuple[Tensor, ...]
    denoiser_weight: Tensor
    enhancer_weight: Tensor


class UnrolledReconstructor(nn.Module):
    r"""K stages of data consistency, denoising D and anomaly-aware enhancement G, all stages with the same weights.

    .. math::
        x &\leftarrow CG(A^H A + \lambda_1,\; A^H b), \quad u \leftarrow 0 \\
        &\text{K times:}\quad x \leftarrow CG(A^H A + \lambda_1,\; A^H b + \lambda_1 D(x)),
            \quad \text{map} \leftarrow \text{anomaly}(x), \quad r \leftarrow x \\
        &\quad\text{N times:}\quad x \leftarrow CG(A^H A + \lambda_1 + \rho,\;
            A^H b + \lambda_1 D(r) + \rho (r - u / \rho)) \\
        &\quad\phantom{\text{N times:}}\quad r \leftarrow
            (\lambda_2 G(r, \text{map}) + \rho x + u) / (\rho + \lambda_2), \quad u \leftarrow u + \rho (x - r)

    CG starts at 0, or, with ``warm_start``, at what the networks say. Every slice has its own step lengths and its own
    end of the inner iterations (``‖x − r‖`` below ``tolerance``), so a batch gives what its slices give one by one.
    u is kept from stage to stage. Fourier transforms and CG run in single precision also under autocast. Nothing in it
    waits for the device or branches on data, so that ``torch.compile`` sees one graph.

    Intensities: D and G decide. With ours the result scales with the input; the published pair expects images that peak
    at about 1, which is the scale ``Pipeline`` works at.

    Parameters
    ----------
    config
        Networks, iterations and weights.
    checkpointing
        Recompute D, G and CG in the backward pass instead of keeping what they hold: memory for time.
    implicit
        The gradient of a CG solution comes from one more CG (implicit differentiation) instead of from every iteration:
        no memory, less time, and right as far as CG has converged.

    Raises
    ------
    InputError
        If the configuration names no known network.
    """

    def __init__(
        self, config: ReconstructorConfig | None = None, *, checkpointing: bool = False, implicit: bool = False
    ) -> None:
        super().__init__()
        self.config = config = config or ReconstructorConfig()
        self.checkpointing, self.implicit = checkpointing, implicit
        self.denoiser = build_denoiser(_conditioned(config.denoiser, config.condition))
        self.enhancer = build_enhancer(_conditioned(config.enhancer, config.condition))
        self.condition = (
            ScanCondition(config.condition, config.stages * (1 + config.inner_iterations)) if config.condition else None
        )
        learned = math.log if config.positive_weights else float
        self.denoiser_parameter = nn.Parameter(torch.tensor(learned(config.denoiser_weight)))
        self.enhancer_parameter = nn.Parameter(torch.tensor(learned(config.enhancer_weight)))
        # Convolutions then read all channels of a pixel side by side: a third faster on a CPU, never slower on a GPU.
        self.to(memory_format=torch.channels_last)

    @property
    def denoiser_weight(self) -> Tensor:
        """λ₁, a scalar."""
        return self.denoiser_parameter.exp() if self.config.positive_weights else self.denoiser_parameter

    @property
    def enhancer_weight(self) -> Tensor:
        """λ₂, a scalar."""
        return self.enhancer_parameter.exp() if self.config.positive_weights else self.enhancer_parameter

    @property
    def damping(self) -> Tensor:
        """What is added to AᴴA, a scalar without gradient: λ₁ in the global steps, λ₁ + ρ in the inner ones, here their
        mean.
        """
        return self.denoiser_weight.detach() + self.config.rho / 2

    def forward(
        self,
        kspace: Tensor,
        coil_maps: Tensor,
        line_mask: Tensor,
        anomaly: AnomalyMap | None = None,
        features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Reconstruct; the last stage's image and its global image.

        Parameters
        ----------
        kspace
            ``([b,] coils, ro, pe)`` complex; lines outside the mask are ignored.
        coil_maps
            ``([b,] coils, ro, pe)`` complex with ``Σ|S|² = 1`` on their support.
        line_mask
            ``([b,] pe)``: bool, or real weights between 0 and 1 where a gradient is to reach the choice of lines.
        anomaly
            ``(b, ro, pe)`` complex to a map ``(b, ro, pe)`` in 0 to 1, called once a stage without gradient. None
            stands for a map of zeros.
        features
            ``(b, 6)`` `scan_features`, where they are known: those of the whole scan with a crop of it, say.

        Returns
        -------
        tuple
            x and x_global, each ``([b,] ro, pe)`` complex64.

        Raises
        ------
        InputError
            If shapes do not go together.
        """
        for stage in self.iterate(kspace, coil_maps, line_mask, anomaly, features):
            last = stage
        if kspace.ndim == 3:
            return last.image[0], last.global_image[0]
        return last.image, last.global_image

    def iterate(
        self,
        kspace: Tensor,
        coil_maps: Tensor,
        line_mask: Tensor,
        anomaly: AnomalyMap | None = None,
        features: Tensor | None = None,
    ) -> Iterator[Iterate]:
        """The stages one after another, for intermediate results and for losses on the map; arguments as `forward`."""
        if kspace.ndim not in (3, 4) or kspace.shape[-3:] != coil_maps.shape[-3:]:
            raise InputError(
                f"k-space {tuple(kspace.shape)} and coil maps {tuple(coil_maps.shape)} must both be "
                "([b,] coils, ro, pe), with the same coils, ro and pe"
            )
        with single_precision(kspace):
            operator = SenseOperator(coil_maps, line_mask, fast=not torch.is_grad_enabled())
            measured = operator.adjoint(kspace)
            measured = measured if kspace.ndim == 4 else measured.reshape(1, *measured.shape[-2:])
            iterations = self.config.initial_iterations or self.config.cg_iterations
            image = self._consistent(operator, measured, self.denoiser_weight, None, iterations)
            if self.condition is not None and features is None:
                acquired = kspace * line_mask[..., None, None, :]
                features = scan_features(acquired.reshape(-1, *acquired.shape[-3:]), line_mask, measured)
            steps = self._iterations(features)
        dual = torch.zeros_like(image)
        for stage in range(self.config.stages):
            first, *inner = steps[stage * (1 + self.config.inner_iterations) :]
            global_image = self._run(self._denoise, operator, measured, image, first)
            anomaly_map = _map_of(global_image, anomaly)
            is_last = stage + 1 == self.config.stages
            image, dual = self._inner(operator, measured, global_image, anomaly_map, dual, inner, is_last=is_last)
            yield Iterate(image, global_image, anomaly_map)

    def _iterations(self, features: Tensor | None) -> list[_Iteration]:
        """What every iteration knows of the scan, and its λ₁ and λ₂."""
        if self.condition is None or features is None:
            count = self.config.stages * (1 + self.config.inner_iterations)
            return [_Iteration((), self.denoiser_weight, self.enhancer_weight)] * count
        known, factors = self.condition(features)
        first, second = factors[..., None, None].unbind(-3)
        return [
            _Iteration((of_step,), self.denoiser_weight * to_denoiser, self.enhancer_weight * to_enhancer)
            for of_step, to_denoiser, to_enhancer in zip(known, first, second, strict=True)
        ]

    def _inner(
        self,
        operator: SenseOperator,
        measured: Tensor,
        image: Tensor,
        anomaly_map: Tensor,
        dual: Tensor,
        steps: list[_Iteration],
        *,
        is_last: bool,
    ) -> tuple[Tensor, Tensor]:
        """The N iterations of one stage; returns x and u."""
        split = image
        active = torch.ones_like(image.real[..., :1, :1], dtype=torch.bool)
        for iteration in range(self.config.inner_iterations):
            step = steps[iteration]
            updated = self._run(self._denoise_split, operator, measured, split, dual, step)
            image = torch.where(active, updated, image)
            # Nobody reads the very last r and u, so the very last G need not run.
            if is_last and iteration + 1 == self.config.inner_iterations:
                break
            new_split, new_dual = self._run(self._enhance, image, split, anomaly_map, dual, step)
            split, dual = torch.where(active, new_split, split), torch.where(active, new_dual, dual)
            if self.config.tolerance > 0:
                apart = torch.linalg.vector_norm((image - split).detach(), dim=(-2, -1), keepdim=True)
                active = active & (apart >= self.config.tolerance)
        return image, dual

    def _denoise(self, operator: SenseOperator, measured: Tensor, image: Tensor, step: _Iteration) -> Tensor:
        denoised = self.denoiser(image, *step.known)
        with single_precision(image):
            weight = step.denoiser_weight
            return self._consistent(operator, measured + weight * denoised, weight, denoised)

    def _denoise_split(
        self, operator: SenseOperator, measured: Tensor, split: Tensor, dual: Tensor, step: _Iteration
    ) -> Tensor:
        rho, denoised = self.config.rho, self.denoiser(split, *step.known)
        with single_precision(split):
            wanted = step.denoiser_weight * denoised + rho * (split - dual / rho)
            weight = step.denoiser_weight + rho
            return self._consistent(operator, measured + wanted, weight, wanted / weight)

    def _enhance(
        self, image: Tensor, split: Tensor, anomaly_map: Tensor, dual: Tensor, step: _Iteration
    ) -> tuple[Tensor, Tensor]:
        rho, weight = self.config.rho, step.enhancer_weight
        enhanced = self.enhancer(split, anomaly_map, *step.known)
        with single_precision(image):
            split = (weight * enhanced + rho * image + dual) / (rho + weight)
            return split, dual + rho * (image - split)

    def _consistent(
        self, operator: SenseOperator, rhs: Tensor, weight: Tensor, prior: Tensor | None, iterations: int = 0
    ) -> Tensor:
        """``CG(AᴴA + weight, rhs)`` from 0 or, with a warm start, from the solution without any data."""
        iterations = iterations or self.config.cg_iterations
        start = prior if self.config.warm_start else None

        def normal(image: Tensor) -> Tensor:
            return operator.normal(image) + weight * image

        if self.implicit and torch.is_grad_enabled():
            return implicit_conjugate_gradient(normal, rhs, iterations=iterations, start=start, damping=weight)
        return conjugate_gradient(normal, rhs, iterations=iterations, start=start)

    def _run(self, step: Callable[..., Result], *arguments: object) -> Result:
        if self.checkpointing and torch.is_grad_enabled():
            result: Result = checkpoint(step, *arguments, use_reentrant=False)
            return result
        return step(*arguments)


def _conditioned(network: NetworkConfig, condition: int) -> NetworkConfig:
    return NetworkConfig(network.name, {**network.settings, "condition": condition}) if condition else network


def _map_of(image: Tensor, anomaly: AnomalyMap | None) -> Tensor:
    if anomaly is None:
        return torch.zeros_like(image.real)
    with torch.no_grad():
        anomaly_map = anomaly(image.detach())
    if anomaly_map.shape != image.shape:
        raise InputError(f"the anomaly map has shape {tuple(anomaly_map.shape)}, the image {tuple(image.shape)}")
    return anomaly_map.detach().to(image.real.dtype)
