"""`pass-recon recon` on files of others and on real data: what comes out, and what bad input leads to."""

from __future__ import annotations

import shutil
import subprocess

import h5py
import ismrmrd
import numpy as np
import pytest
import torch

from gadgets.converters.image_file import read_images
from gadgets.mrd.dataset import dataset
from pass_recon.metrics import nrmse
from pass_recon.phantom import simulate_patient
from pass_recon.physics.fourier import fft2c, ifft2c
from pass_recon_cli.main import main
from tests.gadgets.scans import patient_file, write_scan

GENERATOR, PEER = "ismrmrd_generate_cartesian_shepp_logan", "ismrmrd_recon_cartesian_2d"
needs_ismrmrd_tools = pytest.mark.skipif(
    not (shutil.which(GENERATOR) and shutil.which(PEER)), reason="ismrmrd-tools (Debian) are not installed"
)


def recon(path, out, *options):
    return main(["recon", "-q", "-f", str(path), "-o", str(out), "-G", "run", *options])


def magnitudes(out):
    """Series 1, ``(images, ro, pe)`` in the unit of the reconstruction."""
    images = read_images(out, "run", 1)
    return np.stack([image.data[0, 0].T / float(image.meta["PASS_scale"]) for image in images])


def scaled(image, reference):
    """The image in the unit of the reference."""
    return image * (image * reference).sum() / (image**2).sum()


def generate(path, *options):
    subprocess.run([GENERATOR, *map(str, options), "-o", str(path)], check=True, capture_output=True)
    return path


def acquired(path):
    """Which lines came, ``(repetitions, pe)``, as read by the library."""
    with dataset(path, "dataset", "r") as file:
        acquisitions = [file.read_acquisition(i) for i in range(file.number_of_acquisitions())]
        pe = ismrmrd.xsd.CreateFromDocument(file.read_xml_header()).encoding[0].encodedSpace.matrixSize.y
    lines = np.zeros((1 + max(a.idx.repetition for a in acquisitions), pe), dtype=bool)
    for a in acquisitions:
        lines[a.idx.repetition, a.idx.kspace_encode_step_1] = True
    return lines


def edited(source, target, *, header=lambda xml: xml, rows=lambda rows: rows):
    """A copy with another header or other acquisitions."""
    shutil.copy(source, target)
    with h5py.File(target, "a") as file:
        file["dataset/xml"][0] = header(file["dataset/xml"][0])
        changed = rows(file["dataset/data"][:])
        del file["dataset/data"]
        file["dataset/data"] = changed
    return target


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return patient_file(tmp_path_factory.mktemp("bad") / "patient.h5", slices=1)


