"""Readouts: what scanners do to them, made here with numpy, must come out as the plain line."""

from __future__ import annotations

import numpy as np
import pytest
from ismrmrd import constants as flags

from gadgets.mrd import Readouts, is_for_images, is_noise
from pass_recon.types import InputError
from tests.gadgets.acquisitions import COILS, RO, acquisition, centred, kspace, oversampled, scan

STEP = 20


@pytest.fixture(scope="module")
def truth():
    return kspace()[..., STEP]


@pytest.fixture(scope="module")
def sampled():
    return oversampled(kspace())[..., STEP]


def line(made, **changes):
    return Readouts(scan(**changes)).line(made)


def stock_removal(data, factor=2):
    """What RemoveROOversampling does, from its source: inverse transform, central part, transform."""
    image = centred(np.fft.ifftn, data, (-1,))
    size = data.shape[-1] // factor
    start = (data.shape[-1] - size) // 2
    return centred(np.fft.fftn, image[..., start : start + size], (-1,))


def close(found, wanted, tolerance=1e-5):
    np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max())


def test_oversampling_is_removed_or_was(truth, sampled):
    assert sampled.shape == (COILS, 2 * RO)
    close(line(acquisition(sampled, STEP)), truth)
    already = line(acquisition(truth, STEP))
    assert already.dtype == np.complex64
    np.testing.assert_array_equal(already, truth)


def test_centre_sample_left_at_zero_means_the_middle(truth, sampled):
    close(line(acquisition(sampled, STEP, center_sample=0)), truth)
    close(line(acquisition(truth, STEP, center_sample=0)), truth)


def test_no_oversampling_in_the_header(truth):
    np.testing.assert_array_equal(line(acquisition(truth, STEP), oversampling=1.0), truth)


