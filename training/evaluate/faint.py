"""Faint blobs: how much of their contrast comes back, and how well they stand out from what is wrong with the image.

The slice is scanned with and without painted blobs, on the same lines with the same noise. Recovery is
⟨with − without, blob⟩ / ⟨blob, blob⟩. A matched observer knows a blob's shape and asks whether it is there: its answer
t = ⟨image − truth without blob, blob⟩ has the mean ⟨with − without, blob⟩ where the blob is, and scatters as it does
over the places of the body where none is. Their ratio is its detectability d′ (Barrett and Myers, Foundations of Image
Science, 2004, 13.2), with noise, aliasing and blur of this reconstruction as the background. All of magnitudes, since
estimated coil maps leave the phase open.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pass_recon.physics.fourier import fft2c
from training.data.dataset import Slices
from training.data.painted_blobs import Blobs, draw_blobs

COUNT = 12
RADII = ((1.5, 2.5), (2.5, 4.5), (4.5, 7.0))
CONTRASTS = ((0.03, 0.06), (0.06, 0.12))
_BODY = 0.12  # of the peak: what is brighter belongs to the body
_LEAST = 0.5  # of what was meant: a blob that lies on others, or on black, is not what its numbers say


def paint(slices: Slices, seed: int) -> tuple[Blobs, Tensor]:
    """Blobs for one slice, and the k-space ``(coils, ro, pe)`` that they add.

    Parameters
    ----------
    slices
        One slice with its true coil maps.
    seed
        The same blobs for the same seed on every device.
    """
    image = slices.image.cpu()
    peak = image.abs().max()
    blobs = draw_blobs((image.abs() / peak)[None], COUNT, torch.Generator().manual_seed(seed % 2**63))
    change = peak * blobs.change[0] * torch.polar(torch.ones_like(image.real), image.angle())
    return blobs, fft2c(slices.coil_maps * change.to(slices.coil_maps.device))


def measured(with_blobs: NDArray, without: NDArray, truth: NDArray, blobs: Blobs) -> list[list[float]]:
    """Radius, contrast, recovery and d′ of each blob that can be measured.

    Parameters
    ----------
    with_blobs, without
        ``(ro, pe)`` magnitudes of the reconstructions.
    truth
        ``(ro, pe)`` magnitude without blobs.
    blobs
        What was painted into it; contrasts are fractions of the truth's peak.
    """
    peak = truth.max()
    body = truth > _BODY * peak
    change, number = blobs.change[0].numpy(), blobs.number[0].numpy()
    difference, error = (with_blobs - without) / peak, np.fft.rfft2((without - truth) / peak)
    found = []
    for index, radius in enumerate(blobs.radius[0].tolist(), start=1):
        blob = np.where(number == index, change, 0.0)
        energy, contrast = float((blob**2).sum()), float(np.abs(blob).max())
        if contrast < _LEAST * CONTRASTS[0][0] or (number == index).sum() < _LEAST * np.pi * radius**2:
            continue
        answer = float((difference * blob).sum())
        # The observer's answers with the blob's middle at every pixel of the body.
        scatter = np.fft.irfft2(error * np.conj(np.fft.rfft2(_centred(blob))), s=blob.shape)[body]
        found.append([round(float(value), 5) for value in (radius, contrast, answer / energy, answer / scatter.std())])
    return found


def _centred(blob: NDArray) -> NDArray:
    """The blob with its middle at the first pixel."""
    places = np.argwhere(blob != 0)
    middle = np.rint(places.mean(0)).astype(int)
    rolled: NDArray = np.roll(blob, (-middle[0], -middle[1]), (0, 1))
    return rolled