@needs_ismrmrd_tools
class TestFilesOfAnotherAuthor:
    @pytest.mark.parametrize(("matrix", "coils"), [(64, 4), (96, 1), (128, 8), (83, 5)])
    def test_fully_sampled_agrees_with_another_reconstruction(self, tmp_path, matrix, coils):
        """The peer: Fourier transform, root sum of squares. Combining with the coils' maps gives the same image."""
        scan = generate(tmp_path / "scan.h5", "-m", matrix, "-c", coils, "-n", 0)
        assert recon(scan, tmp_path / "out.h5", "--mode", "prospective", "--bundle", "classical") == 0
        subprocess.run([PEER, str(scan)], check=True, capture_output=True)
        with h5py.File(scan) as file:
            peer = file["dataset/cpp/data"][0, 0, 0].T.astype(float)
        ours = magnitudes(tmp_path / "out.h5")
        assert ours.shape == (1, matrix, matrix)
        if matrix % 2:
            # Of an odd number of pixels the peer keeps those one to the left: its crop starts at (2n − n) // 2.
            peer = np.roll(peer, -1, axis=0)
        assert nrmse(scaled(ours[0], peer), peer) < 0.01

    @pytest.mark.parametrize("acceleration", [2, 3])
    def test_accelerated_with_calibration_and_repetitions(self, tmp_path, acceleration):
        """Each repetition has its own lines; the tool makes ``acceleration`` repetitions of each one asked for."""
        options = ("-m", 96, "-c", 8, "-n", 0, "-a", acceleration, "-w", 20, "-r", 1)
        scan = generate(tmp_path / "scan.h5", *options)
        full = generate(tmp_path / "full.h5", "-m", 96, "-c", 8, "-n", 0)
        for path, out in ((scan, "out.h5"), (full, "full_out.h5")):
            assert recon(path, tmp_path / out, "--mode", "prospective") == 0
        images, truth = magnitudes(tmp_path / "out.h5"), magnitudes(tmp_path / "full_out.h5")[0]
        assert len(images) == acceleration
        for image, lines in zip(images, acquired(scan), strict=True):
            ours = nrmse(scaled(image, truth), truth)
            aliased = ifft2c(fft2c(torch.from_numpy(truth)) * torch.from_numpy(lines)).abs().numpy()
            assert ours < 0.12  # the regularisation that noisy scans need, on data without noise
            assert ours < nrmse(scaled(aliased, truth), truth) / 3
        plans = read_images(tmp_path / "out.h5", "run", 1000)
        assert {plan.meta["PASS_source"] for plan in plans} == {"acquired"}
        np.testing.assert_array_equal([plan.data.ravel() for plan in plans], acquired(scan))

    def test_noise_calibration(self, tmp_path):
        scan = generate(tmp_path / "scan.h5", "-m", 64, "-c", 6, "-n", 0.02, "-C")
        assert recon(scan, tmp_path / "out.h5", "--mode", "prospective") == 0
        with h5py.File(scan) as file:
            phantom = file["dataset/coil_images"][0]
        coil_images = (phantom["real"] + 1j * phantom["imag"])[..., 32:96]  # without the readout oversampling
        truth = np.sqrt((np.abs(coil_images) ** 2).sum(0)).T
        image = magnitudes(tmp_path / "out.h5")[0]
        assert nrmse(scaled(image, truth), truth) < 0.1

    def test_retrospective_takes_only_the_planned_lines(self, tmp_path):
        scan = generate(tmp_path / "scan.h5", "-m", 64, "-c", 4, "-r", 2)
        assert recon(scan, tmp_path / "out.h5", "--acceleration", "3") == 0
        for image in read_images(tmp_path / "out.h5", "run", 1):
            assert image.meta["PASS_lines_used"] == "21 of 64"
        assert [plan.data.sum() for plan in read_images(tmp_path / "out.h5", "run", 1000)] == [21, 21]


