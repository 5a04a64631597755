"""Image quality as the evaluation protocol defines it: magnitudes against the ground truth, peak = max|truth|.

No min–max scaling, which would hide an intensity error.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from pass_recon.types import InputError


def nrmse(image: NDArray, truth: NDArray) -> float:
    """``‖|image| − |truth|‖ / ‖truth‖`` of two arrays of one shape."""
    image, truth = _magnitudes(image, truth)
    return float(np.linalg.norm(image - truth) / np.linalg.norm(truth))


def nmse(image: NDArray, truth: NDArray) -> float:
    """``‖|image| − |truth|‖² / ‖truth‖²`` of two arrays of one shape."""
    return nrmse(image, truth) ** 2


def psnr(image: NDArray, truth: NDArray) -> float:
    """``20 log₁₀(max|truth| / root mean square error)`` in dB of two arrays of one shape."""
    image, truth = _magnitudes(image, truth)
    error = np.sqrt(np.mean((image - truth) ** 2))
    return float(20 * np.log10(truth.max() / error)) if error > 0 else float("inf")


def ssim(image: NDArray, truth: NDArray) -> float:
    """Structural similarity of two ``(ro, pe)`` images (scikit-image, 7×7 window, data range max|truth|)."""
    image, truth = _magnitudes(image, truth)
    if image.ndim != 2 or min(image.shape) < 7:
        raise InputError(f"SSIM needs two images of at least 7×7 pixels, got shape {image.shape}")
    return float(structural_similarity(truth, image, data_range=truth.max()))


def _magnitudes(image: NDArray, truth: NDArray) -> tuple[NDArray, NDArray]:
    image, truth = np.abs(np.asarray(image)).astype(np.float64), np.abs(np.asarray(truth)).astype(np.float64)
    if image.shape != truth.shape:
        raise InputError(f"image of shape {image.shape} and ground truth of shape {truth.shape} differ")
    if not truth.any():
        raise InputError("the ground truth is zero everywhere")
    return image, truth
