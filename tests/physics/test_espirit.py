"""ESPIRiT against sigpy, BART, the true maps and a decomposition of every pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sigpy.mri.app
import torch
from torch import Tensor

from pass_recon.physics.coils import espirit_maps
from pass_recon.physics.fourier import fft2c, ifft2c
from pass_recon.types import InputError
from tests.operators import assert_batch_is_one_by_one, relative_error
from tests.physics.bart import ecalib
from tests.physics.phantoms import coil_phantom

GRIDS = [(4, (48, 44), 0.0), (8, (47, 57), 0.01), (16, (50, 41), 0.0), (32, (40, 40), 0.01), (8, (41, 41), 0.0)]


def distance(maps: Tensor, reference: Tensor) -> Tensor:
    """``(ro, pe)``: distance of the coil vectors ``(coils, ro, pe)`` after a phase for each pixel; both have norm 1."""
    product = (reference.conj() * maps).sum(-3)
    aligned = reference * torch.polar(torch.ones_like(product.real), product.angle())
    return torch.linalg.vector_norm(maps - aligned, dim=-3)


def support(maps: Tensor) -> Tensor:
    return maps.abs().sum(-3) > 0


def sigpy_maps(kspace: Tensor) -> Tensor:
    maps = sigpy.mri.app.EspiritCalib(kspace.numpy(), max_iter=50, show_pbar=False).run()
    return torch.from_numpy(np.ascontiguousarray(maps, dtype=np.complex64))


def bart(
    kspace: Tensor, folder: Path, *, sets: int = 1, threshold: float = 0.02, crop: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Maps ``(sets, coils, ro, pe)`` and eigenvalues ``(sets, ro, pe)``."""
    # BART compares energies with its threshold, that is the squares of the singular values.
    options = ["-r", "24:24:1", "-k", "6:6:1", "-t", f"{threshold**2:.9f}", "-c", str(crop), "-m", str(sets)]
    maps, eigenvalues = ecalib(kspace.numpy(), folder, *options)
    return torch.from_numpy(np.ascontiguousarray(maps)), torch.from_numpy(np.ascontiguousarray(eigenvalues))


@pytest.mark.parametrize(("coils", "shape", "noise"), GRIDS)
def test_agrees_with_sigpy_to_one_percent_inside_the_object(coils: int, shape: tuple[int, int], noise: float) -> None:
    phantom = coil_phantom(coils, shape, noise)
    maps, reference = espirit_maps(phantom.kspace, 24), sigpy_maps(phantom.kspace)
    assert distance(maps, reference)[phantom.inside].max() < 0.01
    assert (support(maps) != support(reference)).float().mean() < 1e-3


@pytest.mark.parametrize(("coils", "shape", "noise"), GRIDS)
def test_agrees_with_bart_to_one_percent_inside_the_object(
    coils: int, shape: tuple[int, int], noise: float, tmp_path: Path
) -> None:
    phantom = coil_phantom(coils, shape, noise)
    maps, reference = espirit_maps(phantom.kspace, 24), bart(phantom.kspace, tmp_path)[0][0]
    assert distance(maps, reference)[phantom.inside].max() < 0.01
    assert (support(maps) != support(reference)).float().mean() < 5e-3


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_close_to_the_true_maps_and_whole_inside_the_object(noise: float) -> None:
    phantom = coil_phantom(12, (96, 90), noise)
    maps = espirit_maps(phantom.kspace, 24)
    assert support(maps)[phantom.inside].all()
    error = distance(maps, phantom.coil_maps)[phantom.inside]
    assert error.quantile(0.95) < 0.02
    assert error.max() < 0.05


def test_normalised_on_the_support_and_zero_elsewhere() -> None:
    phantom = coil_phantom(8, (48, 45), 0.01)
    energy = espirit_maps(phantom.kspace, 24).abs().square().sum(0)
    assert (((energy - 1).abs() < 1e-5) | (energy == 0)).all()
    assert (energy == 0).any()


def test_phase_is_that_of_the_first_virtual_coil_and_smooth_inside() -> None:
    phantom = coil_phantom(8, (64, 60))
    maps = espirit_maps(phantom.kspace, 24)
    calibration = phantom.kspace[:, 32 - 12 : 32 + 12, 30 - 12 : 30 + 12].flatten(1)
    component = torch.linalg.svd(calibration, full_matrices=False).U[:, 0]
    seen = torch.einsum("c,cyx->yx", component.conj(), maps)[phantom.inside]
    assert (seen * seen.mean().conj()).angle().abs().max() < 1e-3
    steps = (maps[:, 1:] - maps[:, :-1]).abs()[:, phantom.inside[1:] & phantom.inside[:-1]]
    assert steps.max() < 0.1


