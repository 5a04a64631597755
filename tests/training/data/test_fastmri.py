"""What preparing fastMRI makes of volumes about which everything is known."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from pass_recon.physics.fourier import fft2c, ifft1c
from pass_recon.types import InputError
from pass_recon_cli.main import main
from tests.training.conftest import ANNOTATED, MANY_COILS, NORMAL, OTHER_ACQUISITION, SAME_PATIENT
from tests.training.data.fastmri_files import KNEE, Volume
from training.data.case_file import CaseFile
from training.data.fastmri import FastMriJob, FastMriSettings, published_split
from training.data.fastmri_file import FastMriVolume
from training.data.fastmri_plus import Mark, Study
from training.data.jobs import do


def _numpy_coil_images(path, index):
    """Coil images as fastMRI's own tools make and crop them."""
    with h5py.File(path) as file:
        kspace = file["kspace"][index]
    axes = (-2, -1)
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)
    top, left = (images.shape[1] - 320) // 2, (images.shape[2] - 320) // 2
    return images[:, top : top + 320, left : left + 320]


@pytest.mark.parametrize("volume", [ANNOTATED, KNEE], ids=["brain", "knee"])
def test_coil_images_are_cropped_and_nothing_else(prepared, volume):
    folder = prepared.source / ("knee" if volume is KNEE else "brain")
    expected = _numpy_coil_images(folder / f"{volume.name}.h5", 1)
    with CaseFile(prepared.dataset / f"{volume.name}.h5") as case:
        assert (case.shape.slices, case.shape.coils) == (volume.slices, volume.coils)
        images, scale = case.coil_images(1).numpy(), case.info.scale
        combined = (case.coil_maps(1).conj() * case.coil_images(1)).sum(0)
        peak = max(float(case.image(index).abs().max()) for index in range(len(case)))
        image = case.image(1)
    assert images.shape == (volume.coils, 320, 320)
    # Half precision: 2⁻¹¹ of each component at most.
    np.testing.assert_allclose(images * scale, expected, rtol=0, atol=2**-11 * np.abs(expected).max())
    assert torch.linalg.vector_norm(combined - image) < 1e-3 * torch.linalg.vector_norm(image)
    assert 0.98 < peak <= 1.0


def test_coil_maps_are_those_of_the_array_up_to_a_phase(prepared):
    with CaseFile(prepared.dataset / f"{MANY_COILS.name}.h5") as case:
        maps, image = case.coil_maps(0).numpy(), case.image(0).abs().numpy()
    true = MANY_COILS.coil_maps()[:, 160:480]
    object_ = np.abs(MANY_COILS.image(0))[160:480] > 0.3
    correlation = np.abs((maps.conj() * true).sum(0))[object_]
    assert correlation.min() > 0.98
    assert np.abs(np.linalg.norm(maps[:, object_], axis=0) - 1).max() < 2e-3
    np.testing.assert_allclose(image[object_], np.abs(MANY_COILS.image(0))[160:480][object_], atol=0.12)


def test_noise_of_the_coils_is_kept_and_known(prepared):
    with CaseFile(prepared.dataset / f"{NORMAL.name}.h5") as case:
        corner = case.coil_images(0)[:, :30, :30]
        info = case.info
    true = NORMAL.noise * NORMAL.scale / info.scale
    assert float(corner.abs().square().mean().sqrt()) == pytest.approx(true, rel=0.05)
    assert info.noise == pytest.approx(true, rel=0.15)


def test_resimulation_removes_the_noise(fastmri, tmp_path):
    settings = FastMriSettings(resimulate=True)
    job = FastMriJob(fastmri / "brain" / f"{NORMAL.name}.h5", settings, Study())
    assert do(job, str(tmp_path)).fate == "written"
    with CaseFile(tmp_path / f"{NORMAL.name}.h5") as case:
        assert not case.info.measured
        assert case.info.noise == 0
        corner = case.coil_images(0)[:, :30, :30]
        image, maps = case.image(0), case.coil_maps(0)
        torch.testing.assert_close(case.coil_images(0), maps * image)
    assert float(corner.abs().max()) < 1e-6


@pytest.mark.parametrize("volume", [ANNOTATED, KNEE], ids=["brain", "knee"])
def test_the_painted_lesion_lies_in_its_box(prepared, volume):
    with CaseFile(prepared.dataset / f"{volume.name}.h5") as case:
        (box,) = case.records[volume.blob_slice].boxes
        bright = (case.image(volume.blob_slice).abs() > 0.8).nonzero()
        mask = case.anomaly_mask(volume.blob_slice)
        assert not case.records[0].boxes
    assert int(mask.sum()) == box.readout_size * box.phase_size
    assert bool(mask[bright[:, 0], bright[:, 1]].all())
    assert bright.amin(0).tolist() == [box.readout, box.phase]
    assert (bright.amax(0) - bright.amin(0) + 1).tolist() == [box.readout_size, box.phase_size]


