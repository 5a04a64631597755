"""Magnitude volumes: orientation, grid, lesions, names; and real ones."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, ornt_transform

from pass_recon.types import InputError
from training.data import heads
from training.data.case_file import CaseFile
from training.data.jobs import do
from training.data.nifti import VolumeSettings, find_volumes, mask_boxes, on_grid, parse_name, read_volume

SETTINGS = VolumeSettings(shape=(96, 96), coils=4)


def head(slices: int = 6, size: int = 64, mm: tuple[float, float, float] = (3.0, 3.0, 4.0)):
    """A head and its lesions in (left, posterior, superior) order: a bright nose, a dot on the patient's left."""
    x, y, _ = np.mgrid[:size, :size, :slices].astype(float)
    values = 400.0 * (((x - 32) / 22) ** 2 + ((y - 32) / 27) ** 2 < 1)
    values[28:36, 2:6] = 900  # anterior
    values[44:48, 30:34, slices - 1] = 700  # left, at the top
    lesions = np.zeros(values.shape, np.uint8)
    lesions[20:26, 40:44, 2] = 1
    lesions[30, 20, 3] = 1  # too small for a box
    values[lesions > 0] = 800
    affine = np.diag([-mm[0], -mm[1], mm[2], 1.0])
    return nibabel.Nifti1Image(values, affine), nibabel.Nifti1Image(lesions, affine)


def save(image, path, codes="LPS"):
    turn = ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(codes))
    nibabel.save(image.as_reoriented(turn), path)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SAL", "ASR"])
def test_heads_lie_upright_however_they_were_stored(tmp_path, codes):
    save(head()[0], tmp_path / "patient01_T1.nii.gz", codes)
    volume = read_volume(tmp_path / "patient01_T1.nii.gz", "brain")
    assert volume.spacing == pytest.approx((4.0, 3.0, 3.0))
    assert tuple(volume.values.shape) == (6, 64, 64)
    nose = (volume.values[0] == 900).nonzero().float().mean(0)
    assert nose.tolist() == pytest.approx([3.5, 31.5])  # anterior: the first rows
    (places,) = [(volume.values[index] == 700).nonzero() for index in range(6) if (volume.values[index] == 700).any()]
    assert places.float().mean(0).tolist() == pytest.approx([31.5, 45.5])  # the patient's left: high columns
    assert bool((volume.values[5] == 700).any())  # the top: the last slice


def test_knees_are_cut_coronally_with_the_femur_above(tmp_path):
    save(head()[0], tmp_path / "patient01_PD.nii.gz")
    volume = read_volume(tmp_path / "patient01_PD.nii.gz", "knee")
    assert tuple(volume.values.shape) == (64, 6, 64)
    assert volume.spacing == pytest.approx((3.0, 4.0, 3.0))
    assert bool((volume.values[31, 0, 44:48] == 700).all())  # superior: the first row


def test_lesion_masks_become_boxes(tmp_path):
    image, lesions = head()
    save(image, tmp_path / "patient01_study1_FLAIR.nii.gz", "RAS")
    save(lesions, tmp_path / "patient01_study1_lesions.nii.gz", "LPS")
    (job,) = find_volumes(tmp_path, SETTINGS)
    assert do(job, str(tmp_path)).fate == "written"
    with CaseFile(tmp_path / "patient01_study1_FLAIR.h5") as case:
        assert case.info.reviewed
        assert (case.info.patient_id, case.info.contrast) == ("patient01", "flair")
        assert [record.label for record in case.records] == [0, 0, 1, -1, 0, 0]
        (box,) = case.records[2].boxes
        mask, bright = case.lesion_mask(2), case.image(2).abs()
        assert case.lesion_mask(3).sum() > 0
    assert box.label == "Nonspecific white matter lesion"
    inside = bright[box.readout : box.readout + box.readout_size, box.phase : box.phase + box.phase_size]
    assert float(inside.mean()) > 1.6 * float(bright[bright > 0.1].median())
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    assert (box.readout, box.phase) == (int(rows[0]), int(columns[0]))
    # 3 mm pixels on 240 / 96 = 2.5 mm: six columns and four rows become about 7 and 5.
    assert box.phase_size == pytest.approx(6 * 3 / 2.5, abs=1)
    assert box.readout_size == pytest.approx(4 * 3 / 2.5, abs=1)


