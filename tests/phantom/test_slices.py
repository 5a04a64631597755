"""Slices for training: independent of the batch, healthy as asked, and like real images where real ones are at hand."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch

from pass_recon.phantom import simulate_slices
from pass_recon.phantom.draws import Draws, Streams, mixed_seed
from pass_recon.phantom.scene import paint_scene
from pass_recon.phantom.shapes import WaveField, ellipsoid_distance, slice_grid, soft_maximum, soft_minimum
from pass_recon.phantom.tissues import TISSUES, signal_of, spin_echo, tissue_signals
from pass_recon.types import InputError

SHAPE = (80, 72)


@pytest.mark.parametrize(("anatomy", "contrast"), [("brain", "t1"), ("knee", "pd")])
def test_a_slice_does_not_depend_on_the_batch(anatomy, contrast):
    many = simulate_slices(anatomy, contrast, 6, SHAPE, seed=2, lesions=1)
    few = simulate_slices(anatomy, contrast, 2, SHAPE, seed=2, lesions=1)
    torch.testing.assert_close(few.image, many.image[:2], rtol=0.0, atol=1e-5)
    assert few.boxes == many.boxes[:2]
    assert few.captions == many.captions[:2]
    torch.testing.assert_close(many.image.abs().amax((1, 2)), torch.ones(6))


def test_slices_shared_by_a_thin_and_a_thick_stack_are_the_same():
    streams = Streams([7])
    thin, thick = (paint_scene(streams, "brain", "flair", [0], slices, SHAPE) for slices in (21, 23))
    level = thin.grid.level.tolist()
    shared = [(i, level.index(z)) for i, z in enumerate(thick.grid.level.tolist()) if z in level]
    assert len(shared) >= 16
    for i, j in shared:
        first, second = thick.image[i].abs(), thin.image[j].abs()
        assert float((first / first.max() - second / second.max()).norm() / first.norm()) < 1e-3


def test_healthy_fraction():
    slices = simulate_slices("brain", "t1", 60, (32, 32), seed=3, healthy=0.5)
    well = sum(not boxes for boxes in slices.boxes)
    assert 18 <= well <= 42
    assert all(bool(mask.any()) == bool(boxes) for mask, boxes in zip(slices.lesion_masks, slices.boxes, strict=True))


@pytest.mark.parametrize("settings", [{"count": 0}, {"healthy": 1.5}, {"lesions": -1}, {"shape": (4, 4)}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InputError):
        simulate_slices("brain", "t1", **{"count": 1, "shape": SHAPE} | settings)


def test_draws_of_a_patient_do_not_depend_on_the_others():
    together, alone = Draws([4, 5], "anatomy"), Draws([5], "anatomy")
    for _ in range(2):
        assert torch.equal(together.normal(0.0, 1.0, 3)[1], alone.normal(0.0, 1.0, 3)[0])
    assert not torch.equal(Draws([5], "coils").uniform(0.0, 1.0, 8), Draws([5], "anatomy").uniform(0.0, 1.0, 8))


def test_seeds_are_mixed_the_same_for_ever_and_never_alike():
    assert mixed_seed(1, "noise") == mixed_seed(1, "noise")
    mixed = {mixed_seed(a, b) for a in range(60) for b in (*range(20), "noise", -1)}
    assert len(mixed) == 60 * 22
    assert all(0 <= seed < 2**63 for seed in mixed)


def test_wave_fields_are_smooth_normal_and_equal_on_and_off_the_grid():
    grid = slice_grid((90, 70), torch.tensor([0.0, 9.0]), torch.tensor([0, 1]), field_of_view_mm=(220, 180), slice_mm=5)
    field = WaveField(Draws([1, 2], "test"), 10.0, 25.0, waves=200)
    values = field.on(grid)
    assert values.mean().abs() < 0.2
    assert values.std() == pytest.approx(1.0, abs=0.15)
    assert values.diff(dim=1).std() < 2.0 * torch.pi / 10.0 * grid.pixel_mm / 1.4
    rows, columns = torch.arange(0, 90, 7), torch.arange(0, 70, 7)
    readout = grid.readout[rows][None, :, None].expand(2, -1, len(columns))
    phase = grid.phase[columns][None, None, :].expand(2, len(rows), -1)
    scattered = field.at(grid, readout, phase, grid.level[:, None, None].expand_as(phase))
    torch.testing.assert_close(scattered, values[:, rows][..., columns], rtol=0.0, atol=1e-3)


def test_distances_are_in_millimetres():
    x = torch.linspace(-30.0, 30.0, 241)
    circle = ellipsoid_distance((x, torch.zeros_like(x)), (20.0, 20.0))
    torch.testing.assert_close(circle[x.abs() > 1.0], (20.0 - x.abs())[x.abs() > 1.0], rtol=0.0, atol=1e-3)
    first, second = torch.meshgrid(x, x, indexing="ij")
    assert (soft_minimum(first, second, 3.0) <= torch.minimum(first, second) + 1e-4).all()
    assert (soft_maximum(first, second, 3.0) - torch.maximum(first, second)).max() < 1.0


def test_tissue_contrasts_are_those_of_the_textbook():
    draws = [Draws(range(20), "tissues") for _ in range(3)]
    t1, flair, pd = (
        tissue_signals(stream, contrast) for stream, contrast in zip(draws, ("t1", "flair", "pd"), strict=True)
    )
    for brighter, darker in (("fat", "white"), ("white", "grey"), ("grey", "fluid"), ("white", "gliosis")):
        assert (signal_of(t1, brighter) > signal_of(t1, darker)).all(), (brighter, darker)
    for brighter, darker in (("grey", "white"), ("gliosis", "grey"), ("oedema", "white"), ("white", "fluid")):
        assert (signal_of(flair, brighter) > signal_of(flair, darker)).all(), (brighter, darker)
    assert (signal_of(flair, "fluid") < 0.12 * signal_of(flair, "grey")).all()
    for brighter, darker in (
        ("fat", "muscle"),
        ("marrow", "cartilage"),
        ("cartilage", "meniscus"),
        ("tear", "meniscus"),
    ):
        assert (signal_of(pd, brighter) > signal_of(pd, darker)).all(), (brighter, darker)


def test_spin_echo_limits():
    t1, t2, density = torch.tensor([800.0]), torch.tensor([80.0]), torch.tensor([0.7])
    whole = spin_echo(t1, t2, density, repetition=torch.tensor(1e6), echo=torch.tensor(0.0))
    torch.testing.assert_close(whole, density)
    half = spin_echo(t1, t2, density, repetition=torch.tensor(1e6), echo=80.0 * torch.log(torch.tensor(2.0)))
    torch.testing.assert_close(half, 0.5 * density)
    assert all(tissue.t1 > tissue.t2 for tissue in TISSUES.values())


def _spectrum(image: np.ndarray, pixel_mm: float) -> np.ndarray:
    """Mean power in rings of spatial frequency, in dB relative to the mean power, up to 0.5 per mm."""
    power = np.abs(np.fft.fft2(image)) ** 2
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n, pixel_mm) for n in image.shape), indexing="ij"))
    edges = np.arange(0.04, 0.52, 0.04)
    rings = [power[(radius >= low) & (radius < low + 0.04)].mean() for low in edges]
    return 10.0 * np.log10(np.array(rings) / power.mean())


@pytest.mark.parametrize(("contrast", "suffix"), [("flair", "FLAIR"), ("t1", "T1W")])
def test_spectrum_falls_off_as_that_of_real_heads(shared_data, contrast, suffix):
    real = []
    for name in ("patient04_study1", "patient12_study1"):
        volume = nibabel.load(shared_data / "open_ms" / f"{name}_{suffix}.nii.gz")
        data, pixel = np.asarray(volume.dataobj, dtype=np.float32), float(volume.header.get_zooms()[0])
        real += [_spectrum(data[:, :, k], pixel) for k in (18, 24, 30, 36)]
    slices = simulate_slices("brain", contrast, 8, (320, 320), seed=1)
    simulated = [_spectrum(image.abs().numpy(), slices.pixel_mm[0]) for image in slices.image]
    difference = np.median(simulated, axis=0) - np.median(real, axis=0)
    assert np.abs(difference).max() < 6.0, difference
