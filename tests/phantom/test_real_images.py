"""Lesions painted into images that are not simulated, and maps taken from a scan that is not."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch

from pass_recon.phantom import paint_lesions, simulate_patient, simulate_slices
from pass_recon.phantom.real_images import PAINTABLE
from pass_recon.types import InputError


def _volume():
    patient = simulate_patient(
        anatomy="brain", contrast="flair", lesions=0, slices=5, coils=1, shape=(160, 144), seed=12, noise=0.0
    )
    return 900.0 * patient.image.abs(), {"pixel_mm": patient.pixel_mm[0], "slice_mm": patient.slice_mm}


@pytest.mark.parametrize("label", PAINTABLE["brain"])
def test_painting_changes_only_what_it_marks(label):
    volume, geometry = _volume()
    painted = paint_lesions(volume, anatomy="brain", contrast="flair", labels=[label], seed=3, **geometry)
    assert painted.image.dtype == torch.float32
    assert bool(painted.lesion_masks.any())
    assert any(box.label == label for boxes in painted.boxes for box in boxes)
    near = torch.nn.functional.max_pool2d(painted.lesion_masks.float(), 13, 1, 6) > 0.0
    assert torch.equal(painted.image[~near], volume[~near])
    change = (painted.image - volume)[painted.lesion_masks].mean() / volume.mean()
    assert change > 0.1 if label != "Resection cavity" else change < -0.1
    for mask, boxes in zip(painted.lesion_masks, painted.boxes, strict=True):
        for box in boxes:
            mask[box.readout : box.readout + box.readout_size, box.phase : box.phase + box.phase_size] = False
        assert not bool(mask.any())


def test_painting_is_seeded():
    volume, geometry = _volume()
    first, again, other = (
        paint_lesions(volume, anatomy="brain", contrast="flair", lesions=2, seed=seed, **geometry) for seed in (1, 1, 2)
    )
    assert torch.equal(first.image, again.image)
    assert first.captions == again.captions
    assert not torch.equal(first.image, other.image)


def test_bones_of_a_knee_can_be_painted():
    knee = simulate_slices("knee", "pd", 1, (160, 160), lesions=0, seed=5)
    painted = paint_lesions(
        knee.image.abs(), anatomy="knee", contrast="pd", pixel_mm=knee.pixel_mm[0], slice_mm=3.0, seed=1
    )
    assert (painted.image - knee.image.abs())[painted.lesion_masks].mean() < -0.02


def test_what_cannot_be_painted_is_refused():
    volume, geometry = _volume()
    with pytest.raises(InputError, match="no slice shows"):
        paint_lesions(torch.zeros(2, 64, 64) + 1e-3, anatomy="brain", contrast="t1", pixel_mm=0.1, slice_mm=1.0)
    with pytest.raises(InputError, match="Enlarged ventricles"):
        paint_lesions(volume, anatomy="brain", contrast="flair", labels=["Enlarged ventricles"], **geometry)
    with pytest.raises(InputError, match="magnitude volume"):
        paint_lesions(volume.to(torch.complex64), anatomy="brain", contrast="flair", **geometry)


def test_painting_into_a_real_head(shared_data):
    file = nibabel.load(shared_data / "open_ms" / "patient12_study1_FLAIR.nii.gz")
    data = np.asarray(file.dataobj[:, :, 26:31], dtype=np.float32)
    volume = torch.from_numpy(data.transpose(2, 1, 0).copy())
    pixel = float(file.header.get_zooms()[0])
    painted = paint_lesions(
        volume, anatomy="brain", contrast="flair", pixel_mm=pixel, slice_mm=3.0, lesions=2, seed=2,
        labels=["Nonspecific white matter lesion"],
    )  # fmt: skip
    assert 1 <= max(len(boxes) for boxes in painted.boxes) <= 2
    brain = float(volume[volume > 0.3 * volume.max()].median())
    # Fluid-filled neighbours stay dark, white matter lights up.
    assert (painted.image - volume)[painted.lesion_masks].mean() > 0.15 * brain
    near = torch.nn.functional.max_pool2d(painted.lesion_masks.float(), 15, 1, 7) > 0.0
    assert torch.equal(painted.image[~near], volume[~near])
