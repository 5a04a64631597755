"""What training gets: slices, batches, k-space with the noise it should have, fast enough."""

from __future__ import annotations

import time

import pytest
import torch
from torch.utils.data import DataLoader

from pass_recon.physics.fourier import fft2c, ifft2c
from pass_recon.types import InputError
from pass_recon_cli.main import main
from tests.training.conftest import ANNOTATED, MANY_COILS, NORMAL
from tests.training.data.fastmri_files import KNEE
from training.data.case_file import CaseFile, CaseInfo, CaseShape, SliceArrays, SliceRecord, writing_case
from training.data.dataset import SliceDataset, collate
from training.data.manifest import SplitSettings, write_manifest


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    arguments = ["train", "prepare", "--simulated", "8", "--matrix", "64", "64", "--coils", "4", "--slices", "2"]
    assert main([*arguments, "-o", str(folder), "--workers", "1", "--noise", "0.05"]) == 0
    return folder


def test_slices_are_those_of_the_cases(prepared):
    slices = SliceDataset(prepared.dataset)
    assert len(slices) == sum(case["slices"] for case in prepared.manifest["cases"])
    item = slices[slices.entries.index((KNEE.name, 1))]
    with CaseFile(prepared.dataset / f"{KNEE.name}.h5") as case:
        torch.testing.assert_close(item.image, case.image(1))
        torch.testing.assert_close(item.coil_maps, case.coil_maps(1))
        torch.testing.assert_close(ifft2c(item.kspace()), case.coil_images(1), atol=1e-6, rtol=0)
        assert torch.equal(item.anomaly_mask, case.anomaly_mask(1))
        assert item.boxes == case.records[1].boxes
    assert (int(item.label), item.caption, item.anatomy, item.contrast) == (1, "Meniscus Tear", "knee", "pd")
    assert item.line_range.tolist() == [16, 304]
    slices.close()


def test_splits_share_no_patient(simulated):
    patients = []
    for split in ("train", "validation", "test"):
        slices = SliceDataset(simulated, split)
        patients.append({case["patient_id"] for case in slices.cases.values()})
        assert len(slices) == 2 * len(slices.cases)
    assert sum(map(len, patients)) == len(set.union(*patients)) == 8


def test_noise_has_the_level_asked_for_and_is_fresh(simulated):
    batch = collate([SliceDataset(simulated)[index] for index in range(3)])
    clean = fft2c(batch.coil_maps * batch.image[:, None])
    for asked, expected in ((None, 0.05), (0.02, 0.02)):
        noise = batch.kspace(noise=asked) - clean
        assert float(noise.abs().square().mean().sqrt()) == pytest.approx(expected, rel=0.02)
    assert not torch.equal(batch.kspace(), batch.kspace())
    torch.testing.assert_close(batch.kspace(noise=0.0), clean)


def test_a_range_of_noise_gives_each_slice_its_own(simulated):
    batch = collate([SliceDataset(simulated)[0]] * 6)
    noise = batch.kspace(noise=(0.01, 0.1), generator=torch.Generator().manual_seed(1)) - batch.kspace(noise=0.0)
    levels = noise.abs().square().mean((1, 2, 3)).sqrt()
    assert len(set(levels.tolist())) == 6
    assert 0.0095 < float(levels.min()) < float(levels.max()) < 0.105
    with pytest.raises(InputError, match="range of noise"):
        batch.kspace(noise=(0.1, 0.01))


def test_fixed_noise_depends_on_the_slice_alone(simulated):
    slices = SliceDataset(simulated)
    together = collate([slices[0], slices[1]]).kspace(fixed=True)
    torch.testing.assert_close(together[1], slices[1].kspace(fixed=True))
    torch.testing.assert_close(together[1], collate([slices[1], slices[3]]).kspace(fixed=True)[0])
    assert not torch.allclose(together[0], together[1])


def test_measured_slices_keep_their_own_noise(prepared):
    slices = SliceDataset(prepared.dataset, cases=[NORMAL.name])
    torch.testing.assert_close(
        slices[0].kspace(noise=0.5), fft2c(torch.view_as_complex(slices[0].stored_images.float()))
    )


def test_coils_missing_in_a_batch_are_silent(prepared):
    slices = SliceDataset(prepared.dataset, anatomy="brain")
    items = [slices[slices.entries.index((name, 0))] for name in (ANNOTATED.name, MANY_COILS.name)]
    batch = collate(items)
    assert batch.coil_maps.shape == (2, 20, 320, 320)
    kspace = batch.kspace()
    assert float(kspace[0, 4:].abs().max()) == 0
    torch.testing.assert_close(kspace[0, :4], items[0].kspace())
    torch.testing.assert_close(kspace[1], items[1].kspace())


def test_measured_and_simulated_slices_go_together(prepared, simulated, tmp_path):
    measured = SliceDataset(prepared.dataset, cases=[NORMAL.name])[0]
    arguments = ["train", "prepare", "--simulated", "1", "--coils", "2", "--slices", "1", "--workers", "1"]
    assert main([*arguments, "-o", str(tmp_path)]) == 0
    other = SliceDataset(tmp_path)[0]
    kspace = collate([other, measured]).kspace(noise=0.03)
    torch.testing.assert_close(kspace[1], measured.kspace())
    noise = kspace[0, :2] - fft2c(other.coil_maps * other.image)
    assert float(noise.abs().square().mean().sqrt()) == pytest.approx(0.03, rel=0.02)
    assert float(kspace[0, 2:].abs().max()) == 0
    with pytest.raises(InputError, match="different sizes"):
        collate([measured, SliceDataset(simulated)[0]])


def test_workers_hand_over_the_same_batches(simulated):
    slices = SliceDataset(simulated)
    assert slices[0].case  # opens a file, which must not reach the workers
    loaded = list(DataLoader(slices, batch_size=4, num_workers=2, collate_fn=collate))
    assert sum(len(batch.image) for batch in loaded) == len(slices)
    expected = collate([slices[index] for index in range(4)])
    torch.testing.assert_close(loaded[0].image, expected.image)
    torch.testing.assert_close(loaded[0].coil_maps, expected.coil_maps)
    assert loaded[0].boxes == expected.boxes
    assert loaded[0].to("cpu").kspace(fixed=True).equal(expected.kspace(fixed=True))


def test_nothing_that_fits_is_said(simulated):
    with pytest.raises(InputError, match="knee"):
        SliceDataset(simulated, anatomy="knee")


@pytest.mark.slow
def test_reading_is_never_the_bottleneck(tmp_path):
    """At least 50 slices a second of 320×320 with 12 coils, from two workers."""
    shape = CaseShape(16, 12, 320, 320)
    for number in range(10):
        info = CaseInfo(f"case{number}", "simulated", "", f"patient{number}", "brain", "t1")
        with writing_case(tmp_path / f"case{number}.h5", shape, measured=False, lesion_masks=True) as case:
            for index in range(shape.slices):
                image, *maps = torch.randn(13, 320, 320, dtype=torch.complex64)
                mask = torch.zeros(320, 320, dtype=torch.bool)
                case.put(index, SliceArrays(image, torch.stack(maps), lesion_mask=mask), SliceRecord())
            case.finish(info)
    write_manifest(tmp_path, SplitSettings())
    slices = SliceDataset(tmp_path)
    batches = iter(DataLoader(slices, batch_size=4, shuffle=True, num_workers=2, collate_fn=collate))
    next(batches)
    start, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch.image)
    assert count / (time.perf_counter() - start) >= 50
