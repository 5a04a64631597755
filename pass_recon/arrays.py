"""What callers hand over as arrays: of numpy or torch, of any precision, checked and brought to one form."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pass_recon.types import InputError


def kspace_of_acs(
    acs: ArrayLike, acs_lines: ArrayLike, shape: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """K-space that holds the ACS and nothing else, and the mask of its lines.

    Parameters
    ----------
    acs
        ``(coils, ro, n_acs)`` complex.
    acs_lines
        Where these lines belong: ``n_acs`` indices, or a mask ``(pe,)``.
    shape
        ``(ro, pe)`` of the full grid.
    device
        Where to.

    Returns
    -------
    tuple
        ``(coils, ro, pe)`` complex64 on the device, and ``(pe,)`` bool on the CPU.

    Raises
    ------
    InputError
        If shapes do not go together, a line lies outside the grid, a sample is not finite, or they are not complex.
    """
    data = _finite(acs, device)
    indices = np.asarray(acs_lines)
    if indices.dtype == bool:
        indices = indices.nonzero()[0]
    if data.ndim != 3 or data.shape[1:] != (shape[0], len(indices)):
        raise InputError(
            f"ACS of shape {tuple(data.shape)} is not (coils, {shape[0]}, {len(indices)}), what grid and lines say"
        )
    if not all(0 <= index < shape[1] for index in indices):
        raise InputError(f"ACS lines {indices.min()} to {indices.max()} do not lie within {shape[1]} lines")
    grid, lines = data.new_zeros(data.shape[0], *shape), torch.zeros(shape[1], dtype=torch.bool)
    grid[..., torch.as_tensor(indices)] = data
    lines[torch.as_tensor(indices)] = True
    return grid, lines


def masked_kspace(kspace: ArrayLike, line_mask: ArrayLike, device: torch.device) -> tuple[Tensor, Tensor]:
    """K-space with zeros outside the mask, and the mask.

    Parameters
    ----------
    kspace
        ``([slices,] coils, ro, pe)`` complex.
    line_mask
        ``(pe,)`` bool.
    device
        Where to.

    Returns
    -------
    tuple
        ``(slices, coils, ro, pe)`` complex64 and ``(pe,)`` bool, both on the device.

    Raises
    ------
    InputError
        If shapes do not go together, a sample is not finite, or they are not complex.
    """
    data, mask = _finite(kspace, device), torch.as_tensor(np.asarray(line_mask), device=device)
    if data.ndim not in (3, 4):
        raise InputError(f"k-space must be ([slices,] coils, ro, pe), got shape {tuple(data.shape)}")
    if mask.dtype != torch.bool or mask.shape != data.shape[-1:]:
        raise InputError(
            f"the line mask must be bool of shape ({data.shape[-1]},), got {mask.dtype} {tuple(mask.shape)}"
        )
    return _with_slices(data * mask), mask


def slices_of(kspace: ArrayLike, device: torch.device) -> Tensor:
    """``(slices, coils, ro, pe)`` complex64 of one slice or several; raises InputError if they are no such."""
    return _with_slices(_finite(kspace, device))


def maps_of(coil_maps: ArrayLike, kspace: Tensor) -> Tensor:
    """Coil maps ``([slices,] coils, ro, pe)`` beside k-space ``(slices, coils, ro, pe)``, as complex64 where that is.

    Raises
    ------
    InputError
        If they differ in shape.
    """
    maps = _with_slices(torch.as_tensor(coil_maps).to(kspace.device, torch.complex64))
    if maps.shape != kspace.shape:
        raise InputError(f"coil maps {tuple(maps.shape)} and k-space {tuple(kspace.shape)} differ in shape")
    return maps


def _with_slices(array: Tensor) -> Tensor:
    return array if array.ndim == 4 else array[None]


def _finite(array: ArrayLike, device: torch.device) -> Tensor:
    data = torch.as_tensor(array)
    if not data.is_complex():
        raise InputError(f"the k-space must be complex, got {data.dtype}")
    data = data.to(device, torch.complex64)
    if not torch.isfinite(torch.view_as_real(data)).all():
        raise InputError("the k-space holds NaN or infinity")
    return data
