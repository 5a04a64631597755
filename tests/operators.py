"""What every linear operator and every batched function must satisfy, as assertions for any test."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LinearMap = Callable[[Tensor], Tensor]


def random_complex(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex128) -> Tensor:
    """Normal complex numbers from a generator of their own, in double precision unless asked otherwise."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> over all axes, conjugate-linear in ``a``."""
    assert a.shape == b.shape
    return torch.vdot(a.flatten(), b.flatten())


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """‖actual − expected‖ / ‖expected‖."""
    assert actual.shape == expected.shape
    difference = torch.linalg.vector_norm(actual.detach() - expected.detach())
    return float(difference / torch.linalg.vector_norm(expected.detach()))


def assert_adjoint(forward: LinearMap, adjoint: LinearMap, x: Tensor, y: Tensor, tolerance: float = 1e-12) -> None:
    """<A x, y> = <x, Aᴴ y>, and A x is not zero, for which that would be no news."""
    image, back = forward(x), adjoint(y)
    size = torch.linalg.vector_norm(image) * torch.linalg.vector_norm(y)
    assert size > 0
    assert (inner(image, y) - inner(x, back)).abs() <= tolerance * size


def assert_linear(forward: LinearMap, a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    """A (a + c b) = A a + c A b for a complex c."""
    factor = 0.3 - 1.7j
    assert relative_error(forward(a + factor * b), forward(a) + factor * forward(b)) <= tolerance


def assert_normal(
    normal: LinearMap, forward: LinearMap, adjoint: LinearMap, x: Tensor, tolerance: float = 1e-12
) -> None:
    """N x = Aᴴ A x."""
    assert relative_error(normal(x), adjoint(forward(x))) <= tolerance


def assert_batch_is_one_by_one(function: Callable[..., Tensor], *batches: Tensor, tolerance: float = 1e-12) -> None:
    """F(batch)[i] = F(batch[i]) for arguments that share their first axis."""
    together = function(*batches)
    for index, items in enumerate(zip(*batches, strict=True)):
        assert relative_error(together[index], function(*items)) <= tolerance
