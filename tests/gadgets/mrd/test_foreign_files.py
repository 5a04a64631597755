"""Files that this project did not write, made and judged by Debian's ismrmrd-tools."""

from __future__ import annotations

import shutil
import subprocess

import ismrmrd
import numpy as np
import pytest
from ismrmrd import Image

from gadgets.chain import run_chain
from gadgets.properties import Properties
from gadgets.protocol.connection import Failure
from tests.gadgets.acquisitions import centred

GENERATE, RECONSTRUCT = "ismrmrd_generate_cartesian_shepp_logan", "ismrmrd_recon_cartesian_2d"
pytestmark = pytest.mark.skipif(shutil.which(GENERATE) is None, reason="the Debian package ismrmrd-tools is missing")


def generate(path, *options):
    """Header and acquisitions of a generated file."""
    subprocess.run([GENERATE, "-o", str(path), *map(str, options)], check=True, capture_output=True)
    dataset = ismrmrd.Dataset(path, "dataset", create_if_needed=False)
    made = [dataset.read_acquisition(number) for number in range(dataset.number_of_acquisitions())]
    header = dataset.read_xml_header()
    dataset.close()
    return header, made


def run(header, made, **properties):
    """Images by (series, repetition), and failures."""
    items = list(run_chain(made, header, Properties(device="cpu", **properties)))
    images = {(item.image_series_index, item.repetition): item for item in items if isinstance(item, Image)}
    return images, [item.message for item in items if isinstance(item, Failure)]


def nrmse_up_to_scale(found, wanted):
    found, wanted = found.astype(float), wanted.astype(float)
    found = found * (found * wanted).sum() / (found**2).sum()
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize(
    "options", [("-m", 64, "-c", 4), ("-m", 128, "-c", 8), ("-m", 80, "-c", 1, "-k"), ("-m", 64, "-c", 8)]
)
def test_fully_sampled_scan_is_the_image_of_ismrmrd_tools(tmp_path, options):
    # Without noise: the root sum of squares of ismrmrd-tools turns noise into a grey background, CG-SENSE does not.
    header, made = generate(tmp_path / "full.h5", "-n", 0, *options)
    images, failures = run(header, made, mode="prospective")
    subprocess.run([RECONSTRUCT, "full.h5"], cwd=tmp_path, check=True, capture_output=True)
    dataset = ismrmrd.Dataset(tmp_path / "full.h5", "dataset", create_if_needed=False)
    wanted = dataset.read_image("cpp", 0).data.squeeze()
    dataset.close()
    assert not failures
    assert nrmse_up_to_scale(images[1, 0].data.squeeze(), wanted) < 0.01


@pytest.mark.parametrize(
    ("matrix", "coils", "acceleration", "repetitions"), [(64, 8, 2, 1), (96, 4, 3, 1), (64, 4, 2, 2)]
)
def test_accelerated_scans_with_calibration_lines(tmp_path, matrix, coils, acceleration, repetitions):
    options = ("-m", matrix, "-c", coils, "-a", acceleration, "-w", 16, "-r", repetitions, "-n", 0.01)
    header, made = generate(tmp_path / "accelerated.h5", *options)
    full_header, full = generate(tmp_path / "full.h5", "-m", matrix, "-c", coils, "-n", 0.0)
    wanted = run(full_header, full, mode="prospective")[0][1, 0].data.squeeze()
    images, failures = run(header, made, mode="prospective")
    assert not failures
    shown = [key for key in images if key[0] == 1]
    assert len(shown) == acceleration * repetitions  # each repetition of the generator is so many shifted ones
    for key in shown:
        folded = zero_filled([line for line in made if line.idx.repetition == key[1]], matrix)
        error = nrmse_up_to_scale(images[key].data.squeeze(), wanted)
        assert error < 0.6 * nrmse_up_to_scale(folded, wanted)
        assert images[1000, key[1]].meta["PASS_source"] == "acquired"


def zero_filled(lines, matrix):
    """Root sum of squares of what came, ``(y, x)``, with numpy."""
    k = np.zeros((lines[0].active_channels, lines[0].number_of_samples, matrix), dtype=np.complex64)
    for line in lines:
        k[..., line.idx.kspace_encode_step_1] = line.data
    image = np.sqrt((np.abs(centred(np.fft.ifftn, k)) ** 2).sum(0))
    margin = (image.shape[0] - matrix) // 2
    return image[margin : margin + matrix].T


def test_noise_calibration_whitens(tmp_path):
    header, made = generate(tmp_path / "noise.h5", "-m", 64, "-c", 4, "-n", 0.05, "-C")
    assert made[0].is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    images, failures = run(header, made, mode="prospective")
    assert not failures
    magnitude = images[1, 0].data.squeeze() / float(images[1, 0].meta["PASS_scale"])
    # Whitened noise has variance 1 in each part, times the bandwidth ratio; the air around the head shows it.
    air = np.concatenate([magnitude[:4].ravel(), magnitude[-4:].ravel()])
    assert 0.2 < air.mean() < 3
    assert magnitude.max() > 10 * air.mean()


def test_retrospective_plan_of_a_foreign_file(tmp_path):
    header, made = generate(tmp_path / "full.h5", "-m", 64, "-c", 8, "-n", 0.01)
    images, failures = run(header, made)
    assert not failures
    assert int(images[1000, 0].data.sum()) == 16
    assert images[1, 0].meta["PASS_lines_used"] == "16 of 64"
