"""Image quality as the evaluation protocol defines it: magnitudes against the ground truth, peak = max|truth|.

No min–max scaling, which would hide an intensity error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from pass_recon.types import Box, InputError

LEAST_REGION, REGION_MARGIN = 16, 4
Region = tuple[slice, slice]


@dataclass(frozen=True)
class Quality:
    """PSNR in dB, SSIM and NMSE of an image or of a region of it."""

    psnr: float
    ssim: float
    nmse: float


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
    return _ssim(*_magnitudes(image, truth))[0]


def lesion_region(
    box: Box, shape: tuple[int, int], *, least: int = LEAST_REGION, margin: int = REGION_MARGIN
) -> Region:
    """Where quality around a lesion is measured: its box grown around its centre, padded, and cut at the image's edges.

    Parameters
    ----------
    box
        The lesion.
    shape
        ``(ro, pe)`` of the image.
    least
        Size to which a smaller box grows, on each axis by itself.
    margin
        Pixels added on each side after that.

    Raises
    ------
    InputError
        If the box lies outside the image.
    """
    axes = ((box.readout, box.readout_size, shape[0]), (box.phase, box.phase_size, shape[1]))
    if any(first >= length or first + size <= 0 or size < 1 for first, size, length in axes):
        raise InputError(f"{box} lies outside an image of {shape[0]}×{shape[1]} pixels")
    grown = []
    for first, size, length in axes:
        missing = max(least - size, 0)
        # Of an odd number of missing pixels the one over goes below.
        start, stop = first - (missing + 1) // 2 - margin, first + size + missing // 2 + margin
        grown.append(slice(max(start, 0), min(stop, length)))
    return grown[0], grown[1]


def qualities(image: NDArray, truth: NDArray, regions: Sequence[Region] = ()) -> tuple[Quality, ...]:
    """Quality of a whole image, then of each region, ``(ro, pe)`` arrays.

    Peak and data range of the regions are those of the whole truth; their SSIM is the mean of the SSIM map inside.
    """
    image, truth = _magnitudes(image, truth)
    peak = truth.max()
    mean_ssim, ssim_map = _ssim(image, truth)
    whole = Quality(psnr(image, truth), mean_ssim, nmse(image, truth))
    return whole, *(_inside(image[region], truth[region], ssim_map[region], peak) for region in regions)


def _ssim(image: NDArray, truth: NDArray) -> tuple[float, NDArray]:
    """The mean, without the outermost pixels whose windows leave the image, and the map with them."""
    if image.ndim != 2 or min(image.shape) < 7:
        raise InputError(f"SSIM needs two images of at least 7×7 pixels, got shape {image.shape}")
    mean, similarity = structural_similarity(truth, image, data_range=truth.max(), full=True)
    return float(mean), similarity


def _inside(image: NDArray, truth: NDArray, ssim_map: NDArray, peak: float) -> Quality:
    squares = (image - truth) ** 2
    error, energy = squares.mean(), (truth**2).mean()
    return Quality(
        psnr=float(10 * np.log10(peak**2 / error)) if error > 0 else float("inf"),
        ssim=float(ssim_map.mean()),
        nmse=float(error / energy) if energy > 0 else float("inf"),
    )


def _magnitudes(image: NDArray, truth: NDArray) -> tuple[NDArray, NDArray]:
    image, truth = np.abs(np.asarray(image)).astype(np.float64), np.abs(np.asarray(truth)).astype(np.float64)
    if image.shape != truth.shape:
        raise InputError(f"image of shape {image.shape} and ground truth of shape {truth.shape} differ")
    if not truth.any():
        raise InputError("the ground truth is zero everywhere")
    return image, truth
