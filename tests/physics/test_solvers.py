"""Conjugate gradients against direct solutions and against sigpy's SENSE."""

from __future__ import annotations

import pytest
import sigpy.mri.app
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pass_recon.physics.encoding import SenseOperator
from pass_recon.physics.solvers import conjugate_gradient
from tests.operators import assert_batch_is_one_by_one, random_complex, relative_error
from tests.physics.phantoms import coil_phantom


def positive_matrix(*batch: int, size: int, seed: int = 0) -> Tensor:
    root = random_complex(*batch, size, size, seed=seed)
    return root @ root.mH / size + 0.5 * torch.eye(size)


def times(matrix: Tensor, image: Tensor) -> Tensor:
    """Matrix ``(..., ro * pe, ro * pe)`` times image ``(..., ro, pe)``."""
    return (matrix @ image.flatten(-2).unsqueeze(-1)).squeeze(-1).unflatten(-1, image.shape[-2:])


def solution(matrix: Tensor, rhs: Tensor) -> Tensor:
    return torch.linalg.solve(matrix, rhs.flatten(-2)).unflatten(-1, rhs.shape[-2:])


def test_as_many_steps_as_unknowns_solve_the_system() -> None:
    matrix, rhs = positive_matrix(3, size=12), random_complex(3, 3, 4)
    found = conjugate_gradient(lambda x: times(matrix, x), rhs, iterations=12)
    assert relative_error(found, solution(matrix, rhs)) < 1e-9


def test_items_of_a_batch_do_not_know_of_each_other() -> None:
    scales = torch.tensor([1e-6, 1.0, 1e6]).view(3, 1, 1)
    matrix, rhs = positive_matrix(3, size=12), random_complex(3, 3, 4) * scales

    def solve(matrix: Tensor, rhs: Tensor) -> Tensor:
        return conjugate_gradient(lambda x: times(matrix, x), rhs, iterations=4)

    assert_batch_is_one_by_one(solve, matrix, rhs)


def test_start_at_the_solution_stays_there_and_a_good_start_helps() -> None:
    matrix, rhs = positive_matrix(size=12), random_complex(3, 4)
    exact = solution(matrix, rhs)
    again = conjugate_gradient(lambda x: times(matrix, x), rhs, start=exact, iterations=3)
    assert relative_error(again, exact) < 1e-12
    near = conjugate_gradient(lambda x: times(matrix, x), rhs, start=exact + 1e-3, iterations=3)
    assert relative_error(near, exact) < relative_error(
        conjugate_gradient(lambda x: times(matrix, x), rhs, iterations=3), exact
    )


def test_zero_and_solved_items_yield_no_nan_and_no_nan_gradient() -> None:
    rhs = torch.stack([torch.zeros(4, 4), torch.eye(4), torch.randn(4, 4)]).to(torch.complex64).requires_grad_()
    weight = torch.tensor(2.0, requires_grad=True)
    found = conjugate_gradient(lambda x: weight * x, rhs, iterations=10)
    torch.testing.assert_close(found, rhs / 2)
    torch.view_as_real(found).square().sum().backward()
    assert torch.isfinite(rhs.grad).all()
    assert rhs.grad[1].abs().max() > 0
    torch.testing.assert_close(weight.grad, -2 / 8 * torch.view_as_real(rhs.detach()).square().sum())


def test_tolerance_stops_all_items_and_each_by_itself() -> None:
    calls = 0
    matrix = torch.stack([torch.eye(12, dtype=torch.complex128), positive_matrix(size=12)])
    rhs = random_complex(2, 3, 4)

    def normal(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return times(matrix, x)

    found = conjugate_gradient(normal, rhs, iterations=100, tolerance=1e-6)
    assert calls <= 13
    residual = torch.linalg.vector_norm(rhs - times(matrix, found), dim=(-2, -1))
    assert (residual <= 1e-6 * torch.linalg.vector_norm(rhs, dim=(-2, -1))).all()
    alone = conjugate_gradient(lambda x: x, rhs[0], iterations=1)
    assert torch.equal(found[0], alone)


def test_without_iterations_nothing_moves() -> None:
    rhs = random_complex(3, 4)
    assert conjugate_gradient(lambda x: x, rhs, iterations=0).abs().max() == 0
    assert torch.equal(conjugate_gradient(lambda x: x, rhs, iterations=0, start=rhs), rhs)


@pytest.mark.parametrize("iterations", [1, 3])
def test_gradient(iterations: int) -> None:
    matrix, rhs = positive_matrix(size=6), random_complex(2, 3).requires_grad_()
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def solve(rhs: Tensor, weight: Tensor) -> Tensor:
        return conjugate_gradient(lambda x: times(matrix, x) + weight * x, rhs, iterations=iterations)

    assert torch.autograd.gradcheck(solve, (rhs, weight))


def test_checkpointing_gives_the_same_gradient() -> None:
    matrix = positive_matrix(size=12)

    def loss(rhs: Tensor) -> Tensor:
        return conjugate_gradient(lambda x: times(matrix, x), rhs, iterations=5).abs().sum()

    plain, saved = (random_complex(3, 4).requires_grad_() for _ in range(2))
    loss(plain).backward()
    checkpoint(loss, saved, use_reentrant=False).backward()
    assert torch.equal(plain.grad, saved.grad)


def test_half_precision_from_autocast_does_not_lower_the_precision() -> None:
    phantom = coil_phantom(4, (24, 20))
    operator = SenseOperator(phantom.coil_maps, torch.arange(20) % 2 == 0)
    rhs = operator.adjoint(phantom.kspace)
    expected = conjugate_gradient(lambda x: operator.normal(x) + 0.01 * x, rhs, iterations=10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = conjugate_gradient(lambda x: operator.normal(x) + 0.01 * x, rhs, iterations=10)
    assert torch.equal(found, expected)
    half = conjugate_gradient(lambda x: 2 * x, torch.ones(4, 4).bfloat16(), iterations=2)
    assert half.dtype == torch.complex64
    assert torch.equal(half, torch.full((4, 4), 0.5 + 0j))


def test_compiles_without_a_graph_break() -> None:
    maps, mask = random_complex(4, 8, 6, dtype=torch.complex64), torch.arange(6) % 2 == 0
    rhs = random_complex(8, 6, dtype=torch.complex64)

    def solve(maps: Tensor, rhs: Tensor) -> Tensor:
        operator = SenseOperator(maps, mask)
        return conjugate_gradient(lambda x: operator.normal(x) + 0.1 * x, rhs, iterations=2)

    compiled = torch.compile(solve, backend="eager", fullgraph=True)
    assert relative_error(compiled(maps, rhs), solve(maps, rhs)) < 1e-6


def test_converged_sense_agrees_with_sigpy() -> None:
    phantom = coil_phantom(8, (48, 45), noise=0.01)
    mask = torch.arange(45) % 3 == 0
    kspace = phantom.kspace * mask
    reference = sigpy.mri.app.SenseRecon(
        kspace.numpy(),
        phantom.coil_maps.numpy(),
        lamda=0.01,
        weights=mask.expand(48, 45).float().numpy(),
        max_iter=200,
        show_pbar=False,
    ).run()
    operator = SenseOperator(phantom.coil_maps, mask)
    found = conjugate_gradient(lambda x: operator.normal(x) + 0.01 * x, operator.adjoint(kspace), iterations=200)
    assert relative_error(found, torch.from_numpy(reference)) < 1e-4
