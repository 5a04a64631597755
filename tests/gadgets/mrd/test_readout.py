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


def test_readout_that_is_no_multiple_of_the_matrix_is_refused(sampled):
    too_long = np.concatenate([sampled, sampled[:, :32]], axis=1)
    with pytest.raises(InputError, match="96 samples with its centre at 48 does not fit the 64 samples of the header"):
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


def spoilt_noise(kind):
    """Noise scans that are of no use, and what is said of them."""
    [scan] = noise_scans(count=1)
    data = scan.data.copy()
    if kind == "other coils":
        return [next(noise_scans(coils=COILS + 1))], "noise scans have [5] coils, the lines 4"
    if kind == "zeros":
        data[:] = 0
    elif kind == "NaN":
        data[1] = np.nan
    elif kind == "few samples":
        return [acquisition(data[:, :3], 0, flags.ACQ_IS_NOISE_MEASUREMENT)], "3 noise samples do not determine"
    elif kind == "copies":
        data[1] = data[0]
        return [acquisition(data, 0, flags.ACQ_IS_NOISE_MEASUREMENT)], "linear combination"
    return [acquisition(data, 0, flags.ACQ_IS_NOISE_MEASUREMENT)], "it holds no noise"


@pytest.mark.parametrize("kind", ["other coils", "zeros", "NaN", "few samples", "copies"])
def test_useless_noise_scan_is_told_once_and_the_line_survives(truth, kind):
    readouts = Readouts(scan())
    scans, reason = spoilt_noise(kind)
    for made in scans:
        readouts.add_noise(made)
    for _ in range(2):
        np.testing.assert_array_equal(readouts.line(acquisition(truth, STEP)), truth)
    [remark] = readouts.remarks
    assert "nothing is whitened" in remark
    assert reason in remark


def test_coil_that_is_silent_in_the_noise_scan_is_left_out_and_named(truth):
    readouts, others = Readouts(scan()), Readouts(scan())
    data = next(noise_scans()).data.copy()
    data[2] = 0
    alive = [0, 1, 3]
    readouts.add_noise(acquisition(data, 0, flags.ACQ_IS_NOISE_MEASUREMENT))
    others.add_noise(acquisition(data[alive], 0, flags.ACQ_IS_NOISE_MEASUREMENT))
    found = readouts.line(acquisition(truth, STEP))
    assert not found[2].any()
    close(found[alive], others.line(acquisition(truth[alive], STEP)))
    assert readouts.remarks == ["coil 2 is silent in the noise scan, as a dead one is, and is left out"]


@pytest.mark.parametrize("ratio", [1e-6, 1e5])
def test_coil_with_impossible_noise_is_left_out_and_named_with_its_ratio(truth, ratio):
    readouts, others = Readouts(scan()), Readouts(scan())
    data = next(noise_scans()).data.copy()
    data[2] *= ratio
    alive = [0, 1, 3]
    readouts.add_noise(acquisition(data, 0, flags.ACQ_IS_NOISE_MEASUREMENT))
    others.add_noise(acquisition(data[alive], 0, flags.ACQ_IS_NOISE_MEASUREMENT))
    found = readouts.line(acquisition(truth, STEP))
    assert not found[2].any()
    close(found[alive], others.line(acquisition(truth[alive], STEP)))
    [remark] = readouts.remarks
    told = float(remark.removeprefix("coil 2 has ").split()[0])
    assert 0.3 * ratio < told < 3 * ratio


def test_samples_that_are_not_numbers_are_left_out_of_the_noise(truth):
    readouts, clean = Readouts(scan()), Readouts(scan())
    data = next(noise_scans()).data.copy()
    clean.add_noise(acquisition(data[:, 10:], 0, flags.ACQ_IS_NOISE_MEASUREMENT))
    data[1, :10] = np.nan
    readouts.add_noise(acquisition(data, 0, flags.ACQ_IS_NOISE_MEASUREMENT))
    close(readouts.line(acquisition(truth, STEP)), clean.line(acquisition(truth, STEP)))


def test_noise_scans_of_several_coil_numbers_serve_each_its_own(truth):
    readouts, fitting = Readouts(scan()), Readouts(scan())
    for made in [*noise_scans(count=1, coils=COILS + 2), *noise_scans(count=2)]:
        readouts.add_noise(made)
    for made in noise_scans(count=2):
        fitting.add_noise(made)
    np.testing.assert_array_equal(readouts.line(acquisition(truth, STEP)), fitting.line(acquisition(truth, STEP)))
    assert not readouts.remarks


def wider(k, factor):
    """K-space of a readout over a field of view that is so many times as wide, with as many more samples."""
    return oversampled(k, factor)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_oversampling_that_the_header_does_not_tell_is_found_and_taken_off(truth, factor):
    readouts = Readouts(scan(oversampling=1.0))
    close(readouts.line(acquisition(wider(kspace(), factor)[..., STEP], STEP)), truth)
    [remark] = readouts.remarks
    assert f"have {factor * RO} samples where the header's encoded matrix has {RO}" in remark


def test_untold_oversampling_of_an_asymmetric_echo(sampled):
    cut = sampled.copy()
    cut[:, :16] = 0
    made = acquisition(sampled[:, 16:], STEP, center_sample=RO - 16)
    close(line(made, oversampling=1.0), stock_removal(cut))


@pytest.mark.parametrize(("before", "after"), [(8, 8), (12, 0), (0, 5)])
def test_discarded_samples_outside_the_matrix(sampled, truth, before, after):
    long = np.pad(sampled, ((0, 0), (before, after)), constant_values=1e3)
    for centre in (before + RO, 0):
        made = acquisition(long, STEP, discard_pre=before, discard_post=after, center_sample=centre)
        close(line(made), truth)


def test_discarding_more_than_there_is_discards_nothing(sampled, truth):
    readouts = Readouts(scan())
    made = acquisition(sampled, STEP, discard_pre=50, discard_post=40)
    close(readouts.line(made), truth)
    assert "begin with 50 and end with 40 to be discarded: none is" in readouts.remarks[0]


@pytest.mark.parametrize("centre", [0, 1, 17, 31, 33, 63, 64, 1000])
def test_centre_sample_of_a_full_readout_does_not_matter(sampled, truth, centre):
    close(line(acquisition(sampled, STEP, center_sample=centre)), truth)


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


def test_as_many_samples_as_are_sampled_for_the_image_are_said_to_be_in_doubt(truth):
    def remarks(**changes):
        readouts = Readouts(scan(**changes))
        readouts.line(acquisition(truth, STEP))
        return readouts.remarks

    assert remarks() == []
    (said,) = remarks(recon=(RO // 2, 48))
    for words in (f"have {RO} samples", f"has {2 * RO}", f"{RO // 2} pixels"):
        assert words in said
