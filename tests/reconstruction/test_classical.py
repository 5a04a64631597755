"""Classical reconstructions against the truth, against sigpy, and at the limits."""

from __future__ import annotations

import subprocess
from functools import partial

import numpy as np
import pytest
import torch
from sigpy.mri.app import SenseRecon

from pass_recon import metrics
from pass_recon.phantom import simulate_patient
from pass_recon.preparation import prepare
from pass_recon.reconstruction.classical import (
    cg_sense,
    l1_wavelet,
    low_resolution_phase,
    magnitude_prior,
    root_sum_of_squares,
    zero_filled,
)
from pass_recon.sampling.lines import acs_mask, variable_density_lines
from tests.physics.bart import read_cfl, require_bart, write_cfl


@pytest.fixture(scope="module")
def patient():
    return simulate_patient(anatomy="brain", contrast="flair", slices=2, coils=8, shape=(96, 90), noise=0.002, seed=5)


@pytest.fixture(scope="module")
def lines():
    return variable_density_lines(90, 3, acs_mask(90, 16))


def test_everything_sampled_comes_back(patient):
    everything = torch.ones(90, dtype=torch.bool)
    image = cg_sense(patient.kspace, patient.coil_maps, everything, iterations=10)
    assert torch.allclose(image, zero_filled(patient.kspace, patient.coil_maps, everything), atol=1e-4)
    # Noise of σ = 0.002 per coil is the only error left: with Σ|S|² = 1 the combined image has that σ as well.
    assert (image - patient.image).abs().square().mean().sqrt() < 0.0025


def test_cg_sense_agrees_with_sigpy(patient, lines):
    kspace = patient.kspace[0] * lines
    ours = cg_sense(kspace, patient.coil_maps[0], lines, regularisation=0.01, iterations=60, tolerance=0.0) / 1.01
    theirs = SenseRecon(
        kspace.numpy(),
        patient.coil_maps[0].numpy(),
        lamda=0.01,
        weights=np.broadcast_to(lines.numpy(), (96, 90)).astype(np.float32),
        max_iter=60,
        show_pbar=False,
    ).run()
    assert np.linalg.norm(ours.numpy() - theirs) < 1e-3 * np.linalg.norm(theirs)


@pytest.mark.parametrize("method", ["cg_sense", "l1_wavelet"])
def test_solving_more_than_halves_the_error_power_of_zero_filling(patient, lines, method):
    kspace, maps, truth = patient.kspace[0], patient.coil_maps[0], patient.image[0].numpy()
    solve = {"cg_sense": cg_sense, "l1_wavelet": partial(l1_wavelet, regularisation=0.002, iterations=40)}[method]
    solved = metrics.nmse(solve(kspace, maps, lines).numpy(), truth)
    assert solved < 0.5 * metrics.nmse(zero_filled(kspace, maps, lines).numpy(), truth)


def test_unplanned_lines_are_ignored(patient, lines):
    kept = cg_sense(patient.kspace * lines, patient.coil_maps, lines)
    given = cg_sense(patient.kspace, patient.coil_maps, lines)
    assert torch.equal(kept, given)


def test_root_sum_of_squares_needs_no_maps(patient):
    noiseless = root_sum_of_squares(patient.kspace)
    assert metrics.nrmse(noiseless.numpy(), patient.image.numpy()) < 0.03


def test_regularisation_follows_the_noise(lines):
    patient = simulate_patient(anatomy="brain", contrast="t1", slices=1, coils=4, shape=(96, 90), noise=0.03, seed=7)
    chosen, fixed = (
        metrics.psnr(cg_sense(patient.kspace, patient.coil_maps, lines, regularisation=weight), patient.image)
        for weight in (None, 0.003)
    )
    assert chosen > fixed + 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("anatomy", "contrast"), [("brain", "t1"), ("brain", "flair"), ("knee", "pd")])
def test_of_a_vendor_s_lines_it_is_no_worse_than_grappa(anatomy, contrast):
    """Equispaced lines with 24 ACS lines among them, against pygrappa, whose coils are combined by the same maps."""
    grappa = pytest.importorskip("pygrappa", reason="pygrappa is not installed").mdgrappa
    patient = simulate_patient(anatomy=anatomy, contrast=contrast, slices=1, coils=8, shape=(160, 144), noise=0.005)
    lines = (torch.arange(144) % 3 == 0) | acs_mask(144, 24)
    acs = acs_mask(144, 24)
    prepared = prepare(patient.kspace * lines, acs)
    kspace = prepared.kspace[0].movedim(0, -1)
    filled = grappa(kspace.numpy(), kspace[:, acs].numpy(), kernel_size=(5, 5))
    everything = torch.ones(144, dtype=torch.bool)
    peer = zero_filled(torch.from_numpy(filled).movedim(-1, 0).to(torch.complex64), prepared.coil_maps[0], everything)
    ours = cg_sense(prepared.kspace, prepared.coil_maps, lines, prior=magnitude_prior(prepared.acs_image))[0]
    truth = patient.image[0] / prepared.scale[0]
    assert metrics.psnr(ours, truth) > metrics.psnr(peer, truth)


