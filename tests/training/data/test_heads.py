"""Real heads with painted lesions, and what scanners do to them."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from pass_recon.types import InputError
from pass_recon_cli.main import main
from training.data.heads import SIDE, Heads, brain_of_flair, read_heads, with_heads
from training.data.painted_lesions import GLIOMA, NONE, SPOTS, painted
from training.data.scanner_variation import blurred, moved, scanned, smooth_field

LABELS = {0, 1, -1}


def _head(slices: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A bright brain in a dark skull in a grey scalp, ``(slices, rows, columns)`` of 1 mm, and the brain."""
    rows, columns = np.mgrid[:200, :180] - np.array([100, 90])[:, None, None]
    depth = np.sqrt((rows / 90) ** 2 + (columns / 72) ** 2)
    image = np.where(depth < 0.8, 100.0, np.where(depth < 0.88, 3.0, np.where(depth < 1.0, 30.0, 0.0)))
    image += np.random.default_rng(0).normal(0, 1, image.shape) * (depth < 1)
    return np.repeat(image.clip(0)[None], slices, 0).astype(np.float32), np.repeat((depth < 0.8)[None], slices, 0)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Two scans, one with T1w, in which fat is bright; and a full head."""
    folder = tmp_path_factory.mktemp("heads")
    image, brain = _head()
    t1 = np.where(brain, 60.0, np.where(image > 20, 200.0, 0.0)).astype(np.float32)
    affine = np.diag([-1.0, -1.0, 5.0, 1.0])
    full = np.repeat(t1[:1], 40, 0)
    for name, values, steps in (
        ("p1_FLAIR", image, affine),
        ("p1_T1W", t1, affine),
        ("p2_FLAIR", image, affine),
        ("full", full, np.diag([-1.0, -1.0, 1.0, 1.0])),
        ("brain", full * np.repeat(brain[:1], 40, 0), np.diag([-1.0, -1.0, 1.0, 1.0])),
    ):
        nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), steps), folder / f"{name}.nii.gz")
    table, output = folder / "slices.yaml", folder / "heads.safetensors"
    table.write_text("p1: [1]\np2: []\n")
    command = ["train", "heads", "--volumes", str(folder), "--slices", str(table), "-o", str(output)]
    assert main([*command, "--full", str(folder / "full.nii.gz"), str(folder / "brain.nii.gz")]) == 0
    return output


def test_the_brain_is_found_inside_skull_and_scalp():
    image, brain = _head()
    found = brain_of_flair(image)
    overlap = 2 * (found & brain).sum() / (found.sum() + brain.sum())
    assert overlap > 0.97


def test_slices_know_their_brain_their_fat_and_doubted_ones(file):
    heads = Heads(file, cuts=4)
    draw = torch.Generator().manual_seed(0)
    image, brain, fat, sure, t1 = heads.draw(["flair", "t1"] * 24, draw)
    assert image.shape == brain.shape == fat.shape == (48, SIDE, SIDE)
    assert t1.tolist() == [False, True] * 24
    # One of four slices of one of two FLAIR scans is doubted, and T1w beside it.
    assert 0 < int((~sure).sum()) < 24
    assert float(fat[t1].max()) == 0.0
    with_fat = fat[(fat.flatten(1).amax(1) > 0) & ~t1]
    assert len(with_fat)
    # Fat lies in the scalp, outside of the brain.
    ground, _ = _head(1)
    scalp = torch.from_numpy(ndimage.binary_dilation(ground[0] > 0, iterations=2))
    canvas = torch.nn.functional.pad(scalp, (30, 30, 20, 20))
    assert float((with_fat[0] * ~canvas).max()) == 0.0
    assert float((fat * brain).max()) == 0.0


def test_a_batch_repeats_with_its_generator_and_has_both_contrasts(file):
    heads = Heads(file, cuts=4)
    one, two = (heads.batch(["flair", "t1"] * 4, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one.image, two.image)
    assert torch.equal(one.classes, two.classes)
    assert set(one.label.tolist()) <= LABELS
    assert bool((one.classes > 0).flatten(1).any(1)[one.label == 1].all())
    assert not bool((one.classes[one.label == 0] > 0).any())
    assert one.examination == ("brain-flair", "brain-t1") * 4
    assert all(("no lesion" in caption) == (label == 0) for caption, label in zip(one.caption, one.label, strict=True))


def test_heads_take_their_share_of_a_batch_of_brains_and_none_of_knees(file):
    heads = Heads(file, cuts=4)
    draw = torch.Generator().manual_seed(1)
    batch = heads.batch(["flair"] * 4, draw)
    items = _singles(batch)
    mixed = with_heads(items, heads, 0.5, ["brain-flair", "knee-pd"], torch.Generator().manual_seed(2))
    assert len(mixed.image) == 4
    assert torch.equal(mixed.image[2:], batch.image[2:])
    assert not torch.equal(mixed.image[:2], batch.image[:2])
    for other in (
        with_heads(items, None, 0.5, ["brain-flair"], draw),
        with_heads(items, heads, 0.5, ["knee-pd"], draw),
    ):
        assert torch.equal(other.image, batch.image)


def _singles(batch):
    from dataclasses import replace

    return [
        replace(
            batch,
            **{name: getattr(batch, name)[number] for name in ("image", "classes", "label", "reviewed")},
            caption=(batch.caption[number],),
            examination=(batch.examination[number],),
        )
        for number in range(len(batch.image))
    ]


def test_other_sizes_are_refused(file):
    assert read_heads("", 320) is None
    with pytest.raises(InputError, match="240 pixels"):
        read_heads(str(file), 320)


def test_painting_stays_in_the_brain_and_says_where():
    image, brain = (torch.from_numpy(values.astype(np.float32)) for values in _head(48))
    image, brain = (torch.nn.functional.pad(values, (30, 30, 20, 20)) for values in (image / 100, brain))
    t1 = torch.arange(48) % 2 == 1
    found = painted(image, brain, torch.zeros_like(image), t1, torch.Generator().manual_seed(3))
    sick = (found.kinds > 0).flatten(1).any(1)
    assert 15 <= int(sick.sum()) <= 40
    assert set(found.wanted.tolist()) >= {NONE, GLIOMA, SPOTS}
    assert not bool(sick[found.wanted == NONE].any())
    outside = torch.nn.functional.max_pool2d(found.brain[:, None], 9, 1, 4)[:, 0] == 0
    assert not bool((found.kinds > 0)[outside].any())
    # Nothing changes in those that stay healthy: nothing grows in them.
    healthy = found.wanted == NONE
    torch.testing.assert_close(found.image[healthy], image[healthy], rtol=0.0, atol=1e-4)
    # Gliomas are bright in FLAIR and dark in T1w, cores aside.
    change = [
        float(found.image[n][found.kinds[n] > 0].median() - 1.0)
        for n in range(48)
        if found.wanted[n] == GLIOMA and bool(sick[n])
    ]
    signs = [1 if not bool(t1[n]) else -1 for n in range(48) if found.wanted[n] == GLIOMA and bool(sick[n])]
    assert sum(c * s > 0 for c, s in zip(change, signs, strict=True)) >= 0.8 * len(change)


def test_blurring_agrees_with_scipy():
    image = smooth_field(torch.Generator().manual_seed(0), 1, 64, 16)
    expected = ndimage.gaussian_filter(image[0].numpy(), 1.7, mode="wrap")
    np.testing.assert_allclose(blurred(image, torch.tensor([1.7]))[0], expected, atol=2e-3)


def test_planes_of_an_image_move_together_and_scans_keep_a_peak_near_one():
    draw = torch.Generator().manual_seed(0)
    image, brain = (torch.from_numpy(values.astype(np.float32)) for values in _head(3))
    planes = torch.nn.functional.pad(torch.stack([image / 100, brain], 1), (30, 30, 20, 20))
    out = moved(planes, draw)
    inside = out[:, 1] > 0.99
    assert float((out[:, 0][inside] - 1.0).abs().mean()) < 0.05
    seen = scanned(out[:, 0], draw)
    assert torch.isfinite(seen).all()
    assert bool(((seen.amax((1, 2)) > 0.5) & (seen.amax((1, 2)) < 1.9)).all())
