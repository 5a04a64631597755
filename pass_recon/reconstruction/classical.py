"""Reconstructions that need no training. CG-SENSE is what the scanner falls back to when the networks fail."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pass_recon.physics.encoding import SenseOperator
from pass_recon.physics.fourier import ifft2c
from pass_recon.physics.noise import noise_level
from pass_recon.physics.solvers import conjugate_gradient

# λ = 16 σ² at a prior of 1, and a prior of at least 0.15. On simulated heads and a knee, σ 0.005 and 0.015, equispaced,
# variable-density and learned lines at 4× and 8×, λ = 8 σ² and 32 σ² and floors of 0.1 and 0.2 were within 1 dB of it,
# nearly all within 0.3.
_REGULARISATION_BY_VARIANCE = 16.0
_LEAST_REGULARISATION = 1e-5
_LEAST_PRIOR = 0.15
_SMOOTHED_OVER = 7
# On measured k-space of a head 0.001 gains less, 0.01 loses at 3×; simulated phases, which are smooth, would bear 0.05.
_PHASE_WEIGHT = 0.003
_ONE_SIDED = 0.85
_LEAST_WIDTH = 4


def root_sum_of_squares(kspace: Tensor) -> Tensor:
    """``√Σ|F⁻¹k|²`` over the coils of ``(..., coils, ro, pe)``; needs no coil maps. Returns ``(..., ro, pe)`` float."""
    images = ifft2c(kspace)
    # Seven times as fast on a CPU as torch's norm along an axis that is not the last.
    return (images.real.square() + images.imag.square()).sum(-3).sqrt()


def zero_filled(kspace: Tensor, coil_maps: Tensor, line_mask: Tensor) -> Tensor:
    """``Aᴴ k``: the coil-combined image ``(..., ro, pe)`` with missing lines left at zero."""
    return SenseOperator(coil_maps, line_mask).adjoint(kspace)


def magnitude_prior(image: Tensor) -> Tensor:
    """Magnitude to expect relative to bright tissue, from a low-resolution image (Lin et al., MRM 51:559, 2004).

    Parameters
    ----------
    image
        ``(..., ro, pe)`` complex, of the ACS.

    Returns
    -------
    Tensor
        ``(..., ro, pe)`` float from 0.15 to 1: what is dark at low resolution may still hold detail.
    """
    magnitude = image.abs()
    shown = torch.where(magnitude > 0.1 * magnitude.amax((-2, -1), keepdim=True), magnitude, torch.nan)
    bright = shown.flatten(-2).nanquantile(0.9, dim=-1).nan_to_num(1.0).clamp(min=1e-20)[..., None, None]
    relative = (magnitude / bright).clamp(_LEAST_PRIOR, 1.0)
    planes = relative.reshape(-1, 1, *relative.shape[-2:])
    smooth = functional.avg_pool2d(
        planes, _SMOOTHED_OVER, stride=1, padding=_SMOOTHED_OVER // 2, count_include_pad=False
    )
    return smooth.reshape(magnitude.shape)


def cg_sense(
    kspace: Tensor,
    coil_maps: Tensor,
    line_mask: Tensor,
    *,
    prior: Tensor | None = None,
    phase: Tensor | None = None,
    regularisation: float | None = None,
    iterations: int = 30,
    tolerance: float = 1e-4,
) -> Tensor:
    """``(1 + λ/p²) · argmin_x ‖A x − k‖² + λ‖x/p‖²`` by conjugate gradients (Pruessmann et al., MRM 46:638, 2001).

    With a phase φ, ``μ‖Im(e^{-iφ} x/p)‖²`` is added (Bydder and Robson, MRM 53:1393, 2005): an image of known phase has
    a symmetric k-space, so that lines on one side of the centre stand for those that are missing on the other.

    It is solved for ``y = x/p``. The factor makes up for what the penalty takes away: where everything was sampled,
    ``Aᴴ k`` comes back exactly.

    Parameters
    ----------
    kspace
        ``(..., coils, ro, pe)`` complex64 with an image peak of about 1; lines outside the mask are ignored.
    coil_maps
        ``(..., coils, ro, pe)`` with ``Σ|S|² = 1`` on their support.
    line_mask
        ``(..., pe)`` bool.
    prior
        p, ``(..., ro, pe)``: the magnitude expected of each pixel, as from `magnitude_prior`; by default 1 everywhere.
        It keeps what folds over out of the air and of dark tissue, which is worth 0.2 to 3 dB.
    phase
        φ, ``(..., ro, pe)`` in rad, as from `low_resolution_phase`.
    regularisation
        λ; by default by the noise level: more blurs what little noise would have spared, less amplifies much noise.
    iterations
        At most so many.
    tolerance
        Stop once the residual has fallen to this fraction of ``‖Aᴴk‖``.

    Returns
    -------
    Tensor
        ``(..., ro, pe)`` complex64.
    """
    operator = SenseOperator(coil_maps, line_mask, fast=not torch.is_grad_enabled())
    expected: float | Tensor = 1.0 if prior is None else prior
    weight: float | Tensor = (
        (_REGULARISATION_BY_VARIANCE * noise_level(kspace, line_mask).square()).clamp(min=_LEAST_REGULARISATION)
        if regularisation is None
        else regularisation
    )

    def normal(image: Tensor) -> Tensor:
        return expected * operator.normal(expected * image) + weight * image

    def normal_with_phase(image: Tensor) -> Tensor:
        # Im(e^{-iφ} x) is linear in real and imaginary part, which is all that the inner products of CG look at.
        return normal(image) + _PHASE_WEIGHT / 2 * (image - twice * image.conj())

    twice = 1.0 if phase is None else torch.polar(torch.ones_like(phase), 2 * phase)
    relative = conjugate_gradient(
        normal if phase is None else normal_with_phase,
        expected * operator.adjoint(kspace),
        iterations=iterations,
        tolerance=tolerance,
    )
    return (expected + weight / expected) * relative


def low_resolution_phase(kspace: Tensor, coil_maps: Tensor, line_mask: Tensor, width: int) -> Tensor | None:
    """Phase φ for `cg_sense`, where the lines favour one side of k-space; None where they do not.

    Partial Fourier is such a choice, and so are lines that were learned: networks, too, find that an image whose phase
    is known needs one side only. Where both sides are sampled alike there is little to gain, and on measured k-space of
    high acceleration something to lose.

    Parameters
    ----------
    kspace, coil_maps
        As in `cg_sense`.
    line_mask
        ``(pe,)`` bool.
    width
        Number of lines around the centre that were all acquired; the phase has their resolution.

    Returns
    -------
    Tensor or None
        ``(..., ro, pe)`` in rad.
    """
    pe = line_mask.shape[-1]
    offset = torch.arange(pe, device=line_mask.device) - pe // 2
    sides = [int((line_mask & side).sum()) for side in (offset < 0, offset > 0)]
    if width < _LEAST_WIDTH or min(sides) > _ONE_SIDED * max(sides):
        return None
    window = torch.cos(math.pi * (offset / (width + 1)).clamp(-0.5, 0.5)).square()
    return zero_filled(kspace * window, coil_maps, line_mask & (window > 0)).angle()


def l1_wavelet(
    kspace: Tensor, coil_maps: Tensor, line_mask: Tensor, *, regularisation: float, iterations: int = 100
) -> Tensor:
    """``argmin_x ½‖A x − k‖² + λ‖Ψ x‖₁`` by sigpy (Lustig et al., MRM 58:1182, 2007), one slice at a time.

    Parameters
    ----------
    kspace, coil_maps
        ``(coils, ro, pe)`` complex64.
    line_mask
        ``(pe,)`` bool.
    regularisation
        λ, relative to the units of ``kspace``.
    iterations
        Of the accelerated proximal gradient method.

    Returns
    -------
    Tensor
        ``(ro, pe)`` complex64 on the CPU.
    """
    from sigpy.mri.app import L1WaveletRecon  # takes seconds to import, which a scanner must not wait for

    mask = line_mask.cpu().numpy()
    weights = np.broadcast_to(mask, kspace.shape[-2:]).astype(np.float32)
    image = L1WaveletRecon(
        kspace.cpu().numpy() * mask,
        coil_maps.cpu().numpy(),
        regularisation,
        weights=weights,
        max_iter=iterations,
        show_pbar=False,
    ).run()
    return torch.from_numpy(np.asarray(image, dtype=np.complex64))
