"""What a conditioned reconstructor knows of a scan, and that it starts and scales as one without."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pass_recon.config import NetworkConfig, ReconstructorConfig
from pass_recon.physics.fourier import fft2c
from pass_recon.physics.solvers import conjugate_gradient, implicit_conjugate_gradient
from pass_recon.reconstruction.classical import zero_filled
from pass_recon.reconstruction.condition import scan_features
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from tests.physics.phantoms import coil_phantom

PLAIN = ReconstructorConfig(
    denoiser=NetworkConfig("unet", {"channels": [8, 12]}),
    enhancer=NetworkConfig("gated_unet", {"channels": [4, 8]}),
    stages=2,
    cg_iterations=3,
    warm_start=True,
)
CONDITIONED = replace(PLAIN, condition=16, initial_iterations=8)


def scan(noise: float, lines: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    phantom = coil_phantom(8, (96, 80), noise)
    return phantom.kspace[None] * lines, phantom.coil_maps[None], lines


def lines_of(every: int, acs: int) -> torch.Tensor:
    lines = torch.arange(80) % every == 40 % every
    lines[40 - acs // 2 : 40 + acs // 2] = True
    return lines


def features(noise: float, lines: torch.Tensor) -> torch.Tensor:
    kspace, maps, mask = scan(noise, lines)
    return scan_features(kspace, mask, zero_filled(kspace, maps, mask))[0]


def test_features_tell_acceleration_noise_and_coherence() -> None:
    slow, fast = features(0.01, lines_of(2, 16)), features(0.01, lines_of(4, 16))
    assert fast[0] > slow[0]
    assert features(0.03, lines_of(4, 16))[2] > fast[2] + 0.5
    scattered = torch.rand(80, generator=torch.Generator().manual_seed(0)) < 0.25
    scattered[32:48] = True
    assert features(0.01, scattered)[3] < fast[3] - 0.5
    half = lines_of(1, 16) & (torch.arange(80) < 60)
    assert features(0.01, half)[4] > fast[4] + 0.5


def test_units_do_not_matter() -> None:
    kspace, maps, mask = scan(0.01, lines_of(3, 16))
    image = zero_filled(kspace, maps, mask)
    one, other = (scan_features(factor * kspace, mask, factor * image) for factor in (1.0, 1e-4))
    assert torch.allclose(one, other, atol=1e-3)
    torch.manual_seed(0)
    network = UnrolledReconstructor(CONDITIONED)
    for parameter in network.parameters():
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.05)
    first, second = (network(factor * kspace, maps, mask)[0] for factor in (1.0, 1e-3))
    assert torch.allclose(first, second * 1e3, rtol=1e-3, atol=1e-3)


def test_a_condition_changes_nothing_before_training_and_something_after() -> None:
    kspace, maps, mask = scan(0.01, lines_of(3, 16))
    torch.manual_seed(0)
    network = UnrolledReconstructor(CONDITIONED)
    far = torch.full((1, 6), 2.0)
    with torch.no_grad():
        for layer in (network.denoiser.network.unfold, network.enhancer.network.unfold):
            torch.nn.init.normal_(layer.weight, std=0.05)
        assert torch.equal(network(kspace, maps, mask)[0], network(kspace, maps, mask, None, far)[0])
        for name, parameter in network.named_parameters():
            if "modulation" in name or "condition.weights" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        assert not torch.allclose(network(kspace, maps, mask)[0], network(kspace, maps, mask, None, far)[0], atol=1e-4)


def test_weights_of_old_bundles_fit_as_they_are() -> None:
    known = UnrolledReconstructor(PLAIN).state_dict()
    assert not any("condition" in name or "modulation" in name for name in known)


@pytest.mark.parametrize("lines_learn", [False, True])
def test_implicit_gradients_are_those_of_a_converged_solution(lines_learn: bool) -> None:
    kspace, maps, mask = scan(0.01, lines_of(3, 16))
    found = []
    for implicit in (False, True):
        torch.manual_seed(0)
        network = UnrolledReconstructor(
            replace(CONDITIONED, cg_iterations=12, initial_iterations=12), implicit=implicit
        )
        torch.nn.init.normal_(network.denoiser.network.unfold.weight, std=0.05)
        weights = mask[None].float().requires_grad_(lines_learn)
        image, first = network(kspace, maps, weights)
        (image.abs().square().mean() + first.abs().square().mean()).backward()
        parts = [weight.grad.flatten() for weight in network.parameters() if weight.grad is not None]
        found.append(torch.cat([*parts, *([weights.grad.flatten()] if weights.grad is not None else [])]))
    assert torch.linalg.vector_norm(found[0] - found[1]) < 0.02 * torch.linalg.vector_norm(found[0])


def test_the_implicit_solution_is_the_plain_one() -> None:
    rhs = fft2c(torch.randn(2, 12, 10))
    weight = torch.tensor(0.3, requires_grad=True)
    plain = conjugate_gradient(lambda x: (2 + weight) * x, rhs, iterations=2)
    implicit = implicit_conjugate_gradient(lambda x: (2 + weight) * x, rhs, iterations=2, damping=weight)
    assert torch.allclose(plain, implicit)