@pytest.mark.parametrize("removed", [False, True], ids=["sampled", "removed upstream"])
@pytest.mark.parametrize("missing", [16, 24])
def test_asymmetric_echo_is_put_in_its_place(sampled, removed, missing):
    cut = sampled.copy()
    cut[:, :missing] = 0
    short = sampled[:, missing:]
    centre = RO - missing
    made = (
        acquisition(stock_removal(short), STEP, center_sample=centre // 2)
        if removed
        else acquisition(short, STEP, center_sample=centre)
    )
    found = line(made)
    assert found.shape == (COILS, RO)
    wanted = stock_removal(cut)
    if removed:  # the gadget upstream did not know of the gap and has smeared its edge; the place must be right
        errors = [np.linalg.norm(np.roll(found, shift, -1) - wanted) / np.linalg.norm(wanted) for shift in (-1, 0, 1)]
        assert errors[1] < 0.1 < 0.9 < min(errors[0], errors[2])
    else:
        close(found, wanted)


def test_echo_cut_on_the_other_side(sampled):
    cut = sampled.copy()
    cut[:, -20:] = 0
    close(line(acquisition(sampled[:, :-20], STEP, center_sample=RO)), stock_removal(cut))


def test_reversed_line_is_turned_round(truth, sampled):
    close(line(acquisition(sampled[:, ::-1], STEP, flags.ACQ_IS_REVERSE)), truth)


def test_reversed_line_whose_oversampling_went_upstream(truth, sampled):
    # Without making up for half a sample the two directions would make a ghost of this size.
    upstream = stock_removal(sampled[:, ::-1])
    assert np.abs(upstream[:, ::-1] - truth).max() > 0.1 * np.abs(truth).max()
    close(line(acquisition(upstream, STEP, flags.ACQ_IS_REVERSE)), truth, 1e-3)


def test_reversed_asymmetric_line(sampled):
    cut = sampled.copy()
    cut[:, :16] = 0
    short = sampled[:, 16:][:, ::-1]
    centre = short.shape[1] - 1 - (RO - 16)
    close(line(acquisition(short, STEP, flags.ACQ_IS_REVERSE, center_sample=centre)), stock_removal(cut))


def test_discarded_samples_do_not_count(sampled):
    spoilt = sampled.copy()
    spoilt[:, :5], spoilt[:, -3:] = 1e3, 1e3
    clean = sampled.copy()
    clean[:, :5], clean[:, -3:] = 0, 0
    made = acquisition(spoilt, STEP, discard_pre=5, discard_post=3)
    close(line(made), stock_removal(clean))
    assert made.data[0, 0] == 1e3, "the acquisition itself must stay as it is"


def test_readout_that_cannot_fit(sampled):
    too_long = np.concatenate([sampled, sampled], axis=1)
    with pytest.raises(InputError, match="128 samples with its centre at 64 does not fit a grid of 64"):
        line(acquisition(too_long, STEP))


def test_nan_and_changed_coils_are_refused_with_their_number(truth):
    broken = truth.copy()
    broken[1, 2:4] = np.nan
    with pytest.raises(InputError, match="2 values that are NaN or infinite"):
        line(acquisition(broken, STEP))
    readouts = Readouts(scan())
    readouts.line(acquisition(truth, STEP))
    with pytest.raises(InputError, match="3 coils, those before it had 4"):
        readouts.line(acquisition(truth[:3], STEP))


def noise_scans(count=8, samples=512, dwell=2.5, seed=1, coils=COILS):
    draws = np.random.default_rng(seed)
    mixing = draws.normal(size=(coils, coils)) + 1j * draws.normal(size=(coils, coils))
    for _ in range(count):
        white = draws.normal(size=(coils, samples)) + 1j * draws.normal(size=(coils, samples))
        yield acquisition(mixing @ white, 0, flags.ACQ_IS_NOISE_MEASUREMENT, sample_time_us=dwell)


def test_noise_comes_out_white_and_scaled_by_dwell_times_as_in_gadgetron():
    readouts = Readouts(scan(bandwidth=0.6))
    scans = list(noise_scans())
    for made in scans:
        assert is_noise(made)
        assert not is_for_images(made)
        readouts.add_noise(made)
    whitened = np.concatenate(
        [readouts.line(acquisition(made.data[:, :RO], STEP, sample_time_us=5.0)) for made in scans for _ in range(1)], 1
    )
    covariance = whitened @ whitened.conj().T / whitened.shape[1]
    np.testing.assert_allclose(covariance, 2 * 5.0 / 2.5 * 0.6 * np.eye(COILS), atol=0.6)
    every = np.concatenate([made.data for made in scans], 1)
    exact = np.linalg.inv(np.linalg.cholesky(every @ every.conj().T / (every.shape[1] - 1))) * np.sqrt(2 * 2 * 0.6)
    close(whitened[:, :RO], exact @ scans[0].data[:, :RO], 1e-4)


def test_noise_scan_after_the_first_line_changes_nothing(truth):
    readouts = Readouts(scan())
    readouts.line(acquisition(truth, STEP))
    for made in noise_scans():
        readouts.add_noise(made)
    np.testing.assert_array_equal(readouts.line(acquisition(truth, STEP)), truth)


@pytest.mark.parametrize("coils", [COILS, COILS + 1])
def test_useless_noise_scan_is_told_and_the_line_survives(truth, coils):
    readouts = Readouts(scan())
    silent = np.zeros((coils, 64)) if coils == COILS else next(noise_scans(coils=coils)).data
    readouts.add_noise(acquisition(silent, 0, flags.ACQ_IS_NOISE_MEASUREMENT))
    np.testing.assert_array_equal(readouts.line(acquisition(truth, STEP)), truth)
    assert len(readouts.noise_failures) == 1
    assert "nothing is whitened" in readouts.noise_failures[0]


@pytest.mark.parametrize(
    "flag",
    [
        flags.ACQ_IS_NAVIGATION_DATA,
        flags.ACQ_IS_PHASECORR_DATA,
        flags.ACQ_IS_DUMMYSCAN_DATA,
        flags.ACQ_IS_HPFEEDBACK_DATA,
        flags.ACQ_IS_RTFEEDBACK_DATA,
    ],
)
def test_scans_that_hold_no_image(truth, flag):
    assert not is_for_images(acquisition(truth, STEP, flag))
    assert is_for_images(acquisition(truth, STEP, flags.ACQ_IS_PARALLEL_CALIBRATION, flags.ACQ_USER1))
