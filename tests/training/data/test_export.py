"""From a case, or from a fastMRI file, to an MRD file that others and our own chain reconstruct."""

from __future__ import annotations

import json
import shutil
import subprocess

import h5py
import ismrmrd
import numpy as np
import pytest

from gadgets.chain import run_chain
from gadgets.converters.patient_file import read_truth
from gadgets.mrd import RECONSTRUCTION_SERIES, array_of
from gadgets.mrd.scan_file import ScanFile
from gadgets.properties import Properties
from gadgets.protocol.connection import Failure
from pass_recon_cli.main import main
from tests.training.conftest import ANNOTATED, NORMAL
from tests.training.data.fastmri_files import KNEE, Volume
from training.data.case_file import CaseFile


def reconstructed(path) -> list[np.ndarray]:
    """Magnitude images ``(ro, pe)`` that our chain makes of a file, slice by slice."""
    images = []
    with ScanFile(path) as scan:
        for item in run_chain(scan.acquisitions(), scan.header_xml, Properties(bundle="classical")):
            assert not isinstance(item, Failure), item
            if item.image_series_index == RECONSTRUCTION_SERIES:
                images.append(array_of(item).squeeze().astype(float))
    return images


def inside(image: np.ndarray, box) -> np.ndarray:
    return image[box.readout : box.readout + box.readout_size, box.phase : box.phase + box.phase_size]


@pytest.mark.parametrize("volume", [ANNOTATED, KNEE], ids=["brain", "knee"])
def test_an_exported_case_is_reconstructed_with_the_lesion_in_its_box(prepared, tmp_path, volume):
    path = tmp_path / "scan.h5"
    case = prepared.dataset / f"{volume.name}.h5"
    assert main(["train", "export-mrd", str(case), "-o", str(path)]) == 0
    images, truth = reconstructed(path), read_truth(path)
    assert len(images) == volume.slices
    (box,) = truth.boxes[volume.blob_slice]
    image = images[volume.blob_slice]
    assert image.shape == (320, 320)
    assert np.unravel_index(image.argmax(), image.shape)[0] in range(box.readout, box.readout + box.readout_size)
    assert np.median(inside(image, box)) > 1.5 * np.median(image[image > 0.2 * image.max()])
    expected = np.abs(truth.image[volume.blob_slice])
    scale = (image * expected).sum() / (image**2).sum()
    assert np.linalg.norm(scale * image - expected) < 0.15 * np.linalg.norm(expected)
    with h5py.File(path) as file:
        labels = file["truth/labels"][()].tolist()
    with CaseFile(case) as stored:
        assert labels == [record.label for record in stored.records]
        np.testing.assert_array_equal(truth.image[1], stored.image(1).numpy())


def test_single_slices_of_a_simulated_case_with_chosen_noise(tmp_path):
    arguments = ["train", "prepare", "--simulated", "1", "--matrix", "64", "64", "--coils", "4", "--slices", "3"]
    assert main([*arguments, "--workers", "1", "-o", str(tmp_path / "dataset")]) == 0
    (case,) = (tmp_path / "dataset").glob("*.h5")
    path = tmp_path / "scan.h5"
    assert main(["train", "export-mrd", str(case), "-o", str(path), "--slices", "2", "--noise", "0"]) == 0
    with ScanFile(path) as scan:
        # Without noise there is no noise scan: one acquisition a line.
        assert len(scan) == 64
        assert scan.header.measurementInformation.measurementID == case.stem
    with CaseFile(case) as stored:
        np.testing.assert_array_equal(read_truth(path).image, stored.image(2)[None].numpy())
    assert main(["train", "export-mrd", str(case), "-o", str(path), "--slices", "7"]) == 1
    assert main(["train", "export-mrd", str(tmp_path / "nothing.h5"), "-o", str(path)]) == 1


def test_noise_cannot_be_added_to_a_measured_case(prepared, tmp_path, capsys):
    case = prepared.dataset / f"{NORMAL.name}.h5"
    assert main(["train", "export-mrd", str(case), "-o", str(tmp_path / "scan.h5"), "--noise", "0.1"]) == 1
    assert "noise of its own" in capsys.readouterr().err
    assert not (tmp_path / "scan.h5").exists()


@pytest.fixture(scope="module")
def knee_mrd(prepared, tmp_path_factory):
    path = tmp_path_factory.mktemp("mrd") / "knee.h5"
    assert main(["fastmri2mrd", str(prepared.source / "knee" / f"{KNEE.name}.h5"), "-o", str(path)]) == 0
    return path


