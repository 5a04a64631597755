"""The noise of a scan from its own lines."""

from __future__ import annotations

import pytest
import torch

from pass_recon.phantom import simulate_patient
from pass_recon.physics.noise import noise_level
from pass_recon.sampling.lines import acs_mask, variable_density_lines


@pytest.fixture(scope="module")
def lines():
    return variable_density_lines(90, 3, acs_mask(90, 16))


def test_noise_level_of_noise_alone_is_exact(lines):
    noise = torch.randn(2, 4, 320, 90, dtype=torch.complex64) * torch.tensor([0.5, 3.0])[:, None, None, None]
    assert torch.allclose(noise_level(noise * lines, lines).flatten(), torch.tensor([0.5, 3.0]), rtol=0.05)


def test_noise_level_is_found_beside_the_signal(lines):
    patient = simulate_patient(anatomy="brain", contrast="t1", slices=1, coils=4, shape=(96, 90), noise=0.02, seed=7)
    assert noise_level(patient.kspace * lines, lines).item() == pytest.approx(0.02, rel=0.25)