class TestRealData:
    @pytest.mark.parametrize("volume", ["patient01_study1_FLAIR", "patient01_study2_T1W", "patient03_study1_FLAIR"])
    def test_volume(self, shared_data, tmp_path, volume):
        nibabel = pytest.importorskip("nibabel")
        pixels = np.asarray(nibabel.load(shared_data / "open_ms" / f"{volume}.nii.gz").dataobj[:, ::2, 18:20])
        truth = np.moveaxis(pixels, -1, 0).astype(np.float32)[:, ::2]
        truth /= truth.max()
        slices, ro, pe = truth.shape
        maps = simulate_patient(coils=8, slices=slices, shape=(ro, pe), noise=0).coil_maps
        scan = write_scan(tmp_path / "scan.h5", fft2c(torch.from_numpy(truth)[:, None] * maps).numpy())
        assert recon(scan, tmp_path / "out.h5", "--acceleration", "3") == 0
        images = magnitudes(tmp_path / "out.h5")
        assert images.shape == truth.shape
        whole = nrmse(scaled(images, truth), truth)
        assert whole < 0.1
        few = np.zeros(pe, dtype=bool)
        few[pe // 2 - pe // 6 : pe // 2 + pe // 6] = True  # as many lines, all of them in the middle
        blurred = ifft2c(fft2c(torch.from_numpy(truth)) * torch.from_numpy(few))
        assert whole < nrmse(scaled(blurred.abs().numpy(), truth), truth)

    @pytest.mark.parametrize(
        ("name", "key", "oversampling"), [("knee_coronal_fatsat", "kdata", 2), ("head_sagittal_t1", "data", 1)]
    )
    def test_raw_kspace_of_one_coil(self, shared_data, tmp_path, name, key, oversampling):
        """With one coil and all lines there is nothing to reconstruct: the image is the Fourier transform."""
        scipy_io = pytest.importorskip("scipy.io")
        kspace = scipy_io.loadmat(shared_data / "raw" / f"{name}.mat")[key].T.astype(np.complex64)
        scan = write_scan(tmp_path / "scan.h5", kspace[None, None], oversampling=oversampling)
        assert recon(scan, tmp_path / "out.h5", "--mode", "prospective") == 0
        full = np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace))))
        ro = kspace.shape[0]
        truth = full[ro // 2 - ro // oversampling // 2 :][: ro // oversampling]
        image = magnitudes(tmp_path / "out.h5")[0]
        assert nrmse(scaled(image, truth), truth) < 0.01


def radial(xml):
    return xml.replace(b"<trajectory>cartesian", b"<trajectory>radial")


def three_dimensional(xml):
    return xml.replace(b"<z>1</z>", b"<z>16</z>")


def without_acs(rows):
    return rows[rows["head"]["idx"]["kspace_encode_step_1"] != 32]


def with_nan(rows):
    row = rows[40]
    row["data"][7] = np.nan
    rows[40] = row
    return rows


def with_a_coil_less(rows):
    row = rows[40]
    row["head"]["active_channels"] -= 1
    row["data"] = row["data"][: len(row["data"]) * 3 // 4]
    rows[40] = row
    return rows


def noise_only(rows):
    return rows[:1]


def with_a_stray_line(rows):
    stray = rows[40:41].copy()
    stray["head"]["idx"]["slice"] = 7
    return np.concatenate([rows[:40], stray, rows[40:]])


def cut_short(rows):
    return rows[:-9]


class TestBadInput:
    """One sentence, exit code 1, nothing written."""

    @pytest.fixture
    def complaint(self, tmp_path, capsys):
        """Runs `recon`, checks that it refuses cleanly, gives what it said."""

        def run(path, *options):
            (tmp_path / "results").mkdir()
            assert recon(path, tmp_path / "results" / "out.h5", *options) == 1
            assert list((tmp_path / "results").iterdir()) == []
            said = capsys.readouterr().err
            assert "Traceback" not in said
            return said

        return run

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"header": radial}, "only Cartesian scans are supported; the header's trajectory is 'radial'"),
            ({"header": three_dimensional}, "only 2D scans are supported; the encoded matrix has z = 16"),
            ({"rows": noise_only}, "no line of an image came"),
        ],
    )
    def test_unfit_scan(self, patient, tmp_path, complaint, change, sentence):
        assert sentence in complaint(edited(patient, tmp_path / "scan.h5", **change))

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (with_nan, "NaN"),
            (with_a_coil_less, "3 coils"),
            (with_a_stray_line, "slice 7"),
            (cut_short, "slice 0 is truncated"),
        ],
    )
    def test_what_can_be_made_is_kept_and_what_is_wrong_is_said(self, patient, tmp_path, capsys, change, sentence):
        assert recon(edited(patient, tmp_path / "scan.h5", rows=change), tmp_path / "out.h5") == 1
        said = capsys.readouterr().err
        assert sentence in said
        assert "Traceback" not in said
        assert read_images(tmp_path / "out.h5", "run", 1)[0].data.any()

    def test_an_acs_line_that_did_not_come_is_made_up_for(self, patient, tmp_path, capsys):
        assert recon(edited(patient, tmp_path / "scan.h5", rows=without_acs), tmp_path / "out.h5") == 0
        said = capsys.readouterr().err
        assert "warning: slice 0 has no complete ACS" in said
        assert "missing_lines: line 32 did not come" in said
        assert read_images(tmp_path / "out.h5", "run", 1)[0].data.any()

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            (["--bundle", "unicorn"], "there is no bundle 'unicorn'"),
            (["--mode", "sideways"], "the property 'mode' must be one of"),
            (["--acceleration", "0.5"], "the property 'acceleration' must be a number of at least 1"),
            (["--anomaly", "perhaps"], "the property 'anomaly' must be on or off"),
            (["--device", "abacus"], "the property 'device' must be"),
            (["-g", "elsewhere"], "has no group 'elsewhere' to read a scan from"),
        ],
    )
    def test_unfit_options(self, patient, complaint, options, sentence):
        assert sentence in complaint(patient, *options)

    def test_truncated_file(self, patient, tmp_path, complaint):
        content = patient.read_bytes()
        (tmp_path / "scan.h5").write_bytes(content[: len(content) // 2])
        assert "is truncated or damaged" in complaint(tmp_path / "scan.h5")

    def test_not_mrd(self, tmp_path, complaint):
        (tmp_path / "scan.h5").write_text("once upon a time")
        assert "is not an MRD file" in complaint(tmp_path / "scan.h5")

    def test_no_such_file(self, tmp_path, complaint):
        assert "no such file" in complaint(tmp_path / "scan.h5")

    def test_what_was_there_stays(self, patient, tmp_path):
        out = tmp_path / "out.h5"
        assert recon(patient, out, "--bundle", "classical") == 0
        before = out.read_bytes()
        assert recon(edited(patient, tmp_path / "scan.h5", rows=noise_only), out) == 1
        assert out.read_bytes() == before