def test_labels_follow_the_radiologists(prepared):
    def labels(volume):
        with CaseFile(prepared.dataset / f"{volume.name}.h5") as case:
            return [record.label for record in case.records]

    assert labels(ANNOTATED) == [-1, 1]  # an artefact on the first slice, a finding on the second
    assert labels(NORMAL) == [0]
    assert labels(SAME_PATIENT) == [-1]  # never reviewed
    assert labels(MANY_COILS) == [1]  # said of the study as a whole
    with CaseFile(prepared.dataset / f"{ANNOTATED.name}.h5") as case:
        (remark,) = case.records[0].remarks
        assert remark.label == "Possible artifact"
        assert case.records[1].caption == "Edema"


def test_lines_the_scanner_did_not_measure_are_outside_the_range(prepared):
    with CaseFile(prepared.dataset / f"{KNEE.name}.h5") as case:
        first, last = case.info.line_range
        kspace = torch.fft.fftshift(torch.fft.fft2(case.coil_images(0), norm="ortho"), dim=(-2, -1))
    # 18 of 368 columns at each end, on a grid of 320: 15.65.
    assert (first, last) == (16, 304)
    power = kspace.abs().square().mean((0, 1))
    assert float(power[: first - 1].mean()) < 0.05 * float(power[first + 1 : first + 10].mean())


def test_header_essentials_are_kept(prepared):
    with CaseFile(prepared.dataset / f"{KNEE.name}.h5") as case:
        info = case.info
    assert (info.anatomy, info.contrast, info.acquisition, info.patient_id) == ("knee", "pd", "CORPD_FBK", "patient-k")
    assert info.pixel_mm == pytest.approx((0.4375, 0.4375))
    assert info.slice_mm == 5.0


def test_damaged_files_are_skipped_and_listed(prepared):
    skipped = prepared.manifest["skipped"]
    assert set(skipped) == {f"file_brain_AXT1_200_000000{number}" for number in (6, 7, 8)}
    assert "truncated" in skipped["file_brain_AXT1_200_0000006"]
    assert "no ismrmrd_header" in skipped["file_brain_AXT1_200_0000007"]
    assert all(f"skipped: {name}" in prepared.said for name in skipped)
    assert not list(prepared.dataset.glob(".*"))
    assert not (prepared.dataset / f"{OTHER_ACQUISITION.name}.h5").exists()
    assert "1 not asked for" in prepared.said


def test_other_acquisitions_come_when_asked(prepared, tmp_path):
    path = prepared.source / "brain" / f"{OTHER_ACQUISITION.name}.h5"
    outcome = do(FastMriJob(path, FastMriSettings(("AXT2",)), Study()), str(tmp_path))
    assert outcome.fate == "written"
    with CaseFile(tmp_path / path.name) as case:
        assert case.info.contrast == "t2"


def test_damage_inside_a_volume_is_found(tmp_path):
    path = replace(NORMAL, coils=4, slices=2).write(tmp_path)
    with h5py.File(path, "a") as file:
        file["kspace"][1, 2, 300, 100] = np.nan
    outcome = do(FastMriJob(path, FastMriSettings(), Study()), str(tmp_path / "out"))
    assert outcome.fate == "skipped"
    assert "slice 1 holds NaN" in outcome.reason
    with h5py.File(path, "a") as file:
        file["mask"] = np.ones(320)
    assert "undersampled" in do(FastMriJob(path, FastMriSettings(), Study()), str(tmp_path / "out")).reason


def test_boxes_without_extent_are_told(tmp_path):
    path = replace(NORMAL, coils=4, slices=2).write(tmp_path)
    marks = (Mark(0, 100, 100, 0, 5, "Mass"), Mark(1, 90, 90, 0, 0, "Mass"), Mark(1, 100, 100, 20, 20, "Mass"))
    (tmp_path / "out").mkdir()
    outcome = do(FastMriJob(path, FastMriSettings(), Study(True, marks, ())), str(tmp_path / "out"))
    assert outcome.fate == "written", outcome
    with CaseFile(tmp_path / "out" / f"{path.stem}.h5") as case:
        assert case.info.note == "2 annotated boxes are points or lines without extent and are left out"
        assert [len(record.boxes) for record in case.records] == [0, 1]


