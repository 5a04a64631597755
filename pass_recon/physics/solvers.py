"""Solvers of Hermitian positive systems of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pass_recon.physics.fourier import as_complex


def conjugate_gradient(
    normal: Callable[[Tensor], Tensor],
    rhs: Tensor,
    *,
    iterations: int = 5,
    tolerance: float = 0.0,
    start: Tensor | None = None,
) -> Tensor:
    r"""Solve B x = b for each item of a batch by itself.

    .. math:: x = \arg\min_x \tfrac12 \langle x, B x\rangle - \mathrm{Re}\langle x, b\rangle

    Plain operations without in-place changes: differentiable by unrolling, and fit for gradient checkpointing.

    Parameters
    ----------
    normal
        B, Hermitian and positive (semi-)definite, ``(..., ro, pe)`` to ``(..., ro, pe)``, acting on each item alone.
    rhs
        ``(..., ro, pe)`` b; all axes but the last two are batch, and each item has its own step lengths.
    iterations
        Number of steps; always all of them are taken if ``tolerance`` is 0, which never waits for the device.
    tolerance
        An item stands still once :math:`\|b - Bx\| \le` ``tolerance`` :math:`\|b\|`; all items doing so ends the loop.
    start
        ``(..., ro, pe)`` first x; 0 if None.

    Returns
    -------
    ``(..., ro, pe)`` x. An item whose residual is exactly zero stays where it is.

    References
    ----------
    Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems (1952).
    """
    rhs = as_complex(rhs)
    if tolerance == 0 and not torch.is_grad_enabled():
        return _without_gradient(normal, rhs, iterations, start)
    if start is None:
        x, residual = torch.zeros_like(rhs), rhs
    else:
        x = as_complex(start)
        residual = rhs - as_complex(normal(x))
    direction = residual
    energy = _inner(residual, residual)
    enough = tolerance**2 * _inner(rhs, rhs) if tolerance > 0 else torch.zeros_like(energy)
    for _ in range(iterations):
        active = energy > enough
        if tolerance > 0 and not bool(active.any()):
            break
        applied = as_complex(normal(direction))
        step = _ratio(energy, _inner(direction, applied), active)
        x = x + step * direction
        residual = residual - step * applied
        previous, energy = energy, _inner(residual, residual)
        direction = residual + _ratio(energy, previous, active) * direction
    return x


def _without_gradient(normal: Callable[[Tensor], Tensor], rhs: Tensor, iterations: int, start: Tensor | None) -> Tensor:
    """`conjugate_gradient` to the last of its iterations, in half as many operations: a GPU waits for their launches.

    Real and imaginary parts lie side by side as real numbers, whose inner products are one matrix product for each item
    and whose updates multiply and add at once.
    """
    b = torch.view_as_real(rhs).contiguous()
    if start is None:
        x, residual = torch.zeros_like(b), b
    else:
        start = as_complex(start).expand(rhs.shape)
        x, residual = torch.view_as_real(start), b - torch.view_as_real(as_complex(normal(start)))
    direction = residual
    energy = _energy(residual, residual)
    for _ in range(iterations):
        applied = torch.view_as_real(as_complex(normal(torch.view_as_complex(direction))))
        # 0 / 0 where an item is solved to the last bit.
        step = torch.nan_to_num(energy / _energy(direction, applied), 0.0, 0.0, 0.0)
        x = torch.addcmul(x, step, direction)
        residual = torch.addcmul(residual, step, applied, value=-1)
        previous, energy = energy, _energy(residual, residual)
        direction = torch.addcmul(residual, torch.nan_to_num(energy / previous, 0.0, 0.0, 0.0), direction)
    return torch.view_as_complex(x.contiguous())


def _energy(a: Tensor, b: Tensor) -> Tensor:
    """Real part of <a, b> of ``(..., ro, pe, 2)`` real, ``(..., 1, 1, 1)``."""
    items, size = a.shape[:-3], a.shape[-3:].numel()
    product = torch.bmm(a.reshape(-1, 1, size), b.reshape(-1, size, 1))
    return product.reshape(*items, 1, 1, 1)


def implicit_conjugate_gradient(
    normal: Callable[[Tensor], Tensor],
    rhs: Tensor,
    *,
    damping: Tensor,
    iterations: int = 5,
    start: Tensor | None = None,
) -> Tensor:
    r"""As `conjugate_gradient`, with the gradient that the exact solution would have.

    .. math:: x = B^{-1} b \;\Rightarrow\; dx = B^{-1} (db - dB\, x)

    The iterations keep nothing for the backward pass, which solves once more with as many of them. What ``normal`` and
    ``rhs`` depend on gets its gradient, ``start`` none.

    Parameters
    ----------
    normal, rhs, iterations, start
        As in `conjugate_gradient`.
    damping
        What B adds to a matrix that may be singular: where it is all there is, the gradient's solution starts right.

    References
    ----------
    Aggarwal et al., MoDL: model-based deep learning architecture for inverse problems, IEEE TMI 38 (2019).
    """
    with torch.no_grad():
        solution = conjugate_gradient(normal, rhs, iterations=iterations, start=start)
    missing = as_complex(rhs) - as_complex(normal(solution))
    return _Implicit.apply(solution, missing, normal, damping.detach(), iterations)


class _Implicit(torch.autograd.Function):
    """The solution, with the gradient of B⁻¹ (b − B x) at this x."""

    @staticmethod
    def forward(
        context: Any,
        solution: Tensor,
        missing: Tensor,
        normal: Callable[[Tensor], Tensor],
        damping: Tensor,
        iterations: int,
    ) -> Tensor:
        context.normal, context.damping, context.iterations = normal, damping, iterations
        return solution.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None, None]:
        start = gradients[0] / context.damping
        solved = conjugate_gradient(context.normal, gradients[0], iterations=context.iterations, start=start)
        return None, solved, None, None, None


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Real part of <a, b> over the last two axes, ``(..., 1, 1)``: imaginary parts are rounding, as B is Hermitian."""
    return (a.conj() * b).real.sum((-2, -1), keepdim=True)


def _ratio(numerator: Tensor, denominator: Tensor, active: Tensor) -> Tensor:
    """The quotient where ``active`` and the denominator is positive, else 0, without a NaN in its gradient either."""
    usable = active & (denominator > 0)
    return torch.where(usable, numerator / torch.where(usable, denominator, 1), 0)
