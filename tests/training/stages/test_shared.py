"""Pieces of the losses that stages share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from pass_recon.physics.fourier import ifft2c
from pass_recon.sampling.lines import calibration_width
from pass_recon.sampling.population import straight_through
from tests.training.small import (
    LINES,
)
from training.stages.errors import absolute_error, decibels, dissimilarity, squared_error
from training.stages.shared import drawn_lines, with_fair_noise


def test_drawn_lines_keep_the_acs_and_the_budget_on_average():
    logits = torch.zeros(2000, LINES, requires_grad=True)
    lines = drawn_lines(logits, [4.0] * 2000, 0.2, torch.Generator().manual_seed(0))
    assert set(lines.detach().unique().tolist()) == {0.0, 1.0}
    assert float(lines.detach().sum(-1).mean()) == pytest.approx(LINES / 4, abs=0.2)
    assert all(calibration_width(row > 0) >= 4 for row in lines.detach()[:20])
    lines.sum().backward()
    assert logits.grad is not None


def test_errors_are_negative_psnr_and_weights_choose_where():
    truth, image = torch.ones(2, 8, 8, dtype=torch.complex64), torch.ones(2, 8, 8, dtype=torch.complex64)
    image[0, :4] += 0.1
    assert float(decibels(squared_error(image, truth))[0]) == pytest.approx(-23.0103, abs=1e-3)
    weight = torch.zeros(2, 8, 8)
    weight[:, :4] = 1
    assert float(decibels(squared_error(image, truth, weight))[0]) == pytest.approx(-20.0, abs=1e-3)
    assert float(decibels(squared_error(image, truth))[1]) == pytest.approx(-80.0)


def test_ssim_is_that_of_scikit_image_and_l1_that_of_numpy():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(2, 40, 33, dtype=torch.complex64, generator=generator)
    image = truth + 0.3 * torch.randn(truth.shape, dtype=torch.complex64, generator=generator)
    weight = torch.zeros(2, 40, 33)
    weight[:, 10:20, 5:25] = 1
    for number in range(2):
        x, y = image[number].abs().numpy(), truth[number].abs().numpy()
        mean, similarity = structural_similarity(x, y, data_range=y.max(), full=True)
        assert float(dissimilarity(image, truth)[number]) == pytest.approx(1 - mean, abs=1e-5)
        inside = 1 - similarity[10:20, 5:25].mean()
        assert float(dissimilarity(image, truth, weight)[number]) == pytest.approx(inside, abs=1e-5)
        apart = np.abs(image[number].numpy() - truth[number].numpy())
        assert float(absolute_error(image, truth)[number]) == pytest.approx(apart.mean(), rel=1e-5)
        assert float(absolute_error(image, truth, weight)[number]) == pytest.approx(apart[10:20, 5:25].mean(), rel=1e-5)


@pytest.mark.parametrize("error", [absolute_error, dissimilarity])
def test_gradients_are_finite_where_nothing_is_and_nothing_is_wrong(error):
    truth = torch.zeros(1, 16, 16, dtype=torch.complex64)
    truth[:, :8] = 1j
    image = truth.clone().requires_grad_()
    error(image, truth).sum().backward()
    assert bool(torch.isfinite(torch.view_as_real(image.grad)).all())


def test_noise_is_not_held_against_acquired_lines():
    """Lines of noise alone: derivatives call those acquired harmful and those left out worthless."""
    damping, acquired = 0.2, torch.arange(8) < 4
    noise = torch.randn(2000, 1, 8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    harm = []
    for fair in (False, True):
        probabilities = torch.full((8,), 0.5, requires_grad=True)
        lines = straight_through(acquired, probabilities, damping).expand(len(noise), -1)
        kspace = with_fair_noise(noise, noise, lines, damping) if fair else noise
        torch.testing.assert_close(kspace.detach(), noise)
        weights = lines[:, None, None]
        image = ifft2c(weights * kspace / (weights + damping))[:, 0]
        squared_error(image, torch.zeros(8, 8)).mean().backward()
        harm.append((float(probabilities.grad[acquired].mean()), float(probabilities.grad[~acquired].mean())))
    (blamed, left_out), (fairly, left_out_too) = harm
    assert blamed > 0.1
    assert fairly <= 0
    assert left_out == left_out_too == pytest.approx(0, abs=1e-6)
