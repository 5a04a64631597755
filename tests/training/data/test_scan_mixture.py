"""Drawn scans: lines of every kind, coils, maps from the ACS, and targets that a perfect reconstruction reaches."""

from __future__ import annotations

import random

import pytest
import torch

from pass_recon.physics.fourier import ifft2c
from pass_recon.sampling.budget import acs_count, acs_fraction, line_budget
from pass_recon.sampling.lines import acs_mask, calibration_width
from pass_recon.sampling.population import PopulationLogits
from training.data.painted_blobs import recovery
from training.data.scan_mixture import (
    CoilMixture,
    LineMixture,
    MixtureSettings,
    ScanMixture,
    calibration,
    equispaced,
    partial_fourier,
)

KIND = "brain-t1"
CPU = torch.device("cpu")


def line_mixture(settings: MixtureSettings | None = None) -> LineMixture:
    populations = {r: PopulationLogits(64, acs_fraction(r), acceleration=r) for r in (4.0, 8.0)}
    return LineMixture({KIND: populations}, settings or MixtureSettings())


def mixture(settings: MixtureSettings) -> ScanMixture:
    return ScanMixture(line_mixture(settings), CoilMixture(settings.coils, 2, 0, CPU), settings, CPU)


def disc(count: int, ro: int, pe: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, ro), torch.linspace(-1, 1, pe), indexing="ij")
    return (torch.hypot(y, x) < 0.7).float().expand(count, ro, pe).clone()


@pytest.mark.parametrize("acceleration", [2.0, 3.3, 4.0, 8.0, 10.0])
def test_own_lines_keep_the_budget_at_any_acceleration(acceleration: float) -> None:
    lines = line_mixture()
    for chance in (None, random.Random(0)):
        assert int(lines.own(KIND, 320, acceleration, chance).sum()) == line_budget(320, acceleration)


@pytest.mark.parametrize("pe", [128, 291, 320])
@pytest.mark.parametrize("acceleration", [2.0, 4.0, 8.0])
def test_every_kind_of_lines_has_the_calibration_lines(pe: int, acceleration: float) -> None:
    lines, chance, widths = line_mixture(), random.Random(1), calibration(pe, acceleration)
    for _ in range(40):
        assert calibration_width(lines.draw(KIND, pe, acceleration, chance)) >= widths


def test_lines_as_vendors_scan() -> None:
    lines = equispaced(320, 4, acs_mask(320, 26), random.Random(0))
    assert int(lines.sum()) in (99, 100, 101)
    outside = lines[:140].nonzero().flatten()
    assert (outside.diff() == 4).all()


@pytest.mark.parametrize("flip", [False, True])
def test_partial_fourier_leaves_one_end_out(flip: bool) -> None:
    kept = partial_fourier(torch.ones(160, dtype=torch.bool), 6, flip=flip)
    assert int(kept.sum()) == 120
    assert bool(kept[0]) != flip
    assert bool(kept[-1]) == flip


@pytest.mark.parametrize(("coils", "channels"), [(1, 4), (4, 4), (7, 4)])
def test_the_target_is_what_its_k_space_and_maps_give(coils: int, channels: int) -> None:
    settings = MixtureSettings(
        noise=(1e-6, 2e-6), estimated=0.5, coils=(coils,), channels=(channels,), rows=64, blobs=4
    )
    generator = torch.Generator().manual_seed(0)
    image = disc(4, 64, 60)
    batch = mixture(settings).scan(image, image > 2, [KIND] * 4, coils, random.Random(0), generator)
    assert batch.kspace.shape == (6, channels, 64, 60)
    combined = (batch.coil_maps.conj() * ifft2c(batch.kspace)).sum(1)
    inside = batch.target.abs() > 0.5
    difference = (combined - batch.target).abs()[inside]
    # Fewer virtual coils than there were, and estimated maps, explain nearly all of the signal.
    assert difference.median() < (0.02 if coils <= channels else 0.1)


def test_twins_differ_by_their_blobs_alone() -> None:
    settings = MixtureSettings(noise=(0.02, 0.03), estimated=0.5, coils=(4,), channels=(4,), rows=64, blobs=4)
    image = disc(8, 64, 60)
    generator = torch.Generator().manual_seed(0)
    whole = mixture(settings).scan(image, image > 2, [KIND] * 8, 4, random.Random(0), generator)
    for batch in whole.parts(2):
        assert batch.blobs is not None
        twins = len(batch.blobs.change)
        assert len(batch.target) == 4 + twins == 6
        assert torch.equal(batch.lines[-twins:], batch.lines[:twins])
        assert torch.equal(batch.coil_maps[-twins:], batch.coil_maps[:twins])
        with_blobs, without = batch.target[-twins:], batch.target[:twins]
        shares, measured = recovery(with_blobs, without, with_blobs + without, batch.blobs)
        assert torch.allclose(shares[measured], torch.ones(()), atol=1e-3)
        images = ifft2c(batch.kspace[-twins:] - batch.kspace[:twins])
        assert torch.linalg.vector_norm(images, dim=1).amax() < 0.13  # no noise of its own: a blob at most


def test_a_crop_of_rows_is_exact() -> None:
    image = disc(2, 64, 60)
    crops = []
    for rows in (64, 20):
        settings = MixtureSettings(estimated=0.5, twins=0.0, coils=(4,), channels=(4,), rows=rows)
        generator, chance = torch.Generator().manual_seed(0), random.Random(0)
        crops.append(mixture(settings).scan(image, image > 2, [KIND] * 2, 4, chance, generator))
    whole, crop = crops
    found = ifft2c(crop.kspace)
    assert torch.equal(whole.features, crop.features)
    places = [first for first in range(45) if torch.allclose(whole.target[:, first : first + 20], crop.target)]
    assert places
    expected = ifft2c(whole.kspace)
    assert any(torch.allclose(expected[..., first : first + 20, :], found, atol=1e-5) for first in places)


def test_coils_are_normalised_on_any_grid() -> None:
    maps = CoilMixture((6,), 3, 0, CPU).draw(4, 6, (40, 33), torch.Generator().manual_seed(0))
    assert maps.shape == (4, 6, 40, 33)
    assert torch.allclose(maps.abs().square().sum(1), torch.ones(()), atol=1e-4)


def test_calibration_follows_the_acceleration() -> None:
    assert calibration(320, 4.0) == 24
    assert calibration(320, 8.0) == acs_count(320, acs_fraction(8.0))
    assert calibration(64, 10.0) == 4
