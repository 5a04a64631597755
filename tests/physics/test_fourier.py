"""The transforms against sigpy, numpy and what a centred transform must do."""

from __future__ import annotations

import numpy as np
import pytest
import sigpy
import torch

from pass_recon.physics.fourier import as_complex, fft1c, fft2c, ifft1c, ifft2c, resize_centre
from pass_recon.types import InputError
from tests.operators import assert_adjoint, assert_batch_is_one_by_one, assert_linear, random_complex, relative_error

SIZES = [(8, 10), (8, 12), (6, 10), (9, 7), (8, 7), (9, 10), (1, 5), (2, 1)]


@pytest.mark.parametrize("shape", SIZES)
def test_transforms_agree_with_sigpy(shape: tuple[int, int]) -> None:
    x = random_complex(3, *shape)
    assert relative_error(fft2c(x), torch.from_numpy(sigpy.fft(x.numpy(), axes=(-2, -1)))) < 1e-14
    assert relative_error(ifft2c(x), torch.from_numpy(sigpy.ifft(x.numpy(), axes=(-2, -1)))) < 1e-14
    for dim in (-1, -2):
        assert relative_error(fft1c(x, dim), torch.from_numpy(sigpy.fft(x.numpy(), axes=(dim,)))) < 1e-14
        assert relative_error(ifft1c(x, dim), torch.from_numpy(sigpy.ifft(x.numpy(), axes=(dim,)))) < 1e-14


@pytest.mark.parametrize("shape", SIZES)
def test_a_point_at_the_origin_becomes_a_constant(shape: tuple[int, int]) -> None:
    point = torch.zeros(shape)
    point[shape[0] // 2, shape[1] // 2] = 1
    constant = torch.full(shape, float(np.prod(shape)) ** -0.5, dtype=torch.complex64)
    torch.testing.assert_close(fft2c(point), constant)
    torch.testing.assert_close(ifft2c(point), constant)


@pytest.mark.parametrize("shape", SIZES)
def test_transform_is_linear_and_unitary(shape: tuple[int, int]) -> None:
    x, y = random_complex(2, *shape, seed=1), random_complex(2, *shape, seed=2)
    assert_adjoint(fft2c, ifft2c, x, y)
    assert_linear(fft2c, x, y)
    assert_batch_is_one_by_one(fft2c, x)
    assert relative_error(ifft2c(fft2c(x)), x) < 1e-14


@pytest.mark.parametrize("shape", [(4, 6), (3, 4)])
def test_gradient(shape: tuple[int, int]) -> None:
    x = random_complex(*shape).requires_grad_()
    assert torch.autograd.gradcheck(fft2c, x)
    assert torch.autograd.gradcheck(ifft2c, x)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.complex64),
        (torch.bfloat16, torch.complex64),
        (torch.float32, torch.complex64),
        (torch.float64, torch.complex128),
        (torch.complex64, torch.complex64),
        (torch.complex128, torch.complex128),
    ],
)
def test_half_precision_never_reaches_a_transform(given: torch.dtype, expected: torch.dtype) -> None:
    assert fft2c(torch.ones(4, 4, dtype=given)).dtype == expected
    assert as_complex(torch.ones(4, dtype=given)).dtype == expected


def test_autocast_changes_nothing() -> None:
    x = random_complex(2, 8, 8, dtype=torch.complex64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fft2c(x)
    assert torch.equal(inside, fft2c(x))


@pytest.mark.parametrize("old", [1, 4, 5, 8])
@pytest.mark.parametrize("new", [1, 2, 4, 5, 7, 9])
def test_resize_keeps_the_centre(old: int, new: int) -> None:
    x = torch.arange(1.0, old + 1).expand(2, 3, old)
    resized = resize_centre(x, (new,))
    assert resized.shape == (2, 3, new)
    assert resized[0, 0, new // 2] == x[0, 0, old // 2]
    np.testing.assert_array_equal(resized.numpy(), sigpy.resize(x.numpy(), (2, 3, new)))


def test_resize_of_two_axes_crops_one_and_pads_the_other() -> None:
    x = random_complex(2, 6, 7)
    np.testing.assert_array_equal(resize_centre(x, (9, 4)).numpy(), sigpy.resize(x.numpy(), (2, 9, 4)))


@pytest.mark.parametrize("shape", [(2, 2, 2), (0, 4)])
def test_resize_refuses_what_it_cannot_do(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"cannot resize .* \(4, 4\) to"):
        resize_centre(torch.ones(4, 4), shape)


def test_compiles_without_a_graph_break() -> None:
    x = random_complex(2, 8, 6, dtype=torch.complex64)
    compiled = torch.compile(fft2c, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), fft2c(x))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SIZES)
def test_cuda_agrees_with_cpu(shape: tuple[int, int]) -> None:
    x = random_complex(3, *shape, dtype=torch.complex64)
    assert relative_error(fft2c(x.cuda()).cpu(), fft2c(x)) < 1e-5
