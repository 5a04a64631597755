"""What is known of the receive coils: whitening by their noise, fewer virtual coils, and their sensitivity maps."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from pass_recon.physics.eigenvectors import leading_eigenvectors
from pass_recon.physics.fourier import as_complex, fft1c, ifft1c, resize_centre
from pass_recon.types import InputError

# Points along an axis at which eigenvectors are computed, for each spatial frequency that H(q) holds, and at least;
# between them they are interpolated.
_POINTS_PER_FREQUENCY = 4
_LEAST_POINTS = 64
# Matrices that take values from one grid to another; scans come in few sizes.
_MATRICES_KEPT = 32
# Newton-Schulz steps towards the sign of a matrix: after nine, what lies 3 % off the threshold counts for 0.9 or more.
_SIGN_STEPS = 9


def noise_scale(dwell_us: float, noise_dwell_us: float, bandwidth_ratio: float = 0.793) -> float:
    r"""Factor that turns noise whitened to variance 1 into unit variance of each of real and imaginary part.

    .. math:: \sqrt{2\, \frac{t_\text{imaging}}{t_\text{noise}}\, r}

    Parameters
    ----------
    dwell_us, noise_dwell_us
        Time between samples of the imaging and of the noise scan in µs. Where either is 0, that is unknown, the factor
        is 1, as in Gadgetron.
    bandwidth_ratio
        r: bandwidth of the noise relative to 1 / dwell, ``relativeReceiverNoiseBandwidth`` of the MRD header.
    """
    if dwell_us == 0 or noise_dwell_us == 0:
        return 1.0
    return math.sqrt(2 * dwell_us / noise_dwell_us * bandwidth_ratio)


def whitening_matrix(
    noise: Tensor, *, noise_dwell_us: float = 0.0, dwell_us: float = 0.0, bandwidth_ratio: float = 0.793
) -> Tensor:
    r"""Matrix W that makes the noise of all coils independent and equal, as Gadgetron's NoiseAdjustGadget does.

    .. math:: W = s\, L^{-1}, \quad L L^H = \frac{1}{N - 1} \sum_t n_t n_t^H, \quad s = \sqrt{2\, r\,
              t_\text{imaging} / t_\text{noise}}

    Parameters
    ----------
    noise
        ``(coils, samples)`` complex, a scan without excitation.
    noise_dwell_us, dwell_us, bandwidth_ratio
        As in `noise_scale`; the dwell times as the scanner sampled, before oversampling is removed.

    Returns
    -------
    ``(coils, coils)`` lower triangular, in the precision of ``noise``. Of imaging data whitened with it, the noise has
    variance 1 in the real and in the imaginary part (1 in both together where a dwell time is unknown).

    Raises
    ------
    InputError
        If the noise is not ``(coils, samples)``, is not finite, or does not determine all coils: fewer samples than
        coils, a coil that is silent or a copy of others.
    """
    if noise.ndim != 2:
        raise InputError(f"noise must be (coils, samples), got shape {tuple(noise.shape)}")
    coils, samples = noise.shape
    if samples <= coils:
        raise InputError(f"{samples} noise samples do not determine the covariance of {coils} coils")
    if not torch.isfinite(noise).all():
        raise InputError("the noise scan holds NaN or infinity")
    wide = noise.to(torch.complex128)
    # Scaled to unit variance first, so that a coil of low gain does not pass for a linear combination of others.
    deviation = wide.abs().square().sum(1).div(samples - 1).sqrt()
    if (deviation == 0).any():
        silent = (deviation == 0).nonzero().flatten().tolist()
        raise InputError(f"the noise of coils {silent} is zero throughout")
    unit = wide / deviation[:, None]
    factor, failed = torch.linalg.cholesky_ex(unit @ unit.mH / (samples - 1))
    if failed or factor.diagonal().real.min() < 1e-6:
        raise InputError("the noise of some coils is a linear combination of that of others")
    inverse = torch.linalg.solve_triangular(factor, torch.diag(1 / deviation).to(factor), upper=False)
    return (noise_scale(dwell_us, noise_dwell_us, bandwidth_ratio) * inverse).to(as_complex(noise).dtype)


def whiten(data: Tensor, matrix: Tensor) -> Tensor:
    """Apply a ``(rows, coils)`` matrix to the first axis of ``data``, ``(coils, ...)`` to ``(rows, ...)``.

    Raises
    ------
    InputError
        If the number of coils differs.
    """
    if data.shape[0] != matrix.shape[1]:
        raise InputError(f"the data has {data.shape[0]} coils, the whitening matrix is for {matrix.shape[1]}")
    return torch.tensordot(matrix, as_complex(data), dims=1)


def compress_coils(kspace: Tensor, coils: int) -> tuple[Tensor, Tensor]:
    r"""Combine the coils into fewer virtual ones that keep most energy: the first principal components.

    .. math:: \max_V \|V y\|^2 \quad \text{subject to} \quad V V^H = 1

    Parameters
    ----------
    kspace
        ``(..., coils, ro, pe)``, whitened, so that energy that is kept is signal. Each item has its own matrix.
    coils
        Number of virtual coils.

    Returns
    -------
    ``(..., virtual, ro, pe)`` k-space and ``(..., virtual, coils)`` matrix V; its rows are orthonormal and ordered by
    falling energy. V does the same to another k-space or to coil maps.

    Raises
    ------
    InputError
        If there are fewer coils than asked for.

    References
    ----------
    Huang et al., A software channel compression technique for faster reconstruction with many channels, Magn Reson
    Imaging 26 (2008).
    """
    if not 1 <= coils <= kspace.shape[-3]:
        raise InputError(f"cannot compress {kspace.shape[-3]} coils to {coils}")
    kspace = as_complex(kspace)
    matrix = _principal_coils(kspace)[..., :coils, :]
    return (matrix @ kspace.flatten(-2)).unflatten(-1, kspace.shape[-2:]), matrix


@torch.no_grad()
def espirit_maps(
    kspace: Tensor,
    calibration_width: int | tuple[int, int],
    *,
    sets: int = 1,
    kernel_width: int = 6,
    threshold: float = 0.02,
    crop: float = 0.95,
    gap: int = 0,
) -> Tensor:
    r"""Coil sensitivity maps from the centre of k-space by ESPIRiT.

    .. math:: H(q)\, s(q) = \lambda(q)\, s(q), \quad
              H(q) = \frac{1}{k^2} \sum_j v_j(q)\, v_j(q)^H

    where the :math:`v_j(q)` are the Fourier transforms of the kernels that span all patches of the calibration region,
    one number a coil. Pixels with signal have :math:`\lambda = 1`.

    Parameters
    ----------
    kspace
        ``(..., coils, ro, pe)`` on the full grid, sampled at least in the calibration region. Axes before the coils are
        a batch.
    calibration_width
        Number of centred lines and of readout samples to use, or ``(ro, pe)``. With few lines a wider readout, 24, say,
        makes better maps.
    sets
        Number of maps a pixel: 2 for soft-SENSE, where the object folds over the field of view.
    kernel_width
        Size of the patches, less along an axis where the region is narrower than 14.
    threshold
        Kernels with a singular value below ``threshold`` times the largest are noise (sigpy 0.02, BART 0.032).
    crop
        Maps are zero where the eigenvalue is not above this. 0.95 as in sigpy: the 0.8 of BART keeps more air around
        the object, and the more pixels there are to explain the lines by, the worse CG-SENSE separates them.

    Returns
    -------
    ``(..., coils, ro, pe)``, or ``(..., sets, coils, ro, pe)`` if ``sets`` > 1. On the support :math:`\sum_c |S_c|^2 =
    1`, and the phase is such that the first principal component of the coils in the calibration region sees a real
    positive sensitivity (as in BART). No gradient.

    Raises
    ------
    InputError
        If the region exceeds the grid or is not finite, if an axis is missing, or if there are more sets than coils.

    References
    ----------
    Uecker et al., ESPIRiT - an eigenvalue approach to autocalibrating parallel MRI, Magn Reson Med 71 (2014).

    Notes
    -----
    H(q) holds only spatial frequencies below k, so that it is computed on a grid of (2k − 1)² pixels and interpolated
    exactly. Its first eigenvectors come from a Chebyshev filter instead of a decomposition, and only on a grid four
    times as fine as H(q) needs: in their common phase they are smooth, and cubic interpolation gives the other pixels.
    """
    if kspace.ndim < 3:
        raise InputError(f"k-space must be (..., coils, ro, pe), got shape {tuple(kspace.shape)}")
    width = (calibration_width,) * 2 if isinstance(calibration_width, int) else tuple(calibration_width)
    batch, (coils, ro, pe) = kspace.shape[:-3], kspace.shape[-3:]
    shape = [ro + gap, pe]
    if min(width) < 1 or width[0] > shape[0] or width[1] > shape[1]:
        raise InputError(f"a calibration region of {width} does not fit k-space of {tuple(shape)}")
    if not 1 <= sets <= coils:
        raise InputError(f"cannot find {sets} sets of maps for {coils} coils")
    calibration = as_complex(kspace)
    if gap:
        hybrid = ifft1c(resize_centre(calibration, (ro, width[1])), -2)
        calibration = fft1c(resize_centre(hybrid, (ro + gap, width[1])), -2)
    calibration = resize_centre(calibration, width).reshape(-1, coils, *width)
    if not torch.isfinite(calibration).all():
        raise InputError("the calibration region of k-space holds NaN or infinity")
    kernel = (_kernel_that_fits(kernel_width, width[0]), _kernel_that_fits(kernel_width, width[1]))
    covariance = _coarse_covariance(_signal_kernels(calibration, kernel, threshold))
    # Only the first eigenvector is smooth: where more are wanted, all pixels are computed.
    points = [
        size if sets > 1 else min(size, max(_LEAST_POINTS, _POINTS_PER_FREQUENCY * frequencies))
        for size, frequencies in zip(shape, covariance.shape[1:3], strict=True)
    ]
    to_rows, to_columns = (_interpolation(n, coarse) for n, coarse in zip(points, covariance.shape[1:3], strict=True))
    maps, eigenvalues = leading_eigenvectors(covariance, to_rows, to_columns, sets)
    # Any phase is a solution. That of the first virtual coil is smooth and close to that of the object.
    seen = _principal_coils(calibration)[:, None, :1] @ maps.flatten(-2)
    maps = maps * torch.polar(torch.ones_like(seen.real), -seen.angle()).unflatten(-1, maps.shape[-2:])
    if maps.shape[-2:] != (ro, pe):
        maps, eigenvalues = (_on_pixels(values, (ro, pe), shape[0]) for values in (maps, eigenvalues))
        norm = torch.view_as_real(maps).square().sum((-4, -1)).sqrt().unsqueeze(-3)
        maps = maps / torch.where(norm > 0, norm, 1)
    maps = maps * (eigenvalues > crop)
    return maps.reshape(*batch, *((sets,) if sets > 1 else ()), coils, ro, pe)


@torch.no_grad()
def espirit_eigenvalues(
    kspace: Tensor, calibration_width: int | tuple[int, int], *, kernel_width: int = 6, threshold: float = 0.02
) -> Tensor:
    """All eigenvalues of ESPIRiT's H(q) on the coarsest grid that determines it, without the maps.

    A pixel with one source of signal has one eigenvalue of 1, a pixel where two slices or a folded object lie on top of
    each other two.

    Parameters
    ----------
    kspace, calibration_width, kernel_width, threshold
        As in `espirit_maps`.

    Returns
    -------
    ``(..., coils, 2 k_ro − 1, 2 k_pe − 1)``, falling; the grid covers the field of view and starts at its centre.
    """
    width = (calibration_width,) * 2 if isinstance(calibration_width, int) else tuple(calibration_width)
    batch, coils = kspace.shape[:-3], kspace.shape[-3]
    calibration = resize_centre(as_complex(kspace), width).reshape(-1, coils, *width)
    kernel = (_kernel_that_fits(kernel_width, width[0]), _kernel_that_fits(kernel_width, width[1]))
    covariance = _coarse_covariance(_signal_kernels(calibration, kernel, threshold))
    values = torch.linalg.eigvalsh(covariance).flip(-1).movedim(-1, 1)
    return values.reshape(*batch, *values.shape[1:])


def _kernel_that_fits(kernel_width: int, region_width: int) -> int:
    """Two fifths of a narrow region: with fewer positions than that the kernels miss signal, and tissue is cropped."""
    return max(1, min(kernel_width, (2 * region_width + 2) // 5))


def _principal_coils(kspace: Tensor) -> Tensor:
    """``(..., coils, coils)``: principal components as rows by falling energy, the largest entry of each positive."""
    samples = kspace.flatten(-2).to(torch.complex128)
    rows = torch.linalg.eigh(samples @ samples.mH).eigenvectors.flip(-1).mH
    largest = rows.gather(-1, rows.abs().argmax(-1, keepdim=True))
    return (rows * (largest.conj() / largest.abs())).to(kspace.dtype)


def _signal_kernels(calibration: Tensor, kernel: tuple[int, int], threshold: float) -> Tensor:
    """Kernels whose products v vᴴ add up to the projection onto the signal among the patches of a region.

    ``(batch, coils, ro, pe)`` to ``(batch, kernels, coils, *kernel)``.
    """
    patches = calibration.unfold(-2, kernel[0], 1).unfold(-2, kernel[1], 1)
    patches = patches.movedim(1, 3).flatten(1, 2).flatten(2)
    tiny = torch.finfo(patches.real.dtype).tiny
    patches = patches / patches.abs().amax((-2, -1), keepdim=True).clamp(min=tiny)
    few = patches.shape[1] < patches.shape[2]  # the smaller Gram matrix has all singular values
    if patches.device.type != "cpu":
        return _without_decomposition(patches, threshold, few=few).unflatten(-1, (calibration.shape[1], *kernel))
    values, vectors = torch.linalg.eigh(patches @ patches.mH if few else patches.mT @ patches.conj())
    signal = (values > threshold**2 * values[:, -1:]) & (values > tiny)
    # Eigenvalues rise: of a batch, as many of the last as the slice with most signal needs.
    count = max(1, int(signal.sum(-1).max()))
    values, vectors, signal = values[:, -count:], vectors[..., -count:] * signal[:, None, -count:], signal[:, -count:]
    if few:
        vectors = vectors / torch.where(signal, values, 1).sqrt()[:, None]
        basis = vectors.mH @ patches
    else:
        basis = vectors.mT
    return basis.unflatten(-1, (calibration.shape[1], *kernel))


def _without_decomposition(patches: Tensor, threshold: float, *, few: bool) -> Tensor:
    """``(batch, kernels, patch)`` as `_signal_kernels`, by products of matrices alone: a GPU decomposes one by one.

    Only the projection onto the span of the kernels counts, and it is a sign of a matrix.
    """
    patches = patches / _largest_singular_value(patches).clamp(min=torch.finfo(patches.real.dtype).tiny)
    gram = patches @ patches.mH if few else patches.mT @ patches.conj()
    signal = _above(gram, threshold**2)
    if not few:
        return signal.mT
    # P (G + τ(1 − P))⁻¹ = P G⁻¹ is what stands between the patches: half of it on each side.
    rest = threshold**2 * (torch.eye(gram.shape[-1], device=gram.device) - signal)
    factor = torch.linalg.cholesky_ex(_hermitian(gram + rest)).L
    # A Gram matrix of zeros has no factor, and no kernel.
    factor = torch.where(
        factor.isfinite() & (gram.diagonal(dim1=-2, dim2=-1).real.sum(-1) > 0)[:, None, None], factor, 0
    )
    factor = factor + torch.diag_embed((factor.diagonal(dim1=-2, dim2=-1).real == 0).to(factor.dtype))
    return torch.linalg.solve_triangular(factor, signal @ patches, upper=False)


def _largest_singular_value(patches: Tensor) -> Tensor:
    """``(batch, 1, 1)`` by power iteration, which a gap between the first values helps and a tie does not harm."""
    vector = patches.abs().sum(-1, keepdim=True).to(patches.dtype)
    for _ in range(12):
        vector = patches @ (patches.mH @ vector)
        vector = vector / torch.linalg.vector_norm(vector, dim=-2, keepdim=True).clamp(min=1e-30)
    return torch.linalg.vector_norm(patches.mH @ vector, dim=-2, keepdim=True)


def _above(gram: Tensor, threshold: float) -> Tensor:
    """Projection ``(batch, n, n)`` onto those eigenvectors of a Gram matrix of norm 1 that pass a threshold.

    (G − τ)(G + τ)⁻¹ has eigenvalues between −1 and 1 of the right sign already; its products sharpen them.
    """
    unit = torch.eye(gram.shape[-1], device=gram.device, dtype=gram.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(gram + threshold * unit).L)
    sign = unit - 2 * threshold * inverse
    for _ in range(_SIGN_STEPS):
        sign = 1.5 * sign - 0.5 * (sign @ sign @ sign)
    return _hermitian(unit + sign) / 2


def _hermitian(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mH) / 2


def _coarse_covariance(kernels: Tensor) -> Tensor:
    """H(q) on the coarsest grid that determines it: ``(batch, 2 k_ro - 1, 2 k_pe - 1, coils, coils)``."""
    k_ro, k_pe = kernels.shape[-2:]
    images = torch.fft.ifft2(kernels, s=(2 * k_ro - 1, 2 * k_pe - 1), norm="forward").movedim((-2, -1), (1, 2))
    return images.mT @ images.conj() / (k_ro * k_pe)


@lru_cache(maxsize=_MATRICES_KEPT)
def _interpolation(points: int, coarse: int) -> Tensor:
    """``(points, coarse)`` trigonometric interpolation from a coarse grid that starts at the origin.

    The points are evenly spread over the field of view, from minus a half.
    """
    places = (torch.arange(points, dtype=torch.float64) - points // 2) / points
    angles = 2 * math.pi * (places[:, None] - torch.arange(coarse, dtype=torch.float64) / coarse)
    frequencies = torch.arange(-(coarse // 2), coarse // 2 + 1, dtype=torch.float64)
    return (frequencies * angles[..., None]).cos().mean(-1)


def _on_pixels(values: Tensor, shape: tuple[int, int], period: int) -> Tensor:
    """``(..., n_ro, n_pe)`` on even points, which span ``period`` rows, to ``(..., ro, pe)`` on pixels."""
    to_rows, to_columns = (
        _cubic(fine, coarse, whole).to(values.real.dtype).to(values.device)
        for fine, coarse, whole in zip(shape, values.shape[-2:], (period, shape[1]), strict=True)
    )
    if not values.is_complex():
        return to_rows @ values @ to_columns.mT
    parts = torch.view_as_real(values).movedim(-1, -3)
    return torch.view_as_complex((to_rows @ (parts @ to_columns.mT)).movedim(-3, -1).contiguous())


@lru_cache(maxsize=_MATRICES_KEPT)
def _cubic(fine: int, coarse: int, period: int) -> Tensor:
    """``(fine, coarse)`` cubic convolution (Keys 1981) of a function of this period in pixels."""
    places = (torch.arange(fine, dtype=torch.float64) - fine // 2) * (coarse / period) + coarse // 2
    apart = (places[:, None] - torch.arange(coarse) + coarse / 2).remainder(coarse) - coarse / 2
    x = apart.abs()
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
