"""Centred orthonormal Fourier transforms: index ``n // 2`` is the origin of image and k-space, for any size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from pass_recon.types import InputError


def as_complex(x: Tensor) -> Tensor:
    """Complex numbers of at least single precision.

    Parameters
    ----------
    x
        Real or complex tensor of any shape. Half precision, which a network under autocast returns, becomes complex64:
        neither a Fourier transform nor conjugate gradients survive ten bits of mantissa.

    Returns
    -------
    ``x`` itself where it is complex64 or complex128, a converted copy otherwise.
    """
    if x.dtype in (torch.complex64, torch.complex128):
        return x
    return x.to(torch.complex128 if x.dtype == torch.float64 else torch.complex64)


def power(x: Tensor) -> Tensor:
    """``|x|²`` of a complex tensor: a third of the time of ``x.abs().square()``, which takes a root first."""
    return (x * x.conj()).real


def fft2c(x: Tensor) -> Tensor:
    r"""Centred orthonormal Fourier transform over the last two axes, image to k-space.

    .. math:: X_{uv} = \frac{1}{\sqrt{nm}} \sum_{jk} x_{jk}\, e^{-2\pi i\,[(u-c_n)(j-c_n)/n + (v-c_m)(k-c_m)/m]},
              \quad c_n = \lfloor n/2 \rfloor

    Parameters
    ----------
    x
        ``(..., ro, pe)`` real or complex.

    Returns
    -------
    ``(..., ro, pe)`` complex.
    """
    return _centred(torch.fft.fft2, x, 1)


def ifft2c(x: Tensor) -> Tensor:
    """Inverse and adjoint of `fft2c`: ``(..., ro, pe)`` k-space to ``(..., ro, pe)`` image."""
    return _centred(torch.fft.ifft2, x, -1)


def fft1c(x: Tensor, dim: int) -> Tensor:
    """Centred orthonormal Fourier transform of ``x`` (any shape) over the one axis ``dim``."""
    x = torch.fft.ifftshift(as_complex(x), dim=dim)
    return torch.fft.fftshift(torch.fft.fft(x, dim=dim, norm="ortho"), dim=dim)


def ifft1c(x: Tensor, dim: int) -> Tensor:
    """Inverse and adjoint of `fft1c`."""
    x = torch.fft.ifftshift(as_complex(x), dim=dim)
    return torch.fft.fftshift(torch.fft.ifft(x, dim=dim, norm="ortho"), dim=dim)


def resize_centre(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Crop or zero-pad the last ``len(shape)`` axes so that index ``n // 2`` stays at index ``n // 2``.

    Parameters
    ----------
    x
        ``(..., n_1, ..., n_k)``.
    shape
        The new sizes of the last k axes, each at least 1.

    Returns
    -------
    ``(..., *shape)``; a view of ``x`` where nothing is padded.

    Raises
    ------
    InputError
        If ``x`` has fewer axes than ``shape`` or a size is below 1.
    """
    if len(shape) > x.ndim or min(shape, default=1) < 1:
        raise InputError(f"cannot resize the last {len(shape)} axes of {tuple(x.shape)} to {tuple(shape)}")
    before_and_after: list[int] = []
    for axis, size in enumerate(shape, start=x.ndim - len(shape)):
        before = size // 2 - x.shape[axis] // 2
        x = x.narrow(axis, max(-before, 0), min(size, x.shape[axis]))
        before = max(before, 0)
        before_and_after = [before, size - x.shape[axis] - before, *before_and_after]
    return pad(x, before_and_after) if any(before_and_after) else x


def _centred(transform: Callable[..., Tensor], x: Tensor, sign: int) -> Tensor:
    # A shift before a Fourier transform is a phase after it, and the other way round. Two phases read and write the
    # coil images twice, the usual four rolls (two axes, before and after) four times.
    x = as_complex(x)
    ro, pe = x.shape[-2:]
    before = centring_phases(ro, 0, sign, x)[:, None] * centring_phases(pe, 0, sign, x)
    after = centring_phases(ro, ro // 2, sign, x)[:, None] * centring_phases(pe, pe // 2, sign, x)
    return transform(x * before, norm="ortho") * after


def centring_phases(size: int, origin: int, sign: int, like: Tensor) -> Tensor:
    """``(size,)``: exp(± 2πi c (j - origin) / size) with c = size // 2; plus and minus ones for even sizes.

    Those of origin 0 before and those of origin c after a transform of this sign make it a centred one.
    """
    # The remainder is taken of whole numbers, so that no precision is lost in large angles.
    steps = (size // 2 * (torch.arange(size, device=like.device) - origin)) % size
    angles = steps.to(torch.float64) * (sign * 2 * math.pi / size)
    return torch.polar(torch.ones_like(angles), angles).to(like.dtype)
