"""The AS networks: the published one layer by layer, ours by what it promises, and who gets a gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pass_recon.config import NetworkConfig, SamplerConfig
from pass_recon.sampling.lines import acs_mask, select_lines
from pass_recon.sampling.personal import (
    PERSONAL_NETWORKS,
    LineNetwork,
    LineSampler,
    PublishedNetwork,
    _readout_spectrum,
)
from pass_recon.types import InputError

SMALL = NetworkConfig("line_network", {"knots": 5})


def _acs_image(shape: tuple[int, int] = (16, 18), batch: int = 2) -> Tensor:
    return torch.randn(batch, *shape, dtype=torch.complex64) / 4


def _disturbed(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


def _sampler(personal: NetworkConfig | None = SMALL, lines: int = 18) -> LineSampler:
    sampler = LineSampler(SamplerConfig(lines=lines, personal=personal, acs_fraction=0.2))
    if sampler.personal is not None:
        _disturbed(sampler.personal)
    return sampler


def test_published_network_follows_its_definition():
    network, image = _disturbed(PublishedNetwork(lines=18)), _acs_image()
    rows = np.linspace(-1, 1, 16)[:, None] * np.ones(18)
    columns = np.linspace(-1, 1, 18) * np.ones((16, 1))
    angles = 2 * np.pi * np.stack((rows, columns), axis=-1)
    parts = [angles, *(np.sin(i * angles) for i in range(1, 11)), *(np.cos(i * angles) for i in range(1, 11))]
    features = torch.from_numpy(np.concatenate(parts, axis=-1)).float()
    assert features.shape == (16, 18, 42)
    norm, leaky = nn.functional.group_norm, nn.functional.leaky_relu
    state = network.state_dict()

    def brick(x: Tensor, name: str, step: int, groups: int) -> Tensor:
        x = nn.functional.conv2d(x, state[f"{name}.{step}.weight"], state[f"{name}.{step}.bias"], padding=1)
        return norm(x, groups, state[f"{name}.{step + 1}.weight"], state[f"{name}.{step + 1}.bias"])

    plane = features @ state["position.weight"][0] + state["position.bias"]
    planes = torch.stack((image.real, image.imag), dim=1)
    for step, groups in ((0, 8), (3, 8), (6, 2)):
        planes = leaky(brick(planes, "image", step, groups), 0.01)
    planes = torch.cat((planes, plane.expand(2, 1, -1, -1)), dim=1)
    planes = leaky(brick(planes, "features", 0, 8), 0.01)
    planes = leaky(brick(planes, "features", 3, 8), 0.01)
    planes = brick(planes, "features", 6, 8)
    expected = planes.mean((2, 3)) @ state["lines.weight"].T + state["lines.bias"]
    with torch.no_grad():
        found = network(image, image.real, torch.zeros(18))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("personal", [SMALL, NetworkConfig("published", {"lines": 18}), None])
@pytest.mark.parametrize("shape", [(16, 18), (17, 33), (9, 7)])
def test_any_image_and_any_number_of_lines(personal, shape):
    sampler, image = _sampler(personal), _acs_image(shape)
    with torch.no_grad():
        logits = sampler(image, image.abs().clamp(max=1))
        assert logits.shape == (2, shape[1])
        lines = select_lines(logits, acs_mask(shape[1], 3), 5)
        alone = sampler(image[1:], image[1:].abs().clamp(max=1))
    assert (lines.sum(-1) == 5).all()
    torch.testing.assert_close(alone[0], logits[1], rtol=1e-5, atol=1e-5)


def test_logits_are_the_populations_and_the_correction():
    sampler, image = _sampler(), _acs_image()
    guide = image.abs().clamp(max=1)
    with torch.no_grad():
        population = sampler.population(18)
        correction = sampler.personal(image, guide, population)
        torch.testing.assert_close(sampler(image, guide), population + correction)
    assert correction.abs().max() > 0


def test_ours_starts_as_the_population():
    sampler, image = LineSampler(SamplerConfig(lines=18, personal=SMALL)), _acs_image()
    torch.testing.assert_close(sampler(image).detach(), sampler.population(18).detach().expand(2, -1))


def test_ours_looks_at_image_and_map():
    sampler, image = _sampler(), _acs_image()
    spot = torch.zeros(2, 16, 18)
    spot[:, 4:7, 5:8] = 1
    with torch.no_grad():
        without, with_spot = sampler(image), sampler(image, spot)
        assert (with_spot - without).abs().max() > 1e-3
        assert (without[0] - without[1]).abs().max() > 1e-3
        torch.testing.assert_close(sampler(image, torch.zeros(2, 16, 18)), without)


def test_ours_does_not_care_about_the_intensity():
    sampler, image = _sampler(), _acs_image()
    with torch.no_grad():
        torch.testing.assert_close(sampler(1e4 * image), sampler(image), rtol=1e-4, atol=1e-4)
        assert torch.isfinite(sampler(0 * image)).all()


def test_stage_two_trains_the_as_network_and_nothing_else():
    sampler, image = _sampler(), _acs_image()
    detector = nn.Parameter(torch.tensor(0.5))
    sampler(image, detector * image.abs()).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in sampler.personal.parameters())
    assert sampler.population.logits.grad is None
    assert detector.grad is None


def test_autocast_leaves_the_energies_in_single_precision():
    sampler, image = _sampler(), _acs_image()
    with torch.no_grad():
        expected = sampler(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = sampler(image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_misfits_are_named():
    sampler, image = _sampler(), _acs_image()
    with pytest.raises(InputError, match=r"must be complex \(b, ro, pe\), got torch.float32"):
        sampler(image.real)
    with pytest.raises(InputError, match=r"map has shape \(1, 16, 18\)"):
        sampler(image, image.real[:1])
    with pytest.raises(InputError, match="no AS network 'other'; known: line_network, published"):
        LineSampler(SamplerConfig(personal=NetworkConfig("other")))
    with pytest.raises(InputError, match="at least 2"):
        LineSampler(SamplerConfig(personal=NetworkConfig("line_network", {"knots": 1})))


def test_every_network_is_registered():
    assert set(PERSONAL_NETWORKS.values()) == {PublishedNetwork, LineNetwork}


@pytest.mark.gpu
@pytest.mark.parametrize("personal", [SMALL, NetworkConfig("published", {"lines": 18})])
def test_cuda_agrees(personal):
    sampler, image = _sampler(personal), _acs_image()
    with torch.no_grad():
        expected = sampler(image)
        found = sampler.cuda()(image.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_what_all_patients_ask_for_becomes_the_population():
    torch.manual_seed(0)
    sampler = LineSampler(SamplerConfig(lines=40, centred=True, personal=NetworkConfig("line_network", {"knots": 5})))
    torch.nn.init.normal_(sampler.personal.coefficients)
    image, anomaly_map = torch.randn(6, 32, 40, dtype=torch.complex64), torch.rand(6, 32, 40)
    with torch.no_grad():
        before, other_size = sampler(image, anomaly_map), sampler(image[..., :33], anomaly_map[..., :33])
        sampler.centre(before)
        torch.testing.assert_close(sampler(image, anomaly_map), before)
        torch.testing.assert_close(sampler(image[..., :33], anomaly_map[..., :33]), other_size, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sampler.population(40).detach(), before.mean(0))
    again = LineSampler(sampler.config)
    again.load_state_dict(sampler.state_dict())
    torch.testing.assert_close(again(image, anomaly_map).detach(), before)
    own = LineSampler(sampler.config).population(40).detach()
    again.return_to_own_lines()
    torch.testing.assert_close(again.population(40).detach(), own)
    torch.testing.assert_close(again(image, anomaly_map).detach(), before)


def test_no_correction_exceeds_the_limit():
    torch.manual_seed(0)
    settings = {"knots": 5, "limit": 0.25}
    sampler = LineSampler(SamplerConfig(lines=40, personal=NetworkConfig("line_network", settings)))
    torch.nn.init.normal_(sampler.personal.coefficients, std=100.0)
    correction = sampler(torch.randn(2, 32, 40, dtype=torch.complex64)).detach() - sampler.population(40).detach()
    assert 0.2 < float(correction.abs().max()) <= 0.25 + 1e-6


def test_ours_sees_the_noise_of_a_scan():
    """Noise adds at high readout frequencies what an anatomy lacks there, on any grid, and counts per band."""
    rows, columns = torch.meshgrid(torch.arange(64) - 32, torch.arange(48) - 24, indexing="ij")
    quiet = torch.exp(-((rows / 9.0) ** 2 + (columns / 9.0) ** 2)).to(torch.complex64)[None]
    noise = torch.randn(1, 64, 48, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    levels = torch.cat([_readout_spectrum(quiet + sigma * noise) for sigma in (0.003, 0.01, 0.03)])
    outermost = levels[:, -4:].mean(-1)
    # Ten times the noise is a hundred times the energy.
    assert float(outermost[2] - outermost[0]) == pytest.approx(2 * math.log(10), abs=0.3)
    assert float(outermost[1] - outermost[0]) == pytest.approx(2 * math.log(10 / 3), abs=0.3)
    assert torch.isfinite(_readout_spectrum(quiet[:, :9])).all()
