"""The encoding operator of Cartesian parallel imaging with skipped phase-encoding lines."""

from __future__ import annotations

import torch
from torch import Tensor

from pass_recon.physics.fourier import as_complex, centring_phases, fft2c, ifft1c, ifft2c
from pass_recon.types import InputError

# Elements of coil images worked on at a time on a CPU: 0.5 MB each for the product, its spectrum and the way back stay
# in cache, and `normal` takes about half the time it takes on whole slices of 12 coils.
_BLOCK_ELEMENTS = 2**16

# Rows whose coils are combined alike, and the share of the maps' energy in them that this may cost.
_ROWS_ALIKE = 8
_NEGLIGIBLE = 2e-4
_FEW_COILS = 6


class SenseOperator:
    r"""A = M F S: image times coil maps, Fourier transform, only the acquired lines.

    .. math:: y_c = M\, F\, (S_c\, x)

    Parameters
    ----------
    coil_maps
        ``(..., coils, ro, pe)`` complex S, normally with :math:`\sum_c |S_c|^2 = 1` on its support.
    line_mask
        ``(..., pe)`` bool M: True where a line was acquired, or real weights W where a gradient is to reach the choice
        of lines. `forward` and `adjoint` then weigh each line, and `normal` is SᴴFᴴWFS, so that ``normal(x) =
        adjoint(y)`` are the normal equations of the weighted least squares ``Σ w |y − F S x|²``: with W² instead, the
        gradient of a line left out would know nothing of what the image already says about it. Leading axes broadcast
        with those of the maps.
    fast
        Let `normal` combine the coils of neighbouring rows into the few that their maps span, which is exact but for a
        five-thousandth of the maps' energy; on a CPU only, elsewhere it takes longer than it saves.

    Raises
    ------
    InputError
        If the maps lack an axis, the mask is neither bool nor real, or the shapes do not fit together.

    References
    ----------
    Pruessmann et al., SENSE: sensitivity encoding for fast MRI, Magn Reson Med 42 (1999).
    Zhang et al., Coil compression for accelerated imaging with Cartesian sampling, Magn Reson Med 69 (2013): coils that
    are combined row by row.
    """

    def __init__(self, coil_maps: Tensor, line_mask: Tensor, *, fast: bool = False) -> None:
        _check(coil_maps, line_mask)
        self.coil_maps = as_complex(coil_maps)
        self.line_mask = line_mask
        self._conjugate_maps = self.coil_maps.conj().resolve_conj()
        fast = fast and self.coil_maps.device.type == "cpu" and self.coil_maps.shape[-3] > _FEW_COILS
        self._row_maps = _combined_by_rows(self.coil_maps) if fast else self.coil_maps
        self._conjugate_row_maps = self._row_maps.conj().resolve_conj() if fast else self._conjugate_maps
        # A shift of the image commutes with a convolution along pe, hence no shift but this one in `normal`.
        real = self.coil_maps.real.dtype
        self._weights = line_mask[..., None, None, :].to(real)
        self._uncentred_weights = torch.fft.ifftshift(self._weights, dim=-1)

    def forward(self, image: Tensor) -> Tensor:
        """Image ``(..., ro, pe)`` to k-space ``(..., coils, ro, pe)``, zero on lines that were not acquired."""
        return fft2c(self._coil_images(image)) * self._weights

    def adjoint(self, kspace: Tensor) -> Tensor:
        r"""K-space ``(..., coils, ro, pe)`` to image ``(..., ro, pe)``: :math:`\sum_c S_c^* F^H M y_c`."""
        self._check_grid(kspace, "k-space", coils=True)
        many_coils = self.coil_maps.shape[-3] > _FEW_COILS
        if many_coils and self.line_mask.dtype == torch.bool and self.line_mask.ndim == 1:
            return self._adjoint_of_lines(as_complex(kspace), self.line_mask.nonzero().flatten())
        return self._combine(ifft2c(as_complex(kspace) * self._weights))

    def _adjoint_of_lines(self, kspace: Tensor, lines: Tensor) -> Tensor:
        """What was not acquired is not transformed along readout, and the centre is shifted where least is to do."""
        pe = kspace.shape[-1]
        rows = ifft1c(kspace.index_select(-1, lines) * centring_phases(pe, 0, -1, kspace)[lines], -2)
        spectrum = rows.new_zeros(*rows.shape[:-1], pe).index_copy(-1, lines, rows)
        image = self._combine(torch.fft.ifft(spectrum, dim=-1, norm="ortho"))
        return image * centring_phases(pe, pe // 2, -1, kspace)

    def normal(self, image: Tensor) -> Tensor:
        """``adjoint(forward(image))`` for a mask, SᴴFᴴWFS for weights, ``(..., ro, pe)`` to ``(..., ro, pe)``.

        The readout transform is unitary and commutes with the line mask, so only phase encoding is transformed, and
        each row of the image by itself.
        """
        self._check_grid(image, "image", coils=False)
        rows = self._rows_at_a_time()
        if rows >= image.shape[-2]:
            return self._normal_of_rows(as_complex(image), self._row_maps, self._conjugate_row_maps)
        blocks = zip(
            as_complex(image).split(rows, -2),
            self._row_maps.split(rows, -2),
            self._conjugate_row_maps.split(rows, -2),
            strict=True,
        )
        return torch.cat([self._normal_of_rows(*block) for block in blocks], -2)

    def _normal_of_rows(self, image: Tensor, maps: Tensor, conjugate_maps: Tensor) -> Tensor:
        spectrum = torch.fft.fft(image[..., None, :, :] * maps, dim=-1) * self._uncentred_weights
        return (torch.fft.ifft(spectrum, dim=-1) * conjugate_maps).sum(-3)

    def _rows_at_a_time(self) -> int:
        rows = self.coil_maps.shape[-2]
        if self.coil_maps.device.type != "cpu":
            return rows
        return max(1, min(rows, _BLOCK_ELEMENTS * rows // self._row_maps.numel()))

    def _coil_images(self, image: Tensor) -> Tensor:
        self._check_grid(image, "image", coils=False)
        return as_complex(image)[..., None, :, :] * self.coil_maps

    def _combine(self, coil_images: Tensor) -> Tensor:
        return (self._conjugate_maps * coil_images).sum(-3)

    def _check_grid(self, x: Tensor, what: str, *, coils: bool) -> None:
        axes = 3 if coils else 2
        expected = tuple(self.coil_maps.shape[-axes:])
        if tuple(x.shape[-axes:]) != expected:
            raise InputError(f"{what} of shape {tuple(x.shape)} does not end in {expected}, the shape of the coil maps")


def _combined_by_rows(coil_maps: Tensor) -> Tensor:
    """``(..., virtual, ro, pe)`` V S, V of orthonormal rows: Σ S*(j) S(k) of any two pixels of a row stays the same.

    As many for all rows and slices as the one with most needs.
    """
    coils, ro, pe = coil_maps.shape[-3:]
    padded = torch.nn.functional.pad(coil_maps, (0, 0, 0, -ro % _ROWS_ALIKE))
    groups = padded.unflatten(-2, (-1, _ROWS_ALIKE)).movedim(-4, -3).flatten(-2)
    energies, vectors = torch.linalg.eigh(groups @ groups.mH)
    lost = energies.cumsum(-1) <= _NEGLIGIBLE * energies.sum(-1, keepdim=True)
    # Rows of air have no energy to lose.
    lost = (lost | (energies.sum(-1, keepdim=True) <= 0)).sum(-1)
    virtual = max(1, coils - int(lost.min()))
    combined = vectors[..., -virtual:].mH @ groups
    return combined.unflatten(-1, (_ROWS_ALIKE, pe)).movedim(-3, -4).flatten(-3, -2)[..., :ro, :].contiguous()


def _check(coil_maps: Tensor, line_mask: Tensor) -> None:
    maps, mask = tuple(coil_maps.shape), tuple(line_mask.shape)
    if coil_maps.ndim < 3:
        raise InputError(f"coil maps must be (..., coils, ro, pe), got shape {maps}")
    if not (line_mask.dtype == torch.bool or line_mask.is_floating_point()) or line_mask.ndim < 1:
        raise InputError(f"the line mask must be bool or real of shape (..., pe), got {line_mask.dtype} {mask}")
    if mask[-1] != maps[-1]:
        raise InputError(f"the line mask has {mask[-1]} lines, the coil maps of shape {maps} have {maps[-1]}")
    try:
        torch.broadcast_shapes(maps[:-3], mask[:-1])
    except RuntimeError:
        raise InputError(f"the leading axes of coil maps {maps} and line mask {mask} do not broadcast") from None