def test_the_header_is_translated(knee_mrd):
    with ScanFile(knee_mrd) as scan:
        header, places = scan.header, [head.idx for head in scan.heads()]
        assert len(scan) == 2 * (368 - 36)
    with h5py.File(knee_mrd) as file:
        assert b"<version>" not in file["dataset/xml"][0]
    encoding = header.encoding[0]
    encoded, recon = encoding.encodedSpace, encoding.reconSpace
    assert (encoded.matrixSize.x, encoded.matrixSize.y, encoded.matrixSize.z) == (640, 368, 1)
    assert (encoded.fieldOfView_mm.x, encoded.fieldOfView_mm.y) == pytest.approx((280.0, 161.0))
    assert (recon.matrixSize.x, recon.matrixSize.y) == (320, 320)
    assert recon.fieldOfView_mm.y == pytest.approx(140.0)
    limits = encoding.encodingLimits
    step = limits.kspace_encoding_step_1
    assert (step.minimum, step.maximum, step.center) == (0, 331, 166)
    assert (limits.slice.maximum, limits.average.maximum) == (1, 0)
    assert header.acquisitionSystemInformation.receiverChannels == KNEE.coils
    assert header.acquisitionSystemInformation.systemModel == "Skyra"
    assert header.sequenceParameters.TE == [2.64]
    assert sorted({place.kspace_encode_step_1 for place in places}) == list(range(332))
    assert {place.slice for place in places} == {0, 1}


