"""A small smooth object seen by coils from sigpy: not from the simulator of this project, which has its own tests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import sigpy
import sigpy.mri
import torch
from torch import Tensor


class CoilPhantom(NamedTuple):
    """``image`` and ``inside`` ``(ro, pe)``, ``coil_maps`` (sum of squares 1) and ``kspace`` ``(coils, ro, pe)``."""

    image: Tensor
    inside: Tensor
    coil_maps: Tensor
    kspace: Tensor


def coil_phantom(coils: int, shape: tuple[int, int], noise: float = 0.0, seed: int = 0) -> CoilPhantom:
    """An ellipse with a dark and a bright spot and a smooth phase, peak 1; ``noise`` is E|n|² to the power ½."""
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = (rows / 0.85) ** 2 + (columns / 0.75) ** 2 < 1
    image = 0.7 * inside
    image[(rows / 0.3) ** 2 + ((columns - 0.2) / 0.2) ** 2 < 1] = 0.2
    image[((rows + 0.3) / 0.2) ** 2 + ((columns + 0.3) / 0.15) ** 2 < 1] = 1
    image = image * np.exp(1j * (1.5 * columns + rows**2))
    maps = sigpy.mri.birdcage_maps((coils, *shape))
    maps = maps / np.sqrt(np.sum(np.abs(maps) ** 2, axis=0))
    generator = np.random.default_rng(seed)
    kspace = sigpy.fft(image * maps, axes=(-2, -1))
    random = generator.normal(size=kspace.shape) + 1j * generator.normal(size=kspace.shape)
    kspace = kspace + noise / np.sqrt(2) * random
    return CoilPhantom(
        torch.from_numpy(image.astype(np.complex64)),
        torch.from_numpy(inside),
        torch.from_numpy(maps.astype(np.complex64)),
        torch.from_numpy(kspace.astype(np.complex64)),
    )