def test_maps_are_normalised_and_the_image_keeps_its_magnitude(tmp_path):
    save(head()[0], tmp_path / "patient01_T1.nii.gz")
    (job,) = find_volumes(tmp_path, SETTINGS)
    do(job, str(tmp_path))
    expected = on_grid(read_volume(job.path, "brain"), None, SETTINGS.shape)
    with CaseFile(tmp_path / "patient01_T1.h5") as case:
        assert not case.info.reviewed
        assert {record.label for record in case.records} == {-1}
        maps = case.coil_maps(3)
        torch.testing.assert_close(case.image(3).abs(), expected.magnitude[3])
        phase = torch.angle(case.image(3) * case.image(4).conj())[48, 48]
    torch.testing.assert_close(maps.abs().square().sum(0), torch.ones(96, 96), atol=2e-3, rtol=0)
    assert float(maps.abs().std()) > 0.05
    assert abs(float(phase)) < 1.0  # smooth from slice to slice


def test_pixels_are_kept_where_the_field_of_view_fits(tmp_path):
    save(head(size=64)[0], tmp_path / "a_T1.nii.gz")
    volume = read_volume(tmp_path / "a_T1.nii.gz", "brain")
    kept = on_grid(volume, None, (80, 80))  # 80 × 3 mm = 240 mm
    assert kept.pixel_mm == pytest.approx(3.0)
    inner = volume.values / volume.values.max()
    torch.testing.assert_close(kept.magnitude[0][8:72, 8:72], inner[0])
    assert on_grid(volume, None, (100, 100)).pixel_mm == pytest.approx(2.4)


def test_thin_slices_are_averaged_and_empty_ones_dropped(tmp_path):
    image, _ = head(slices=20, mm=(3.0, 3.0, 1.0))
    values = np.array(image.dataobj)
    values[..., :6] = 0
    save(nibabel.Nifti1Image(values, image.affine), tmp_path / "a_T1.nii.gz")
    grid = on_grid(read_volume(tmp_path / "a_T1.nii.gz", "brain"), None, (80, 80))
    assert grid.slice_mm == pytest.approx(3.0)
    assert grid.origin.tolist() == [2, 3, 4, 5]


def test_names():
    assert parse_name("patient03_study1_FLAIR") == ("patient03", "flair")
    assert parse_name("mni_patient07_T1") == ("mni_patient07", "t1")
    assert parse_name("patient12_study2_T1W") == ("patient12", "t1")
    assert parse_name("sub-01_ses-2_T2w") == ("sub-01", "t2")
    assert parse_name("scan5") == ("scan5", "")


def test_small_spots_get_no_box_and_diagonals_connect():
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[2, 2] = mask[3, 3] = mask[4, 4] = mask[5, 5] = True
    mask[15, 15] = True
    (box,) = mask_boxes(mask, "x", smallest=4)
    assert (box.readout, box.phase, box.readout_size, box.phase_size) == (2, 2, 4, 4)


def test_what_cannot_be_used_is_skipped_with_a_reason(tmp_path):
    (tmp_path / "patient01_T1.nii.gz").write_bytes(b"nothing")
    image, lesions = head()
    save(image, tmp_path / "patient02.nii.gz")
    save(image, tmp_path / "patient03_T1.nii.gz")
    nibabel.save(lesions.slicer[:, :, :3], tmp_path / "patient03_lesions.nii.gz")
    reasons = {job.name: do(job, str(tmp_path)).reason for job in find_volumes(tmp_path, SETTINGS)}
    assert "cannot be read" in reasons["patient01_T1"]
    assert "tells no contrast" in reasons["patient02"]
    assert "lesion mask" in reasons["patient03_T1"]
    with pytest.raises(InputError, match="zero everywhere"):
        on_grid(read_volume_of_zeros(tmp_path), None, (80, 80))