@pytest.mark.parametrize("phase", [213, 264])
def test_a_narrow_volume_keeps_its_lines_and_an_empty_slice_survives(tmp_path, phase):
    """Padded to 320, a quarter of the lines would be 2.7 times fewer than the 213 that the scanner measured."""
    narrow = Volume(phase=phase, readout=512, slices=2, blob_slice=1, blob=(120, 180, 8, 6))
    path = narrow.write(tmp_path)
    with h5py.File(path, "a") as file:
        file["kspace"][0] = 0
        del file["reconstruction_rss"]
    (tmp_path / "out").mkdir()
    assert do(FastMriJob(path, FastMriSettings(), Study()), str(tmp_path / "out")).fate == "written"
    with CaseFile(tmp_path / "out" / path.name) as case:
        assert case.info.note == f"the scanner's {phase} lines are fewer than 320 and are kept as they are"
        assert (case.shape.readout, case.shape.phase, case.info.line_range) == (320, phase, (0, phase))
        assert case.info.pixel_mm == pytest.approx((0.6875, 0.6875))
        assert float(case.image(0).abs().max()) == 0
        row, column, _, _ = narrow.blob
        assert float(case.image(1).abs()[row, column + phase // 2 - 160]) > 0.9
        measured = fft2c(case.coil_images(1))
    # Cutting the readout leaves the lines alone: they are those of the file.
    with h5py.File(path) as file:
        written = ifft1c(torch.from_numpy(file["kspace"][1]), -2)[:, 96:416] / case.info.scale
    torch.testing.assert_close(ifft1c(measured, -2), written, rtol=0, atol=2e-3 * float(written.abs().max()))


def test_the_manifest_tells_pixels_and_measured_lines(prepared):
    knee, brain = prepared.case(KNEE.name), prepared.case(ANNOTATED.name)
    assert (knee["shape"], knee["measured_lines"], knee["pixel_mm"]) == ([320, 320], 288, [0.4375, 0.4375])
    assert (brain["shape"], brain["measured_lines"], brain["pixel_mm"]) == ([320, 320], 320, [0.6875, 0.6875])


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_volume(tmp_path):
    """Twelve slices more of 16 coils at 640×320 hold 315 MB; the allocator's ups and downs are 50 MB."""
    # The kernel's high-water mark of this program alone: getrusage would count the process that started it.
    program = (
        "import sys\n"
        "from pass_recon_cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print(next(int(line.split()[1]) / 1024 for line in open('/proc/self/status') if 'VmHWM' in line))"
    )
    used = []
    for slices in (3, 15):
        Volume(slices=slices, coils=16).write(tmp_path / f"{slices}")
        arguments = ["train", "prepare", "--fastmri", str(tmp_path / f"{slices}"), "--workers", "1"]
        command = [sys.executable, "-c", program, *arguments, "-o", str(tmp_path / f"{slices}-out")]
        used.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]))
    assert used[1] - used[0] < 100


@pytest.mark.parametrize("name", ["reconstruction_rss", "ismrmrd_header", "kspace"])
def test_a_group_in_place_of_an_array_is_a_sentence(tmp_path, name):
    volume = Volume()
    path = volume.write(tmp_path)
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        file.create_group(name)
    with pytest.raises(InputError, match=volume.name):
        FastMriVolume(path)


def test_fastmris_own_split_is_taken(fastmri, tmp_path, capsys):
    files = sorted(fastmri.rglob("*.h5"))[:2]
    for folder, file in zip(("multicoil_train", "multicoil_val"), files, strict=True):
        (tmp_path / "all" / folder).mkdir(parents=True)
        shutil.copy(file, tmp_path / "all" / folder / file.name)
    command = ["train", "prepare", "--acquisitions", "all", "--matrix", "48", "48", "--workers", "0", "--own-split"]
    assert main([*command, "--fastmri", str(tmp_path / "all"), "-o", str(tmp_path / "dataset")]) == 0
    cases = json.loads((tmp_path / "dataset" / "manifest.json").read_text(encoding="utf-8"))["cases"]
    splits = {case["origin"]: case["split"] for case in cases}
    expected = {files[0].name: "train", files[1].name: "validation"}
    assert splits == {name: split for name, split in expected.items() if name in splits}
    assert splits
    with pytest.raises(InputError, match="multicoil_val"):
        published_split(Path("brains") / "file.h5")
    assert published_split(Path("train") / "multicoil_test" / "file.h5") == "test"