def test_real_brain_agrees_with_sigpy_and_bart(shared_data: Path, tmp_path: Path) -> None:
    kspace = torch.from_numpy(np.load(shared_data / "raw" / "brain_8ch_ksp.npy")).to(torch.complex64)
    maps = espirit_maps(kspace, 24)
    # The lines beyond the centre are too few for an image of the whole head, but not for where it is bright.
    bright = torch.linalg.vector_norm(ifft2c(kspace), dim=0)
    inside = bright > 0.2 * bright.max()
    assert inside.sum() > 5000
    assert support(maps)[inside].float().mean() > 0.98
    for reference in (sigpy_maps(kspace), bart(kspace, tmp_path)[0][0]):
        both = inside & support(maps) & support(reference)
        assert both.sum() > 0.98 * inside.sum()
        assert distance(maps, reference)[both].quantile(0.99) < 0.01


def folded(coils: int, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """K-space of an object larger than the field of view, and where it folds onto itself."""
    ro, pe = shape
    wide = coil_phantom(coils, (ro, 2 * pe))
    kept = 2 * (pe * 7 // 10)
    coil_images = (wide.coil_maps * wide.image)[..., pe - kept // 2 : pe + kept // 2]
    inside = wide.inside[..., pe - kept // 2 : pe + kept // 2]
    extra = (kept - pe) // 2
    image, count = coil_images[..., extra : extra + pe].clone(), inside[..., extra : extra + pe].long()
    image[..., :extra] += coil_images[..., extra + pe :]
    image[..., -extra:] += coil_images[..., :extra]
    count[..., :extra] += inside[..., extra + pe :].long()
    count[..., -extra:] += inside[..., :extra].long()
    return fft2c(image), count


def test_two_sets_explain_an_object_that_folds(tmp_path: Path) -> None:
    kspace, count = folded(8, (64, 60))
    maps = espirit_maps(kspace, 24, sets=2, threshold=0.005, crop=0.9)
    assert maps.shape == (2, 8, 64, 60)
    twice = count == 2
    assert twice.sum() > 100
    assert support(maps[1])[twice].float().mean() > 0.95
    overlap = (maps[0].conj() * maps[1]).sum(0).abs()
    assert overlap.max() < 1e-4

    def unexplained(maps: Tensor) -> Tensor:
        image = ifft2c(kspace)
        projected = (maps * (maps.conj() * image).sum(-3, keepdim=True)).sum(-4)
        return torch.linalg.vector_norm(image - projected, dim=0) / torch.linalg.vector_norm(image, dim=0)

    assert unexplained(maps)[twice].quantile(0.9) < 0.05
    assert unexplained(maps[:1])[twice].median() > 0.1
    reference, eigenvalues = bart(kspace, tmp_path, sets=2, threshold=0.005, crop=0.9)
    assert distance(maps[0], reference[0])[(count == 1) & (eigenvalues[1] < 0.7)].max() < 0.01
    # Where both eigenvalues are about 1, only the plane that the two maps span is determined.
    both = twice & support(maps[1]) & support(reference[1])
    cosines = torch.linalg.svdvals(torch.einsum("scyx,tcyx->yxst", maps.conj(), reference)[both])
    assert cosines.min() > 1 - 0.01**2
    assert both.sum() > 0.9 * twice.sum()


def test_sets_of_one_and_two_share_the_first_map() -> None:
    kspace = coil_phantom(8, (48, 45), 0.01).kspace
    first, alone = espirit_maps(kspace, 24, sets=2)[0], espirit_maps(kspace, 24)
    # A pixel whose eigenvalue is at the crop may fall on either side of it.
    both = support(first) & support(alone)
    assert both.sum() > 0.99 * support(alone).sum()
    assert distance(first, alone)[both].max() < 1e-4


def test_batch_is_one_by_one() -> None:
    items = [coil_phantom(6, (40, 37), noise, seed) for seed, noise in enumerate((0.0, 0.01, 0.05))]
    batch = torch.stack([item.kspace * 10.0**power for power, item in enumerate(items)])
    assert_batch_is_one_by_one(lambda k: espirit_maps(k, 20), batch, tolerance=1e-5)
    assert_batch_is_one_by_one(lambda k: espirit_maps(k, 20, sets=2), batch, tolerance=1e-5)
    assert espirit_maps(batch.view(3, 1, 6, 40, 37), 20, sets=2).shape == (3, 1, 2, 6, 40, 37)


def test_only_the_calibration_region_matters() -> None:
    kspace = coil_phantom(6, (40, 37)).kspace
    outside = torch.ones(40, 37, dtype=torch.bool)
    outside[20 - 10 : 20 + 10, 18 - 10 : 18 + 10] = False
    assert torch.equal(espirit_maps(kspace.masked_fill(outside, torch.nan), 20), espirit_maps(kspace, 20))


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_units_do_not_matter(scale: float) -> None:
    kspace = coil_phantom(6, (40, 37), 0.01).kspace
    assert relative_error(espirit_maps(kspace * scale, 20), espirit_maps(kspace, 20)) < 1e-4


@pytest.mark.parametrize(("lines", "allowed"), [(4, 0.2), (6, 0.1), (8, 0.06), (10, 0.04), (13, 0.03)])
def test_few_lines_still_cover_the_object(lines: int, allowed: float) -> None:
    phantom = coil_phantom(12, (96, 90), 0.01)
    for width in ((24, lines), (24, lines + 1)):
        maps = espirit_maps(phantom.kspace, width)
        assert support(maps)[phantom.inside].float().mean() > 0.999
        assert distance(maps, phantom.coil_maps)[phantom.inside].quantile(0.95) < allowed


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_even_a_tiny_square_gives_finite_maps(width: int) -> None:
    maps = espirit_maps(coil_phantom(4, (20, 21), 0.01).kspace, width)
    assert torch.isfinite(torch.view_as_real(maps)).all()
    assert support(maps).any()


def test_one_coil_sees_everything_alike() -> None:
    phantom = coil_phantom(4, (40, 37))
    maps = espirit_maps(phantom.kspace[:1], 20)
    assert torch.allclose(maps[0][phantom.inside], torch.ones(()).to(maps.dtype), atol=1e-5)


def test_no_signal_gives_no_maps_and_spares_the_others() -> None:
    kspace = coil_phantom(4, (40, 37)).kspace
    maps = espirit_maps(torch.stack([torch.zeros_like(kspace), kspace]), 20)
    assert maps[0].abs().max() == 0
    assert relative_error(maps[1], espirit_maps(kspace, 20)) < 1e-5


def test_autocast_changes_nothing() -> None:
    kspace = coil_phantom(4, (40, 37), 0.01).kspace
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = espirit_maps(kspace, 20)
    assert torch.equal(inside, espirit_maps(kspace, 20))


@pytest.mark.parametrize(
    ("shape", "width", "sets", "message"),
    [
        ((4, 20, 21), 21, 1, r"a calibration region of \(21, 21\) does not fit k-space of \(20, 21\)"),
        ((4, 20, 21), (20, 0), 1, r"a calibration region of \(20, 0\) does not fit"),
        ((4, 20, 21), 20, 5, "cannot find 5 sets of maps for 4 coils"),
        ((20, 21), 20, 1, r"k-space must be \(\.\.\., coils, ro, pe\), got shape \(20, 21\)"),
    ],
)
def test_what_cannot_be_done_is_said(shape: tuple[int, ...], width: int, sets: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        espirit_maps(torch.ones(shape, dtype=torch.complex64), width, sets=sets)


def test_nan_in_the_calibration_region_is_refused() -> None:
    kspace = coil_phantom(4, (20, 21)).kspace
    kspace[0, 10, 10] = torch.nan
    with pytest.raises(InputError, match="NaN or infinity"):
        espirit_maps(kspace, 12)


@pytest.mark.gpu
def test_cuda_agrees_with_cpu() -> None:
    kspace = torch.stack([coil_phantom(8, (96, 91), 0.01, seed).kspace for seed in range(2)])
    there, here = espirit_maps(kspace.cuda(), 24, sets=2).cpu(), espirit_maps(kspace, 24, sets=2)
    assert relative_error(there[:, 0], here[:, 0]) < 1e-3


def test_a_gap_keeps_maps_right_where_the_object_leaves_the_readout() -> None:
    wide = coil_phantom(8, (160, 90), 0.005)
    ends = slice(80 - 30, 80 + 30)  # the object is longer than this field of view
    image, maps = wide.image[ends], wide.coil_maps[:, ends]
    inside = wide.inside[ends]
    assert inside[0].any()
    assert inside[-1].any()
    kspace = fft2c(maps * image)
    errors = [
        distance(espirit_maps(kspace, (round(24 * (1 + gap / 60)), 24), gap=gap, crop=0.0), maps)[inside].quantile(0.99)
        for gap in (0, 20)
    ]
    assert errors[0] > 0.3
    assert errors[1] < 0.06


def test_interpolated_maps_are_those_of_every_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    phantom = coil_phantom(12, (160, 150), 0.01)
    fast = espirit_maps(phantom.kspace, 24, kernel_width=8)
    monkeypatch.setattr("pass_recon.physics.coils._LEAST_POINTS", 160)
    every = espirit_maps(phantom.kspace, 24, kernel_width=8)
    assert distance(fast, every)[phantom.inside].max() < 2e-3
    assert (support(fast) != support(every)).float().mean() < 5e-3
