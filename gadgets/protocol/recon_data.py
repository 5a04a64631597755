"""Reading ReconData, in the place of the reader of `gadgetron`, which warns on Python 3.11 and trusts absurd shapes."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import ismrmrd
import numpy as np
from gadgetron.types.recon_data import ReconBit, ReconBuffer, ReconData, SamplingDescription
from numpy.typing import NDArray

from gadgets.protocol.bytes import DATA_LIMIT, U64, ProtocolError, Source


def _read_shape(source: Source) -> list[int]:
    if (axes := source.count(U64)) > 32:
        raise ProtocolError(f"unreadable RECON_DATA: an array of {axes} axes")
    return [source.count(U64) for _ in range(axes)]


def _read_array(source: Source, dtype: type[np.generic]) -> NDArray[Any]:
    shape = _read_shape(source)
    data = source.read(math.prod(shape) * np.dtype(dtype).itemsize)
    return np.frombuffer(data, dtype).reshape(shape, order="F")


def _read_optional(source: Source, read: Callable[[Source], Any]) -> Any:
    return read(source) if source.read(1) != b"\0" else None


def _read_acquisition_headers(source: Source) -> NDArray[Any]:
    shape = _read_shape(source)
    size = ctypes.sizeof(ismrmrd.AcquisitionHeader)
    data = source.read(math.prod(shape) * size)
    headers = np.empty(math.prod(shape), dtype=object)  # filled one by one: np.array() would look inside the structures
    for index in range(headers.size):
        headers[index] = ismrmrd.AcquisitionHeader.from_buffer_copy(data, index * size)
    return headers.reshape(shape, order="F")


def _read_recon_buffer(source: Source) -> ReconBuffer:
    return ReconBuffer(
        _read_array(source, np.complex64),
        _read_optional(source, lambda s: _read_array(s, np.float32)),
        _read_optional(source, lambda s: _read_array(s, np.float32)),
        _read_acquisition_headers(source),
        SamplingDescription.from_buffer_copy(source.read(ctypes.sizeof(SamplingDescription))),
    )


def read_recon_data(source: Any) -> ReconData:
    """ReconData from a `Source`, or from anything with an exact ``read(count)``; raises ProtocolError."""
    source = source if isinstance(source, Source) else Source(source.read, DATA_LIMIT, "RECON_DATA")
    bits = source.count(U64)
    return ReconData(
        [ReconBit(_read_recon_buffer(source), _read_optional(source, _read_recon_buffer)) for _ in range(bits)]
    )