def test_a_prior_is_bright_where_tissue_is():
    image = torch.zeros(1, 64, 64, dtype=torch.complex64)
    image[:, 16:48, 16:48] = 3j
    prior = magnitude_prior(image)
    assert prior[0, 32, 32] == pytest.approx(1.0)
    assert prior[0, 2, 2] == pytest.approx(0.15)
    assert magnitude_prior(torch.zeros(64, 64, dtype=torch.complex64)).max() == pytest.approx(0.15)


def _psnr_with_and_without_phase(patient, lines):
    prepared = prepare(patient.kspace * lines, acs_mask(lines.shape[-1], 24))
    prior, truth = magnitude_prior(prepared.acs_image), patient.image / prepared.scale
    phase = low_resolution_phase(prepared.kspace, prepared.coil_maps, lines, 24)
    solve = partial(cg_sense, prepared.kspace, prepared.coil_maps, lines, prior=prior)
    zero = metrics.psnr(zero_filled(prepared.kspace, prepared.coil_maps, lines), truth)
    return zero, metrics.psnr(solve(), truth), metrics.psnr(solve(phase=phase), truth)


@pytest.mark.parametrize(("fraction", "gain"), [(6 / 8, 2.0), (7 / 8, 1.0)])
@pytest.mark.parametrize("spacing", [1, 2])
def test_partial_fourier_takes_the_other_half_from_the_phase(fraction, gain, spacing):
    patient = simulate_patient(anatomy="brain", contrast="t1", slices=1, coils=8, shape=(128, 128), noise=0.003, seed=1)
    lines = (torch.arange(128) >= round(128 * (1 - fraction))) & (
        (torch.arange(128) % spacing == 0) | acs_mask(128, 24)
    )
    zero, without, with_phase = _psnr_with_and_without_phase(patient, lines)
    assert with_phase > without + gain
    assert with_phase > zero + gain


def test_the_phase_is_used_where_lines_favour_one_side_only(patient):
    prepared = prepare(patient.kspace, acs_mask(90, 16))
    for lines, used in (
        (torch.ones(90, dtype=torch.bool), False),
        (torch.arange(90) % 4 == 1, False),
        (variable_density_lines(90, 4, acs_mask(90, 8)), False),
        (torch.arange(90) >= 20, True),
        (torch.arange(90) < 72, True),
    ):
        phase = low_resolution_phase(prepared.kspace, prepared.coil_maps, lines, 16)
        assert (phase is not None) is used
    assert low_resolution_phase(prepared.kspace, prepared.coil_maps, torch.arange(90) >= 20, 0) is None


def test_a_known_phase_makes_what_bart_makes_of_a_real_image(tmp_path, monkeypatch):
    """BART's real-value constraint with the phase in the maps is the limit of a strong penalty on Im(e^{-iφ} x)."""
    program = require_bart()
    patient = simulate_patient(anatomy="brain", contrast="t1", slices=1, coils=4, shape=(64, 64), noise=0.002, seed=1)
    lines = torch.arange(64) >= 20
    kspace, maps, phase = patient.kspace[0] * lines, patient.coil_maps[0], patient.image[0].angle()
    turned = maps * torch.polar(torch.ones_like(phase), phase)
    for name, array in (("kspace", kspace), ("maps", turned)):
        write_cfl(tmp_path / name, np.moveaxis(array.numpy(), 0, -1)[:, :, None, :])
    command = [program, "pics", "-c", "-l2", "-r", "0.001", "-i", "100", "-S", "-w", "1", "kspace", "maps", "image"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    theirs = np.abs(read_cfl(tmp_path / "image"))
    monkeypatch.setattr("pass_recon.reconstruction.classical._PHASE_WEIGHT", 10.0)
    solve = partial(cg_sense, kspace, maps, lines, regularisation=0.001, iterations=100)
    ours, without = solve(phase=phase).abs().numpy(), solve().abs().numpy()
    truth = patient.image[0].abs().numpy()
    assert metrics.psnr(ours, truth) > metrics.psnr(without, truth) + 1
    assert np.linalg.norm(ours - theirs) < 0.1 * np.linalg.norm(without - theirs)