def read_volume_of_zeros(folder):
    image, _ = head()
    save(nibabel.Nifti1Image(np.zeros((64, 64, 6)), image.affine), folder / "zero_T1.nii.gz")
    return read_volume(folder / "zero_T1.nii.gz", "brain")


def test_lesions_are_painted_into_real_heads(shared_data, tmp_path):
    settings = VolumeSettings(coils=2, painted=4, seed=5)
    job = next(job for job in find_volumes(shared_data / "open_ms", settings) if "patient04_study1_FLAIR" in job.name)
    assert job.name == "patient04_study1_FLAIR_painted_5"
    assert do(job, str(tmp_path)).fate == "written"
    plain = on_grid(read_volume(job.path, "brain"), None, settings.shape)
    with CaseFile(tmp_path / f"{job.name}.h5") as case:
        assert case.info.patient_id == "patient04"
        labels = [record.label for record in case.records]
        painted = labels.index(1)
        image, mask = case.image(painted).abs() * case.info.scale / plain.peak, case.lesion_mask(painted)
        assert set(labels) == {-1, 1}  # nobody reviewed the others
    assert bool(mask.any())
    changed = (image - plain.magnitude[painted]).abs() > 0.02
    assert bool(changed[mask].any())
    torch.testing.assert_close(image[:10], plain.magnitude[painted][:10])


@pytest.mark.parametrize("name", ["mni_patient07_FLAIR", "patient03_study1_FLAIR"])
def test_real_heads(shared_data, name):
    jobs = {job.name: job for job in find_volumes(shared_data / "open_ms", VolumeSettings())}
    assert len(jobs) == 17
    job = jobs[name]
    mask = None if job.mask is None else read_volume(job.mask, "brain")
    grid = on_grid(read_volume(job.path, "brain"), mask, (320, 320))
    # 306 × 384 pixels of 0.57 mm and 182 × 218 of 1 mm: both resampled to a field of view of 240 mm.
    assert grid.pixel_mm == 0.75
    assert grid.magnitude.shape[1:] == (320, 320)
    heads = (grid.magnitude > 0.1).float()
    middle = heads[len(heads) // 2]
    rows, columns = middle.any(1).nonzero().flatten(), middle.any(0).nonzero().flatten()
    height, width = (float(part[-1] - part[0]) * 0.75 for part in (rows, columns))
    assert 150 < height < 220
    assert 110 < width < 180
    if mask is not None:
        boxes = [mask_boxes(plane, "", 4) for plane in grid.mask]
        assert sum(len(part) > 0 for part in boxes) >= 10
        lesion, rest = grid.magnitude[grid.mask], grid.magnitude[(grid.magnitude > 0.1) & ~grid.mask]
        assert float(lesion.median()) > 1.1 * float(rest.median())  # lesions are bright in FLAIR


@pytest.mark.parametrize("place", [4, 20, 70, 300])
def test_a_rotten_volume_is_skipped_whatever_is_rotten_in_it(tmp_path, place):
    image, _ = head()
    nibabel.save(image, tmp_path / "sub_t1.nii.gz")
    data = bytearray((tmp_path / "sub_t1.nii.gz").read_bytes())
    data[place : place + 40] = bytes(reversed(data[place : place + 40]))
    (tmp_path / "sub_t1.nii.gz").write_bytes(data)
    with pytest.raises(InputError, match="cannot be read"):
        read_volume(tmp_path / "sub_t1.nii.gz", "brain")


def test_a_small_file_that_unpacks_to_terabytes_is_refused_with_the_figure(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_shape((20_000, 20_000, 5_000))
    header.set_data_dtype(np.float32)
    with gzip.open(tmp_path / "sub_t1.nii.gz", "wb") as file:
        file.write(header.binaryblock + bytes(1000))
    for read in (lambda path: read_volume(path, "brain"), heads._Volume.read):
        with pytest.raises(InputError, match=r"sub_t1.nii.gz of 20000 by 20000 by 5000 voxels needs about 32000 GB"):
            read(tmp_path / "sub_t1.nii.gz")
