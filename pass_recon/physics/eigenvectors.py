"""Leading eigenvectors of many small Hermitian matrices by products alone, which is faster than decomposing each."""

from __future__ import annotations

import torch
from torch import Tensor

# Elements of the pointwise coil covariance worked on at a time: on a CPU 2 MB, which stay in cache through all the
# products of the eigenvector iteration, elsewhere 512 MB, so that a few launches cover a batch.
_BLOCK_ELEMENTS_CPU = 2**18
_BLOCK_ELEMENTS_GPU = 2**26

# Chebyshev filter of the eigenvector iteration: eigenvalues up to 0.7 are damped against an eigenvalue of 1 by a factor
# of cosh(12 arcosh(2 / 0.7 - 1)), about a million.
_UNWANTED_EIGENVALUES = 0.7
_DEGREE = 12


def leading_eigenvectors(covariance: Tensor, to_rows: Tensor, to_columns: Tensor, sets: int) -> tuple[Tensor, Tensor]:
    """First eigenvectors of ESPIRiT's H(q), whose eigenvalues of interest are near 1 and the others below 0.7.

    Parameters
    ----------
    covariance
        ``(batch, coarse_ro, coarse_pe, coils, coils)`` Hermitian.
    to_rows, to_columns
        ``(n_ro, coarse_ro)`` and ``(n_pe, coarse_pe)`` that interpolate it.
    sets
        How many eigenvectors at each point.

    Returns
    -------
    ``(batch, sets, coils, n_ro, n_pe)`` vectors and ``(batch, sets, 1, n_ro, n_pe)`` values.
    """
    batch, coils, n_ro, n_pe = covariance.shape[0], covariance.shape[-1], len(to_rows), len(to_columns)
    to_rows, to_columns = to_rows.to(covariance), to_columns.to(covariance).mT
    rows = torch.einsum("yu,buvcd->bycdv", to_rows, covariance).reshape(batch * n_ro, coils**2, -1)
    limit = _BLOCK_ELEMENTS_CPU if covariance.device.type == "cpu" else _BLOCK_ELEMENTS_GPU
    blocks = rows.split(max(1, limit // (coils**2 * n_pe)))
    pairs = [_leading_pairs((block @ to_columns).unflatten(1, (coils, coils)), sets) for block in blocks]
    vectors, values = (torch.cat(parts).unflatten(0, (batch, n_ro)) for parts in zip(*pairs, strict=True))
    return vectors.movedim(1, -2), values.movedim(1, -2)


def _leading_pairs(covariance: Tensor, sets: int) -> tuple[Tensor, Tensor]:
    """Eigenvectors ``(rows, sets, coils, pe)`` and values ``(rows, sets, 1, pe)`` of ``(rows, coils, coils, pe)``."""
    vectors, values = [], []
    for _ in range(sets):
        vector = _filtered(covariance, _strongest_column(covariance))
        norm = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
        vector = vector / torch.where(norm > 0, norm, 1)
        applied = _apply(covariance, vector)
        value = (vector.conj() * applied).sum(1, keepdim=True).real
        vectors.append(vector)
        values.append(value)
        if len(vectors) < sets:
            covariance = _without(covariance, vector, applied, value)
    return torch.stack(vectors, 1), torch.stack(values, 1)


def _without(covariance: Tensor, vector: Tensor, applied: Tensor, value: Tensor) -> Tensor:
    """(1 - v vᴴ) H (1 - v vᴴ): orthogonal to v even where two equal eigenvalues leave v no eigenvector."""
    rest = applied - value * vector
    return covariance - vector[:, :, None] * applied.conj()[:, None] - rest[:, :, None] * vector.conj()[:, None]


def _filtered(covariance: Tensor, vector: Tensor) -> Tensor:
    """Chebyshev polynomial of H times ``(rows, coils, pe)``, small on the unwanted eigenvalues and large at 1."""
    before, vector = vector, _apply(covariance, vector) * (2 / _UNWANTED_EIGENVALUES) - vector
    for _ in range(_DEGREE - 1):
        applied = _apply(covariance, vector) * (2 / _UNWANTED_EIGENVALUES) - vector
        before, vector = vector, 2 * applied - before
    return vector


def _apply(covariance: Tensor, vector: Tensor) -> Tensor:
    return (covariance * vector[:, None]).sum(2)


def _strongest_column(covariance: Tensor) -> Tensor:
    """``(rows, coils, pe)``: at each pixel the column of the coil that sees most, so not blind to the eigenvector."""
    strongest = covariance.diagonal(dim1=1, dim2=2).real.argmax(-1)
    index = strongest[:, None, None, :].expand(-1, covariance.shape[1], 1, -1)
    return covariance.gather(2, index).squeeze(2)
