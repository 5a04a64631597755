"""The encoding operator against its definition and against sigpy's."""

from __future__ import annotations

import pytest
import sigpy.mri.linop
import torch
from torch import Tensor

from pass_recon.physics.encoding import SenseOperator
from pass_recon.types import InputError
from tests.operators import (
    assert_adjoint,
    assert_batch_is_one_by_one,
    assert_linear,
    assert_normal,
    random_complex,
    relative_error,
)
from tests.physics.phantoms import coil_phantom

SIZES = [(8, 10), (9, 7), (8, 7), (7, 8)]


def half_of_the_lines(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_operator_is_linear_and_has_its_adjoint_and_normal(shape: tuple[int, int], batch: tuple[int, ...]) -> None:
    operator = SenseOperator(random_complex(*batch, 4, *shape), half_of_the_lines(*batch, shape[-1]))
    x, other = random_complex(*batch, *shape, seed=1), random_complex(*batch, *shape, seed=2)
    y = random_complex(*batch, 4, *shape, seed=3)
    assert_adjoint(operator.forward, operator.adjoint, x, y)
    assert_linear(operator.forward, x, other)
    assert_linear(operator.normal, x, other)
    assert_normal(operator.normal, operator.forward, operator.adjoint, x)
    assert_adjoint(operator.normal, operator.normal, x, other)


@pytest.mark.parametrize("shape", SIZES)
def test_forward_and_adjoint_agree_with_sigpy(shape: tuple[int, int]) -> None:
    maps, mask, x = random_complex(4, *shape), half_of_the_lines(shape[-1]), random_complex(*shape, seed=1)
    reference = sigpy.mri.linop.Sense(maps.numpy(), weights=mask.expand(*shape).double().numpy())
    operator = SenseOperator(maps, mask)
    assert relative_error(operator.forward(x), torch.from_numpy(reference(x.numpy()))) < 1e-14
    y = operator.forward(x)
    assert relative_error(operator.adjoint(y), torch.from_numpy(reference.H(y.numpy()))) < 1e-14


def test_skipped_lines_are_exactly_zero_and_do_not_matter() -> None:
    mask = half_of_the_lines(10)
    operator = SenseOperator(random_complex(4, 8, 10), mask)
    assert operator.forward(random_complex(8, 10))[..., ~mask].abs().max() == 0
    y = random_complex(4, 8, 10)
    assert torch.equal(operator.adjoint(y), operator.adjoint(y * mask))


def test_batch_is_one_by_one() -> None:
    def normal(maps: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        return SenseOperator(maps, mask).normal(image)

    maps, mask, image = random_complex(3, 4, 8, 9), half_of_the_lines(3, 9), random_complex(3, 8, 9)
    assert_batch_is_one_by_one(normal, maps, mask, image)


@pytest.mark.parametrize(("maps_batch", "mask_batch"), [((3,), ()), ((), (3,)), ((1,), (3,))])
def test_maps_and_mask_broadcast(maps_batch: tuple[int, ...], mask_batch: tuple[int, ...]) -> None:
    maps, mask, image = random_complex(*maps_batch, 4, 8, 9), half_of_the_lines(*mask_batch, 9), random_complex(3, 8, 9)
    broadcast = SenseOperator(maps, mask)
    expanded = SenseOperator(maps.expand(3, 4, 8, 9), mask.expand(3, 9))
    assert torch.equal(broadcast.forward(image), expanded.forward(image))
    assert torch.equal(broadcast.normal(image), expanded.normal(image))


def test_normal_in_several_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = SenseOperator(random_complex(2, 4, 11, 10), half_of_the_lines(2, 10))
    x = random_complex(2, 11, 10)
    whole = operator.normal(x)
    monkeypatch.setattr("pass_recon.physics.encoding._BLOCK_ELEMENTS", 3 * 2 * 4 * 10)
    assert relative_error(operator.normal(x), whole) < 1e-14


def test_coils_combined_by_rows_do_what_all_coils_do() -> None:
    phantom = coil_phantom(12, (61, 48))
    maps = torch.stack((phantom.coil_maps, torch.zeros_like(phantom.coil_maps)))
    operator, fast = (SenseOperator(maps, half_of_the_lines(48), fast=fast) for fast in (False, True))
    image = random_complex(2, 61, 48)
    assert fast._row_maps.shape[-3] < 12
    assert relative_error(fast.normal(image), operator.normal(image)) < 1e-3
    assert torch.equal(fast.forward(image), operator.forward(image))


def test_gradients() -> None:
    mask = half_of_the_lines(5)
    maps, image = random_complex(2, 4, 5).requires_grad_(), random_complex(4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, x: SenseOperator(s, mask).normal(x), (maps, image))
    assert torch.autograd.gradcheck(lambda s, x: SenseOperator(s, mask).forward(x), (maps, image))


def test_real_weights_form_an_operator_and_receive_a_gradient() -> None:
    weights = torch.rand(2, 5, dtype=torch.float64).requires_grad_()
    maps, x, y = random_complex(2, 3, 4, 5), random_complex(2, 4, 5, seed=1), random_complex(2, 3, 4, 5, seed=2)
    operator = SenseOperator(maps, weights)
    assert_adjoint(operator.forward, operator.adjoint, x, y)
    every_line = SenseOperator(maps, torch.ones(5, dtype=torch.bool))
    assert relative_error(operator.normal(x), operator.adjoint(every_line.forward(x))) < 1e-14
    assert torch.autograd.gradcheck(lambda w: SenseOperator(maps, w).normal(x), weights)
    assert torch.autograd.gradcheck(lambda w: SenseOperator(maps, w).forward(x), weights)


def test_autocast_and_half_precision_images_compute_in_single_precision() -> None:
    operator = SenseOperator(random_complex(4, 8, 8, dtype=torch.complex64), half_of_the_lines(8))
    image = torch.randn(8, 8).bfloat16()
    expected = operator.normal(image.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(operator.normal(image), expected)
    assert expected.dtype == torch.complex64


@pytest.mark.parametrize(
    ("maps", "mask", "message"),
    [
        ((8, 9), (9,), r"coil maps must be \(\.\.\., coils, ro, pe\), got shape \(8, 9\)"),
        ((4, 8, 9), (10,), r"the line mask has 10 lines, the coil maps of shape \(4, 8, 9\) have 9"),
        ((2, 4, 8, 9), (3, 9), r"coil maps \(2, 4, 8, 9\) and line mask \(3, 9\) do not broadcast"),
    ],
)
def test_shapes_that_do_not_fit_are_named(maps: tuple[int, ...], mask: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SenseOperator(random_complex(*maps), half_of_the_lines(*mask))


@pytest.mark.parametrize("mask", [torch.ones(9, dtype=torch.int64), torch.ones(9, dtype=torch.complex64)])
def test_a_mask_of_integers_or_complex_numbers_is_refused(mask: Tensor) -> None:
    with pytest.raises(InputError, match=rf"must be bool or real of shape \(\.\.\., pe\), got {mask.dtype} \(9,\)"):
        SenseOperator(random_complex(4, 8, 9), mask)


def test_images_and_kspace_of_another_grid_are_refused() -> None:
    operator = SenseOperator(random_complex(4, 8, 9), half_of_the_lines(9))
    with pytest.raises(InputError, match=r"image of shape \(9, 8\) does not end in \(8, 9\)"):
        operator.forward(random_complex(9, 8))
    with pytest.raises(InputError, match=r"image of shape \(9, 8\) does not end in \(8, 9\)"):
        operator.normal(random_complex(9, 8))
    with pytest.raises(InputError, match=r"k-space of shape \(3, 8, 9\) does not end in \(4, 8, 9\)"):
        operator.adjoint(random_complex(3, 8, 9))


@pytest.mark.gpu
def test_cuda_agrees_with_cpu() -> None:
    maps, mask = random_complex(2, 4, 33, 30, dtype=torch.complex64), half_of_the_lines(2, 30)
    x = random_complex(2, 33, 30, dtype=torch.complex64)
    there = SenseOperator(maps.cuda(), mask.cuda())
    here = SenseOperator(maps, mask)
    assert relative_error(there.normal(x.cuda()).cpu(), here.normal(x)) < 1e-5
    assert relative_error(there.adjoint(there.forward(x.cuda())).cpu(), here.normal(x)) < 1e-5
