"""A simulated patient is reproducible, consistent with its truth, and has the noise that was asked for."""

from __future__ import annotations

import pytest
import sigpy.mri
import torch

from pass_recon.phantom import simulate_patient
from pass_recon.physics.fourier import ifft2c
from pass_recon.types import InputError

KINDS = [("brain", "t1"), ("brain", "flair"), ("knee", "pd")]
SMALL = (72, 64)


def _patient(anatomy="brain", contrast="flair", **settings):
    return simulate_patient(anatomy=anatomy, contrast=contrast, **{"shape": SMALL, "coils": 4, "slices": 2} | settings)


@pytest.mark.parametrize(("anatomy", "contrast"), KINDS)
@pytest.mark.parametrize("shape", [(64, 64), (65, 47), (48, 80)])
def test_shapes_types_and_peak(anatomy, contrast, shape):
    patient = _patient(anatomy, contrast, shape=shape, coils=5, slices=3)
    assert patient.image.shape == patient.lesion_masks.shape == (3, *shape)
    assert patient.kspace.shape == patient.coil_maps.shape == (3, 5, *shape)
    assert patient.noise_scan.shape[0] == 5
    complex_parts = (patient.image, patient.kspace, patient.coil_maps, patient.noise_scan)
    assert {part.dtype for part in complex_parts} == {torch.complex64}
    assert patient.lesion_masks.dtype == torch.bool
    assert patient.image.abs().amax() == pytest.approx(1.0, abs=1e-5)
    assert len(patient.boxes) == len(patient.captions) == 3
    assert all(torch.isfinite(torch.view_as_real(part)).all() for part in complex_parts)


@pytest.mark.parametrize(("anatomy", "contrast"), KINDS)
def test_same_seed_same_patient_whatever_the_number_of_threads(anatomy, contrast):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = _patient(anatomy, contrast, seed=5, shape=(201, 163))
        torch.set_num_threads(3)
        three = _patient(anatomy, contrast, seed=5, shape=(201, 163))
    finally:
        torch.set_num_threads(threads)
    # Vector and scalar code of elementary functions may differ in the last bit where threads part the work.
    torch.testing.assert_close(one.image, three.image, rtol=0.0, atol=1e-7)
    assert torch.equal(one.lesion_masks, three.lesion_masks)
    assert torch.equal(one.coil_maps, three.coil_maps)
    assert torch.equal(one.noise_scan, three.noise_scan)
    # The Fourier transform's own rounding is not ours to fix.
    torch.testing.assert_close(one.kspace, three.kspace, rtol=0.0, atol=1e-6)
    assert one.boxes == three.boxes
    assert one.captions == three.captions


@pytest.mark.parametrize(("anatomy", "contrast"), KINDS)
def test_other_seeds_are_other_people(anatomy, contrast):
    people = [_patient(anatomy, contrast, seed=seed, slices=1, lesions=0).image.abs() for seed in range(4)]
    for first in range(4):
        for second in range(first):
            assert _distance(people[first], people[second]) > 0.2


def test_neighbouring_slices_are_alike_and_distant_ones_are_not():
    image = _patient(slices=16, lesions=0, coils=1).image.abs()
    near = torch.stack([_distance(image[i], image[i + 1]) for i in range(15)])
    far = torch.stack([_distance(image[i], image[i + 8]) for i in range(8)])
    assert near.max() < 0.75
    assert near.mean() < 0.6 * far.mean()


def test_a_patient_is_the_same_person_in_every_contrast():
    t1, flair = (_patient(contrast=contrast, seed=3, lesions=1) for contrast in ("t1", "flair"))
    assert torch.equal(t1.lesion_masks, flair.lesion_masks)
    assert t1.boxes == flair.boxes
    assert torch.equal(t1.coil_maps, flair.coil_maps)
    body = [(p.image.abs() > 0.02).float() for p in (t1, flair)]
    assert _distance(*body) < 0.5


@pytest.mark.parametrize("coils", [1, 2, 7, 12, 32])
def test_maps_are_normalised_everywhere_and_differ(coils):
    maps = _patient(coils=coils, slices=1).coil_maps
    torch.testing.assert_close(maps.abs().square().sum(1), torch.ones(1, *SMALL), rtol=0.0, atol=1e-5)
    if coils > 1:
        overlap = torch.einsum("cxy,dxy->cd", maps[0].conj(), maps[0]).abs()
        energy = overlap.diagonal().sqrt()
        alike = overlap / energy[:, None] / energy[None, :] - torch.eye(coils)
        assert alike.max() < 0.97


