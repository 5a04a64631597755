"""Whitening by its purpose and by Gadgetron's own formula, coil compression by its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pass_recon.physics.coils import compress_coils, noise_scale, whiten, whitening_matrix
from pass_recon.types import InputError
from tests.operators import assert_batch_is_one_by_one, random_complex, relative_error
from tests.physics.phantoms import coil_phantom

COILS, SAMPLES = 6, 50_000
NOISE_DWELL_US, DWELL_US, RATIO = 10.0, 2.5, 0.793


def correlated_noise(samples: int, power: float = 1.0, seed: int = 0) -> Tensor:
    """``(coils, samples)`` with a fixed coil covariance times ``power``; the gains differ a thousandfold."""
    mixing = random_complex(COILS, COILS, seed=99) * torch.logspace(-3, 0, COILS)[:, None]
    return (mixing @ random_complex(COILS, samples, seed=seed) * math.sqrt(power)).to(torch.complex64)


def covariance(data: Tensor) -> Tensor:
    data = data.to(torch.complex128)
    return data @ data.mH / data.shape[1]


def test_whitened_noise_has_unit_covariance() -> None:
    matrix = whitening_matrix(correlated_noise(SAMPLES))
    torch.testing.assert_close(
        covariance(whiten(correlated_noise(SAMPLES), matrix)), torch.eye(COILS).to(torch.complex128), atol=1e-4, rtol=0
    )
    fresh = covariance(whiten(correlated_noise(SAMPLES, seed=1), matrix))
    torch.testing.assert_close(fresh, torch.eye(COILS).to(torch.complex128), atol=0.03, rtol=0)


def test_imaging_noise_has_unit_variance_in_each_component() -> None:
    # The power in a sample goes with the bandwidth: 1 / dwell in the imaging scan, ratio / dwell in the noise scan.
    power = (1 / DWELL_US) / (RATIO / NOISE_DWELL_US)
    noise, imaging = correlated_noise(SAMPLES), correlated_noise(SAMPLES, power, seed=1)
    matrix = whitening_matrix(noise, noise_dwell_us=NOISE_DWELL_US, dwell_us=DWELL_US, bandwidth_ratio=RATIO)
    whitened = whiten(imaging, matrix)
    for component in (whitened.real, whitened.imag):
        torch.testing.assert_close(component.var(1), torch.ones(COILS), atol=0.03, rtol=0)


def test_agrees_with_gadgetron_formula_for_rows_of_samples() -> None:
    # NoiseAdjustGadget holds samples as rows: covariance X^H X / (N - 1), inverse of its upper Cholesky factor from the
    # right, times sqrt(2 · dwell / noise dwell · bandwidth ratio).
    noise, line = correlated_noise(1000), correlated_noise(200, seed=1)
    rows = noise.numpy().astype(np.complex128).T
    factor = np.linalg.cholesky(rows.conj().T @ rows / (len(rows) - 1)).conj().T
    scale = np.sqrt(2 * DWELL_US / NOISE_DWELL_US * RATIO)
    expected = (line.numpy().T @ np.linalg.inv(factor) * scale).T
    matrix = whitening_matrix(noise, noise_dwell_us=NOISE_DWELL_US, dwell_us=DWELL_US, bandwidth_ratio=RATIO)
    assert relative_error(whiten(line, matrix).to(torch.complex128), torch.from_numpy(expected)) < 1e-5


@pytest.mark.parametrize(("dwell", "noise_dwell"), [(0.0, 5.0), (5.0, 0.0), (0.0, 0.0)])
def test_an_unknown_dwell_time_scales_by_one(dwell: float, noise_dwell: float) -> None:
    assert noise_scale(dwell, noise_dwell) == 1
    noise = correlated_noise(100)
    assert torch.equal(whitening_matrix(noise, noise_dwell_us=noise_dwell, dwell_us=dwell), whitening_matrix(noise))


def test_whitening_keeps_further_axes_and_names_another_number_of_coils() -> None:
    matrix = whitening_matrix(correlated_noise(100))
    data = random_complex(COILS, 3, 4, dtype=torch.complex64)
    whitened = whiten(data, matrix)
    assert whitened.dtype == torch.complex64
    assert relative_error(whitened[:, 1, 2], matrix @ data[:, 1, 2]) < 1e-6
    with pytest.raises(InputError, match="the data has 5 coils, the whitening matrix is for 6"):
        whiten(data[:5], matrix)


def broken(noise: Tensor, row: int, values: Tensor | float) -> Tensor:
    noise = noise.clone()
    noise[row] = values
    return noise


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (correlated_noise(100)[None], r"must be \(coils, samples\), got shape \(1, 6, 100\)"),
        (correlated_noise(6), "6 noise samples do not determine the covariance of 6 coils"),
        (broken(correlated_noise(100), 2, math.nan), "NaN or infinity"),
        (broken(correlated_noise(100), 2, 0.0), r"the noise of coils \[2\] is zero throughout"),
        (broken(correlated_noise(100), 2, 3j * correlated_noise(100)[4]), "a linear combination"),
    ],
)
def test_noise_that_does_not_determine_the_coils_is_refused(noise: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        whitening_matrix(noise)


def test_compression_has_orthonormal_rows_by_falling_energy() -> None:
    kspace = coil_phantom(12, (32, 30), noise=0.01).kspace
    compressed, matrix = compress_coils(kspace, 5)
    assert compressed.shape == (5, 32, 30)
    torch.testing.assert_close(matrix @ matrix.mH, torch.eye(5).to(matrix.dtype), atol=1e-5, rtol=0)
    assert relative_error(compressed, torch.einsum("vc,cyx->vyx", matrix, kspace)) < 1e-5
    singular_values = torch.linalg.svdvals(kspace.flatten(1))
    torch.testing.assert_close(
        torch.linalg.vector_norm(compressed, dim=(-2, -1)), singular_values[:5], rtol=1e-4, atol=0
    )


def test_compression_to_all_coils_keeps_everything() -> None:
    kspace = coil_phantom(6, (16, 15)).kspace
    compressed, matrix = compress_coils(kspace, 6)
    assert relative_error((matrix.mH @ compressed.flatten(1)).unflatten(-1, (16, 15)), kspace) < 1e-5


def test_compression_of_a_batch_is_one_by_one() -> None:
    batch = torch.stack([coil_phantom(6, (16, 15), noise=0.05, seed=seed).kspace for seed in range(3)])
    assert_batch_is_one_by_one(lambda k: compress_coils(k, 3)[0], batch, tolerance=1e-5)
    assert_batch_is_one_by_one(lambda k: compress_coils(k, 3)[1], batch, tolerance=1e-5)


@pytest.mark.parametrize("coils", [0, 7])
def test_compression_to_an_impossible_number_of_coils(coils: int) -> None:
    with pytest.raises(InputError, match=f"cannot compress 6 coils to {coils}"):
        compress_coils(coil_phantom(6, (16, 15)).kspace, coils)


@pytest.mark.gpu
def test_cuda_agrees_with_cpu() -> None:
    noise, kspace = correlated_noise(1000), coil_phantom(6, (32, 30), noise=0.01).kspace
    assert relative_error(whitening_matrix(noise.cuda()).cpu(), whitening_matrix(noise)) < 1e-5
    assert relative_error(compress_coils(kspace.cuda(), 3)[0].cpu(), compress_coils(kspace, 3)[0]) < 1e-4