def test_a_header_that_does_not_fit_the_kspace_is_mended(tmp_path, capsys):
    path = NORMAL.write(tmp_path)
    with h5py.File(path, "a") as file:
        text = file["ismrmrd_header"][()].decode()
        del file["ismrmrd_header"]
        text = text.replace("<x>640</x><y>320</y>", "<x>640</x><y>256</y>").replace("<center>160", "<center>40")
        file["ismrmrd_header"] = text.replace("<studyInformation>", "<version>1</version><studyInformation>")
    assert main(["fastmri2mrd", str(path), "-o", str(tmp_path / "out.h5"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["acquisitions"] == 320
    with ScanFile(tmp_path / "out.h5") as scan:
        encoding = scan.header.encoding[0]
        assert len(scan) == 320
    assert encoding.encodedSpace.matrixSize.y == 320
    assert encoding.encodingLimits.kspace_encoding_step_1.center == 160


def test_our_chain_reconstructs_the_translated_file(prepared, knee_mrd):
    image = reconstructed(knee_mrd)[1]
    with CaseFile(prepared.dataset / f"{KNEE.name}.h5") as case:
        (box,) = case.records[1].boxes
        expected = case.image(1).abs().numpy()
    assert image.shape == (320, 320)
    bright = np.argwhere(image > 0.85 * image.max())
    assert np.abs(bright.mean(0) - (box.readout + box.readout_size / 2, box.phase + box.phase_size / 2)).max() < 1.5
    scale = (image * expected).sum() / (image**2).sum()
    assert np.linalg.norm(scale * image - expected) < 0.1 * np.linalg.norm(expected)


@pytest.mark.skipif(shutil.which("ismrmrd_recon_cartesian_2d") is None, reason="no ismrmrd-tools")
def test_the_reference_tool_reconstructs_fastmri_s_own_image(prepared, tmp_path):
    """The tool of the ISMRMRD project knows one slice and the root sum of squares."""
    source = prepared.source / "brain" / f"{NORMAL.name}.h5"
    path = tmp_path / "scan.h5"
    assert main(["fastmri2mrd", str(source), "-o", str(path)]) == 0
    subprocess.run(["ismrmrd_recon_cartesian_2d", str(path)], check=True, capture_output=True)
    with ismrmrd.Dataset(str(path), "dataset", create_if_needed=False) as dataset:
        image = np.abs(dataset.read_image("cpp", 0).data.squeeze()).T
    with h5py.File(source) as file:
        expected = file["reconstruction_rss"][0]
    scale = (image * expected).sum() / (image**2).sum()
    np.testing.assert_allclose(scale * image, expected, atol=1e-3 * expected.max())


def test_what_is_no_fastmri_volume_is_refused(prepared, tmp_path, capsys):
    assert main(["fastmri2mrd", str(prepared.annotations), "-o", str(tmp_path / "x.h5")]) == 1
    assert "is not HDF5" in capsys.readouterr().err
    assert not (tmp_path / "x.h5").exists()


def changed(source, path, **datasets):
    """A copy of a fastMRI file with other datasets."""
    shutil.copy(source, path)
    with h5py.File(path, "a") as file:
        for name, value in datasets.items():
            if name in file:
                del file[name]
            file[name] = value
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Volume(slices=2, phase=96, margin=4).write(tmp_path_factory.mktemp("small"))


def kspace_of(path):
    with h5py.File(path) as file:
        return file["kspace"][()]


def written(path):
    """K-space ``(slices, coils, ro, pe)`` and the number of acquisitions, as the library reads the MRD file."""
    with ScanFile(path) as scan:
        limit = scan.header.encoding[0].encodingLimits.kspace_encoding_step_1
        lines = list(scan.acquisitions())
    found = np.zeros((2, *lines[0].data.shape, 96), dtype=np.complex64)
    for line in lines:
        found[line.idx.slice, :, :, line.idx.kspace_encode_step_1 - limit.center + 48] = line.data
    return found, len(lines)


def test_a_test_volume_with_a_mask_becomes_a_prospective_scan(small, tmp_path):
    mask = np.zeros(96, dtype=bool)
    mask[::3], mask[42:54] = True, True
    kspace = kspace_of(small) * mask
    source = changed(small, tmp_path / "test.h5", kspace=kspace, mask=mask)
    assert main(["fastmri2mrd", str(source), "-o", str(tmp_path / "scan.h5")]) == 0
    found, count = written(tmp_path / "scan.h5")
    assert count == 2 * mask[4:92].sum()
    np.testing.assert_array_equal(found[..., 4:92], kspace[..., 4:92])
    with ScanFile(tmp_path / "scan.h5") as scan:
        parallel = scan.header.encoding[0].parallelImaging
        flag = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING
        flagged = [one for one in scan.acquisitions() if one.is_flag_set(flag)]
        properties = Properties(bundle="classical", mode="prospective", anomaly=False)
        items = list(run_chain(scan.acquisitions(), scan.header_xml, properties))
    assert (parallel.calibrationMode.value, parallel.accelerationFactor.kspace_encoding_step_1) == ("embedded", 3)
    assert len(flagged) == 2 * 13
    assert not [item for item in items if isinstance(item, Failure)]
    images = [item for item in items if item.image_series_index == RECONSTRUCTION_SERIES]
    assert [image.meta["PASS_lines_used"] for image in images] == [f"{mask[4:92].sum()} of 96"] * 2


def test_averages_are_averaged_over_those_that_hold_a_line(small, tmp_path):
    kspace = kspace_of(small)
    averages = np.stack([0.5 * kspace, kspace, 1.5 * kspace])
    averages[0, ..., 1::2], averages[1, ..., ::2], averages[2, ..., 1::2] = 0, 0, 0
    source = changed(small, tmp_path / "averages.h5", kspace=averages)
    assert main(["fastmri2mrd", str(source), "-o", str(tmp_path / "scan.h5")]) == 0
    found, _ = written(tmp_path / "scan.h5")
    np.testing.assert_allclose(found[..., 4:92], kspace[..., 4:92], rtol=1e-5)


def test_columns_that_no_average_holds_are_no_acquisitions(small, tmp_path):
    kspace = kspace_of(small)
    kspace[..., 4:30:2] = 0
    source = changed(small, tmp_path / "few.h5", kspace=kspace[None])
    assert main(["fastmri2mrd", str(source), "-o", str(tmp_path / "scan.h5")]) == 0
    assert written(tmp_path / "scan.h5")[1] == 2 * (88 - 13)


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ((0, 1, 3, 2), "its third axis should be the readout of 640 samples"),
        ((1, 0, 2, 3), "its second axis should be the 4 coils"),
        ((2, 0, 1, 3), "its third axis should be the readout of 640 samples"),
    ],
)
def test_axes_that_do_not_fit_the_header_are_refused(small, tmp_path, capsys, axes, sentence):
    source = changed(small, tmp_path / "axes.h5", kspace=kspace_of(small).transpose(axes))
    assert main(["fastmri2mrd", str(source), "-o", str(tmp_path / "scan.h5")]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "scan.h5").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kspace": np.zeros((2, 640, 96), np.complex64)}, "or averages of that on a first axis of five"),
        ({"kspace": np.zeros((1, 3, 2, 4, 640, 96), np.complex64)}, "or averages of that on a first axis of five"),
        ({"mask": np.ones(95)}, "a mask of 95 columns does not fit k-space of 96"),
        ({"mask": np.zeros(96)}, "the mask leaves no column"),
    ],
)
def test_volumes_that_cannot_be_understood_are_refused_with_what_was_found(small, tmp_path, capsys, changes, sentence):
    source = changed(small, tmp_path / "odd.h5", **changes)
    assert main(["fastmri2mrd", str(source), "-o", str(tmp_path / "scan.h5")]) == 1
    assert sentence in capsys.readouterr().err