def test_the_adjoint_of_sigpy_takes_noiseless_kspace_back_to_the_image():
    patient = _patient(noise=0.0, shape=(65, 48))
    for image, maps, kspace in zip(patient.image, patient.coil_maps, patient.kspace, strict=True):
        sense = sigpy.mri.linop.Sense(maps.numpy())
        torch.testing.assert_close(torch.from_numpy(sense.H(kspace.numpy())), image, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("noise", [0.005, 0.03])
def test_noise_has_the_deviation_asked_for_in_kspace_images_and_noise_scan(noise):
    noisy, clean = (_patient(noise=level, shape=(96, 96)) for level in (noise, 0.0))
    difference = noisy.kspace - clean.kspace
    for sample in (difference, ifft2c(difference), noisy.noise_scan):
        assert sample.abs().square().mean().sqrt() == pytest.approx(noise, rel=0.02)


def test_noise_scan_and_corners_of_kspace_have_the_same_covariance():
    patient = _patient(noise=0.02, noise_correlation=0.6, shape=(320, 320), coils=4, slices=3, lesions=0)
    # The anatomy's energy in the corners is far below the noise.
    rim = [*range(45), *range(275, 320)]
    corners = patient.kspace[:, :, rim][..., rim].transpose(0, 1).flatten(1)
    covariances = [torch.cov(samples) / 0.02**2 for samples in (patient.noise_scan, corners)]
    torch.testing.assert_close(covariances[0], covariances[1], rtol=0.0, atol=0.07)
    for covariance in covariances:
        torch.testing.assert_close(covariance.diagonal().real, torch.ones(4), rtol=0.0, atol=0.06)
    off_diagonal = covariances[1] - torch.diag(covariances[1].diagonal())
    assert off_diagonal.abs().max() > 0.15


def test_without_correlation_the_coils_are_independent():
    covariance = torch.cov(_patient(noise=0.02).noise_scan) / 0.02**2
    torch.testing.assert_close(covariance, torch.eye(4, dtype=torch.complex64), rtol=0.0, atol=0.08)


def test_pixels_are_square_and_the_anatomy_fits():
    for anatomy, contrast in KINDS:
        patient = _patient(anatomy, contrast, shape=(90, 72), slices=1, lesions=0)
        assert patient.pixel_mm[0] == patient.pixel_mm[1]
        extent = (patient.pixel_mm[0] * 90, patient.pixel_mm[1] * 72)
        magnitude = patient.image[0].abs()
        assert magnitude[:, [0, -1]].max() < 0.03
        if anatomy == "brain":
            assert min(extent) > 180.0
            assert max(extent) < 260.0
            assert magnitude[[0, -1]].max() < 0.03
        else:
            assert min(extent) > 140.0
            assert max(extent) < 205.0


def test_motion_spares_the_centre_and_changes_the_rest():
    still, moved = (_patient(noise=0.0, motion_mm=extent, slices=1) for extent in (0.0, 4.0))
    changed = (still.kspace - moved.kspace).abs().amax((0, 1, 2)) > 1e-5
    centre = SMALL[1] // 2
    assert not changed[centre]
    assert 5 < int(changed.sum()) < SMALL[1]
    assert torch.equal(still.image, moved.image)
    energy = [patient.kspace.abs().square().sum() for patient in (still, moved)]
    assert energy[1] == pytest.approx(float(energy[0]), rel=0.1)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"coils": 0}, "0 were asked"),
        ({"coils": 33}, "33 were asked"),
        ({"contrast": "pd"}, "'pd'"),
        ({"slices": 0}, "slices"),
        ({"shape": (8, 64)}, "16 × 16"),
        ({"noise": -0.1}, "noise"),
        ({"lesion_labels": ["Meniscus Tear"]}, "Meniscus Tear"),
    ],
)
def test_settings_out_of_range_are_named(settings, named):
    with pytest.raises(InputError, match=named):
        _patient(**settings)


def _distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first - second).norm() / first.norm()
