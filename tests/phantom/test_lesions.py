"""Lesions are where their boxes are, look as they do in that contrast, and change nothing else."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage

from pass_recon.phantom import simulate_patient, simulate_slices
from pass_recon.phantom.lesions import KINDS, boxes_of
from pass_recon.types import InputError

SHAPE = (112, 96)
CONTRASTS = {"brain": ("t1", "flair"), "knee": ("pd",)}
ALL = [(anatomy, contrast) for anatomy, contrasts in CONTRASTS.items() for contrast in contrasts]
# Brighter or darker than the tissue they replace.
SIGNS = {
    ("flair", "Nonspecific white matter lesion"): 1,
    ("flair", "Edema"): 1,
    ("flair", "Mass"): 1,
    ("flair", "Enlarged ventricles"): -1,
    ("flair", "Resection cavity"): -1,
    ("t1", "Nonspecific white matter lesion"): -1,
    ("t1", "Lacunar infarct"): -1,
    ("t1", "Edema"): -1,
    ("t1", "Mass"): -1,
    ("t1", "Enlarged ventricles"): -1,
    ("t1", "Resection cavity"): -1,
    ("pd", "Bone- Subchondral edema"): -1,
    ("pd", "Meniscus Tear"): 1,
    ("pd", "Cartilage - Partial Thickness loss/defect"): 1,
    ("pd", "Bone-Fracture/Contusion/dislocation"): -1,
}


def _box_mask(boxes, shape):
    mask = torch.zeros(shape, dtype=torch.bool)
    for box in boxes:
        mask[box.readout : box.readout + box.readout_size, box.phase : box.phase + box.phase_size] = True
    return mask


@pytest.mark.parametrize(("anatomy", "contrast"), ALL)
def test_every_lesion_is_inside_a_box_of_its_label(anatomy, contrast):
    slices = simulate_slices(anatomy, contrast, 24, SHAPE, seed=1, lesions=2)
    known = {kind.label for kind in KINDS[anatomy]}
    for mask, boxes in zip(slices.lesion_masks, slices.boxes, strict=True):
        assert boxes
        assert bool(mask.any())
        assert not bool((mask & ~_box_mask(boxes, SHAPE)).any())
        for box in boxes:
            assert box.label in known
            assert min(box.readout_size, box.phase_size) >= 6
            assert min(box.readout, box.phase) >= 0
            assert box.readout + box.readout_size <= SHAPE[0]
            assert box.phase + box.phase_size <= SHAPE[1]
            assert bool((mask & _box_mask([box], SHAPE)).any())


@pytest.mark.parametrize(("anatomy", "contrast"), ALL)
def test_no_lesion_outside_the_body(anatomy, contrast):
    sick, well = (simulate_slices(anatomy, contrast, 16, SHAPE, seed=2, lesions=count) for count in (2, 0))
    for mask, image in zip(sick.lesion_masks, well.image.abs(), strict=True):
        body = image > 0.02
        # The leg leaves the field of view: its ends have to be closed before holes are filled.
        body[[0, -1]] = body[[3, -4]]
        filled = torch.from_numpy(ndimage.binary_fill_holes(ndimage.binary_closing(body.numpy(), iterations=2)))
        assert not bool((mask & ~filled).any())


@pytest.mark.parametrize(("contrast", "label"), SIGNS)
def test_contrast_of_each_kind_of_lesion(contrast, label):
    anatomy = "knee" if contrast == "pd" else "brain"
    shape = (192, 176)
    settings = {"seed": 4, "labels": [label]}
    sick = simulate_slices(anatomy, contrast, 8, shape, lesions=1, **settings)
    well = simulate_slices(anatomy, contrast, 8, shape, lesions=0, **settings)
    signs = []
    for index, boxes in enumerate(sick.boxes):
        if any(box.label == label for box in boxes) and (label != "Edema" or len(boxes) == 1):
            change = (sick.image[index].abs() - well.image[index].abs()) / well.image[index].abs().mean()
            signs.append(float(change[sick.lesion_masks[index]].mean()))
    expected = SIGNS[contrast, label]
    assert len(signs) >= 2
    assert sum(sign * expected > 0.0 for sign in signs) >= 0.8 * len(signs)
    assert sum(signs) / len(signs) * expected > 0.03


def test_a_lacunar_infarct_on_flair_is_a_dark_hole_with_a_bright_rim():
    settings = {"seed": 9, "labels": ["Lacunar infarct"]}
    sick, well = (simulate_slices("brain", "flair", 6, (256, 256), lesions=count, **settings) for count in (1, 0))
    rims, holes = 0, 0
    for index in range(6):
        ratio = (sick.image[index].abs() / well.image[index].abs().clamp(min=0.05))[sick.lesion_masks[index]]
        rims += float(ratio.max()) > 1.1
        holes += float(ratio.min()) < 0.6
    assert rims >= 5
    assert holes >= 5


@pytest.mark.parametrize(("anatomy", "contrast"), ALL)
def test_with_and_without_lesions_it_is_the_same_scan_of_the_same_patient(anatomy, contrast):
    settings = {"anatomy": anatomy, "contrast": contrast, "shape": SHAPE, "coils": 3, "slices": 3, "noise": 0.02}
    for seed in range(5):
        sick, well = (simulate_patient(lesions=count, seed=seed, **settings) for count in (2, 0))
        assert torch.equal(sick.coil_maps, well.coil_maps)
        assert torch.equal(sick.noise_scan, well.noise_scan)
        assert not bool(well.lesion_masks.any())
        assert well.boxes == ((), (), ())
        difference = (sick.image - well.image).abs()
        margin = 1 + int(7.0 / sick.pixel_mm[0])
        # Within 7 mm of the mask, and on the slice beside it, is where edges and halos fade.
        size, padding = (3, 2 * margin + 1, 2 * margin + 1), (1, margin, margin)
        near = torch.nn.functional.max_pool3d(sick.lesion_masks[None].float(), size, 1, padding)[0] > 0.0
        assert difference[~near].max() < 0.02
        assert difference[sick.lesion_masks].mean() > 5.0 * difference[~near].mean()
        from_lesions = torch.fft.fftshift(
            torch.fft.fft2(
                torch.fft.ifftshift(sick.coil_maps * (sick.image - well.image)[:, None], dim=(-2, -1)), norm="ortho"
            ),
            dim=(-2, -1),
        )
        torch.testing.assert_close(sick.kspace - well.kspace, from_lesions, rtol=0.0, atol=1e-5)


def test_fewer_lesions_are_the_first_of_more():
    one, three = (
        simulate_patient(
            anatomy="brain",
            contrast="t1",
            lesions=count,
            coils=1,
            slices=4,
            shape=SHAPE,
            seed=8,
            lesion_labels=["Mass", "Edema", "Lacunar infarct"],
        )
        for count in (1, 3)
    )
    for few, many in zip(one.boxes, three.boxes, strict=True):
        assert few == many[: len(few)]
    assert not bool((one.lesion_masks & ~three.lesion_masks).any())


def test_every_kind_can_be_asked_for_and_captions_say_it():
    for anatomy, kinds in KINDS.items():
        for kind in kinds:
            contrast = CONTRASTS[anatomy][0]
            slices = simulate_slices(anatomy, contrast, 12, SHAPE, seed=6, labels=[kind.label])
            told = [
                caption for caption, labels in zip(slices.captions, slices.labels, strict=True) if kind.label in labels
            ]
            assert told, kind.label
            assert all(kind.phrase in caption for caption in told)


def test_patients_without_lesions_say_so():
    slices = simulate_slices("brain", "t1", 4, SHAPE, lesions=0)
    assert all("no lesion" in caption for caption in slices.captions)
    assert slices.labels == ((), (), (), ())


def test_small_boxes_are_widened_within_the_image():
    masks = torch.zeros(3, 20, 30, dtype=torch.bool)
    masks[0, 0, 29] = True
    masks[2, 4:15, 7] = True
    found = boxes_of(masks, "x")
    assert [index for index, _ in found] == [0, 2]
    first, second = (box for _, box in found)
    assert (first.readout, first.phase, first.readout_size, first.phase_size) == (0, 24, 6, 6)
    assert (second.readout, second.readout_size, second.phase_size) == (4, 11, 6)
    assert second.phase <= 7 < second.phase + 6


def test_labels_are_those_of_fastmri_plus(shared_data):
    for anatomy, kinds in KINDS.items():
        lines = (shared_data / "fastmri_plus" / f"{anatomy}.csv").read_text().splitlines()[1:]
        used = {line.split(",")[-1].strip() for line in lines}
        assert {kind.label for kind in kinds} <= used


def test_an_unknown_label_lists_the_known_ones():
    with pytest.raises(InputError, match="Lacunar infarct"):
        simulate_slices("brain", "t1", 1, SHAPE, labels=["Headache"])
