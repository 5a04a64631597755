"""Stock gadgets in Python against the recorded output of the real ones, and against their equations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest

from gadgets.protocol import MessageId
from gadgets.server.stock import AsymmetricEchoAdjustRO, NoiseAdjust, RemoveROOversampling
from pass_recon.types import InputError
from tests.gadgets.protocol.test_messages import messages_of
from tests.gadgets.server.tools import HEADER, acquisition


def header(xml: str = HEADER) -> Any:
    return ismrmrd.xsd.CreateFromDocument(xml.encode())


def recorded(path: Path) -> tuple[list[ismrmrd.Acquisition], Any]:
    messages = messages_of(path.read_bytes())
    xml = next(message.item for message in messages if message.id == MessageId.HEADER)
    lines = [message.item for message in messages if message.id == MessageId.ACQUISITION]
    return lines, ismrmrd.xsd.CreateFromDocument(xml)


def test_oversampling_is_removed_as_the_real_gadget_does(recordings: Path) -> None:
    sent, parsed = recorded(recordings / "client_to_server_acquisitions.bin")
    expected, _ = recorded(recordings / "server_to_gadget_acquisitions.bin")
    noise, crop = NoiseAdjust(parsed, {}), RemoveROOversampling(parsed, {})
    received = [cropped for line in sent for white in noise.process(line) for cropped in crop.process(white)]
    assert len(received) == len(expected) == 80
    for ours, theirs in zip(received, expected, strict=True):
        assert ours.getHead() == theirs.getHead()
        np.testing.assert_allclose(ours.data, theirs.data, atol=2e-6 * np.abs(theirs.data).max())


def test_oversampling_stays_where_the_fields_of_view_agree() -> None:
    line = acquisition()
    (same,) = RemoveROOversampling(header(HEADER.replace("<x>600</x>", "<x>300</x>")), {}).process(line)
    assert same is line


def test_a_profile_keeps_its_position_for_odd_sizes() -> None:
    positions = np.arange(70)
    line = acquisition(samples=70)
    line.data[:] = np.exp(-2j * np.pi * (positions - 35) * 3 / 70)  # a point three pixels right of the centre
    (cropped,) = RemoveROOversampling(header(), {}).process(line)
    assert cropped.data.shape == (2, 35)
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(cropped.data[0])))
    assert int(np.abs(image).argmax()) == 35 // 2 + 3
    assert cropped.center_sample == 17


def correlated(rng: np.random.Generator, coils: int, samples: int) -> np.ndarray:
    mixing = rng.standard_normal((coils, coils)) + 1j * rng.standard_normal((coils, coils))
    white = rng.standard_normal((coils, samples)) + 1j * rng.standard_normal((coils, samples))
    return (mixing @ white).astype(np.complex64)


def noise_scan(data: np.ndarray, dwell_us: float) -> ismrmrd.Acquisition:
    scan = ismrmrd.Acquisition.from_array(data, sample_time_us=dwell_us)
    scan.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    return scan


def whitened(noise: np.ndarray, data: np.ndarray, noise_dwell: float, dwell: float, bandwidth: float) -> np.ndarray:
    """What the original computes: inverse of the upper Cholesky factor of the covariance of rows, with its scale."""
    rows = noise.T.astype(np.complex128)
    covariance = rows.conj().T @ rows / (len(rows) - 1)
    upper = np.linalg.cholesky(covariance).conj().T
    return (data.T @ np.linalg.inv(upper)).T * np.sqrt(2 * dwell / noise_dwell * bandwidth)


def test_whitening_is_that_of_the_original() -> None:
    rng = np.random.default_rng(0)
    data = correlated(rng, 4, 5000)
    gadget = NoiseAdjust(header(), {})
    for part in np.split(data, 5, axis=1):
        assert not list(gadget.process(noise_scan(part, 2.5)))
    line = acquisition(coils=4)
    (white,) = gadget.process(line)
    np.testing.assert_allclose(white.data, whitened(data, line.data, 2.5, 5.0, 0.8), rtol=2e-3, atol=1e-4)
    assert white.scan_counter == line.scan_counter
    assert white.number_of_samples == 64


def test_real_and_imaginary_part_of_whitened_noise_have_unit_variance() -> None:
    rng = np.random.default_rng(1)
    mixed = correlated(rng, 3, 40000)
    gadget = NoiseAdjust(header(HEADER.replace("0.8<", "1.0<")), {})
    list(gadget.process(noise_scan(mixed[:, :20000], 5.0)))
    line = ismrmrd.Acquisition.from_array(np.ascontiguousarray(mixed[:, 20000:]), sample_time_us=5.0)
    (white,) = gadget.process(line)
    covariance = white.data @ white.data.conj().T / white.data.shape[1]
    np.testing.assert_allclose(covariance, 2 * np.eye(3), atol=0.06)


def test_without_noise_scans_nothing_changes() -> None:
    line = acquisition()
    (same,) = NoiseAdjust(header(), {}).process(line)
    assert same is line


def test_late_noise_scans_are_dropped() -> None:
    gadget, rng = NoiseAdjust(header(), {}), np.random.default_rng(2)
    list(gadget.process(noise_scan(correlated(rng, 2, 500), 5.0)))
    (before,) = gadget.process(acquisition())
    assert not list(gadget.process(noise_scan(correlated(rng, 2, 500), 5.0)))
    (after,) = gadget.process(acquisition())
    np.testing.assert_array_equal(before.data, after.data)


def test_other_numbers_of_coils_pass_or_are_refused() -> None:
    noise = noise_scan(correlated(np.random.default_rng(3), 2, 500), 5.0)
    line = acquisition(coils=5)
    lenient, strict = NoiseAdjust(header(), {}), NoiseAdjust(header(), {"pass_nonconformant_data": "false"})
    assert not list(lenient.process(noise))
    assert next(iter(lenient.process(line))) is line
    assert not list(strict.process(noise))
    with pytest.raises(InputError, match="5 coils, the noise scan had 2"):
        list(strict.process(line))


def test_switched_off_it_only_takes_the_noise_scans_out() -> None:
    gadget = NoiseAdjust(header(), {"perform_noise_adjust": "false"})
    assert not list(gadget.process(acquisition(noise=True)))
    line = acquisition(1)
    assert next(iter(gadget.process(line))) is line


@pytest.mark.parametrize(
    ("properties", "sentence"),
    [({"perform_noise_adjust": "maybe"}, "true or false"), ({"scale_only_channels_by_name": "A"}, "not supported")],
)
def test_properties_that_cannot_be_followed_are_refused(properties: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        NoiseAdjust(header(), properties)


@pytest.mark.parametrize(("centre", "before", "after"), [(16, 16, 0), (32, 0, 16)])
def test_the_short_side_of_an_echo_is_filled(centre: int, before: int, after: int) -> None:
    line = acquisition(samples=48)
    line.center_sample = centre
    (full,) = AsymmetricEchoAdjustRO(header(), {}).process(line)
    assert full.data.shape == (2, 64)
    np.testing.assert_array_equal(full.data[:, before : 64 - after], line.data)
    assert not full.data[:, :before].any()
    assert not full.data[:, 64 - after :].any()
    assert (full.center_sample, full.discard_pre, full.discard_post) == (32, before, after)


@pytest.mark.parametrize(
    ("samples", "centre", "noise"), [(48, 24, False), (64, 20, False), (48, 16, True), (48, 48, False)]
)
def test_echoes_that_are_not_asymmetric_pass(samples: int, centre: int, noise: bool) -> None:
    line = acquisition(samples=samples, noise=noise)
    line.center_sample = centre
    assert next(iter(AsymmetricEchoAdjustRO(header(), {}).process(line))) is line


def test_a_trajectory_goes_with_the_samples_it_belongs_to() -> None:
    line = ismrmrd.Acquisition.from_array(np.ones((2, 64), np.complex64), np.ones((64, 2), np.float32))
    (cropped,) = RemoveROOversampling(header(), {}).process(line)
    assert (cropped.trajectory_dimensions, cropped.traj.size) == (0, 0)
    assert ismrmrd.Acquisition.from_bytes(cropped.to_bytes()) == cropped
