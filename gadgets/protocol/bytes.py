"""Where each Gadgetron message ends: ids, limits, and the sizes that headers promise."""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import ismrmrd
import numpy as np
from gadgetron.types.recon_data import ReconBit, ReconBuffer, ReconData, SamplingDescription
from ismrmrd import constants
from ismrmrd.image import get_dtype_from_data_type
from numpy.typing import NDArray

from pass_recon.types import InputError


class MessageId(IntEnum):
    """The ids that this project reads or writes."""

    CONFIG_FILE = 1
    CONFIG_SCRIPT = 2
    HEADER = 3
    CLOSE = 4
    TEXT = 5
    QUERY = 6
    RESPONSE = 7
    ERROR = 8
    ACQUISITION = 1008
    IMAGE = 1022
    RECON_DATA = 1023
    WAVEFORM = 1026


CONFIG_FILE_BYTES = 1024
TEXT_LIMIT = 16 << 20  # configurations, headers, texts, meta: the largest real ones are about 1 MB
DATA_LIMIT = 2 << 30  # one slice of 1024 x 1024 with 128 coils is 1 GiB
# What the C++ ImageReader takes. It throws at int16; Python writes int64 under the id of int32 and so loses the stream.
_IMAGE_TYPES = {
    constants.DATATYPE_USHORT,
    constants.DATATYPE_UINT,
    constants.DATATYPE_FLOAT,
    constants.DATATYPE_DOUBLE,
    constants.DATATYPE_CXFLOAT,
    constants.DATATYPE_CXDOUBLE,
}
U16, U32, U64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")


class PeerLost(ConnectionError):
    """The other end went away without CLOSE, or in the middle of a message."""


class ProtocolError(InputError):
    """What arrived is no message of this protocol, or one of absurd size. Nothing after it can be understood."""


Read = Callable[[int], bytes]


class _Source:
    """What readers of `ismrmrd` and `gadgetron` read from: counts against a limit and keeps the bytes."""

    def __init__(self, read_exact: Read, limit: int, name: str) -> None:
        self._read_exact, self._left, self._limit, self._name = read_exact, limit, limit, name
        self.chunks: list[bytes] = []

    def read(self, count: int) -> bytes:
        count = int(count)
        if not 0 <= count <= self._left:
            raise ProtocolError(f"{self._name} refused: a field asks for {count} bytes, the limit is {self._limit}")
        self._left -= count
        self.chunks.append(chunk := self._read_exact(count))
        return chunk

    def count(self, layout: struct.Struct) -> int:
        return int(layout.unpack(self.read(layout.size))[0])


def _skip_config_file(source: _Source) -> None:
    source.read(CONFIG_FILE_BYTES)


def _skip_short_string(source: _Source) -> None:
    source.read(source.count(U32))


def _skip_long_string(source: _Source) -> None:
    source.read(source.count(U64))


def _skip_response(source: _Source) -> None:
    source.read(U64.size)
    _skip_long_string(source)


def _skip_query(source: _Source) -> None:
    source.read(U64.size)
    _skip_response(source)


def _skip_acquisition(source: _Source) -> None:
    head = ismrmrd.AcquisitionHeader.from_buffer_copy(source.read(ctypes.sizeof(ismrmrd.AcquisitionHeader)))
    source.read(head.number_of_samples * (head.trajectory_dimensions * 4 + head.active_channels * 8))


def _skip_waveform(source: _Source) -> None:
    head = ismrmrd.WaveformHeader.from_buffer_copy(source.read(ctypes.sizeof(ismrmrd.WaveformHeader)))
    source.read(head.channels * head.number_of_samples * 4)


def _skip_image(source: _Source) -> None:
    head = ismrmrd.ImageHeader.from_buffer_copy(source.read(ctypes.sizeof(ismrmrd.ImageHeader)))
    _skip_long_string(source)
    if head.data_type not in _IMAGE_TYPES:
        raise ProtocolError(
            f"image of data type {head.data_type}: a Gadgetron takes uint16, uint32, float and complex only"
        )
    source.read(math.prod(head.matrix_size) * head.channels * get_dtype_from_data_type(head.data_type).itemsize)


def _read_shape(source: _Source) -> list[int]:
    if (axes := source.count(U64)) > 32:
        raise ProtocolError(f"unreadable RECON_DATA: an array of {axes} axes")
    return [source.count(U64) for _ in range(axes)]


def _read_array(source: _Source, dtype: type[np.generic]) -> NDArray[Any]:
    shape = _read_shape(source)
    data = source.read(math.prod(shape) * np.dtype(dtype).itemsize)
    return np.frombuffer(data, dtype).reshape(shape, order="F")


def _read_optional(source: _Source, read: Callable[[_Source], Any]) -> Any:
    return read(source) if source.read(1) != b"\0" else None


def _read_acquisition_headers(source: _Source) -> NDArray[Any]:
    shape = _read_shape(source)
    size = ctypes.sizeof(ismrmrd.AcquisitionHeader)
    data = source.read(math.prod(shape) * size)
    headers = np.empty(math.prod(shape), dtype=object)  # filled one by one: np.array() would look inside the structures
    for index in range(headers.size):
        headers[index] = ismrmrd.AcquisitionHeader.from_buffer_copy(data, index * size)
    return headers.reshape(shape, order="F")


def _read_recon_buffer(source: _Source) -> ReconBuffer:
    return ReconBuffer(
        _read_array(source, np.complex64),
        _read_optional(source, lambda s: _read_array(s, np.float32)),
        _read_optional(source, lambda s: _read_array(s, np.float32)),
        _read_acquisition_headers(source),
        SamplingDescription.from_buffer_copy(source.read(ctypes.sizeof(SamplingDescription))),
    )


def read_recon_data(source: Any) -> ReconData:
    """ReconData from anything with an exact ``read(count)``, as a gadget's connection has.

    In the place of the reader of `gadgetron`, which warns on Python 3.11 and overflows on absurd shapes:
    ``connection.add_reader(1023, read_recon_data)``.
    """
    source = source if isinstance(source, _Source) else _Source(source.read, DATA_LIMIT, "RECON_DATA")
    bits = source.count(U64)
    return ReconData(
        [ReconBit(_read_recon_buffer(source), _read_optional(source, _read_recon_buffer)) for _ in range(bits)]
    )


_SKIP: dict[int, tuple[int, Callable[[_Source], Any]]] = {
    MessageId.CONFIG_FILE: (CONFIG_FILE_BYTES, _skip_config_file),
    MessageId.CONFIG_SCRIPT: (TEXT_LIMIT, _skip_short_string),
    MessageId.HEADER: (TEXT_LIMIT, _skip_short_string),
    MessageId.CLOSE: (0, lambda source: None),
    MessageId.TEXT: (TEXT_LIMIT, _skip_short_string),
    MessageId.QUERY: (TEXT_LIMIT, _skip_query),
    MessageId.RESPONSE: (TEXT_LIMIT, _skip_response),
    MessageId.ERROR: (TEXT_LIMIT, _skip_long_string),
    MessageId.ACQUISITION: (DATA_LIMIT, _skip_acquisition),
    MessageId.IMAGE: (DATA_LIMIT, _skip_image),
    MessageId.RECON_DATA: (DATA_LIMIT, read_recon_data),
    MessageId.WAVEFORM: (DATA_LIMIT, _skip_waveform),
}


def name_of(identifier: int) -> str:
    """The id in words."""
    return MessageId(identifier).name if identifier in _SKIP else f"message {identifier}"


def read_body(identifier: int, read_exact: Read) -> bytes:
    """What belongs to a message after its id, exactly as it comes; raises ProtocolError."""
    if identifier not in _SKIP:
        raise ProtocolError(f"unknown message id {identifier}")
    limit, skip = _SKIP[identifier]
    source = _Source(read_exact, limit, name_of(identifier))
    try:
        skip(source)
    except (ValueError, TypeError, OverflowError) as error:
        raise ProtocolError(f"unreadable {name_of(identifier)}: {error}") from error
    return b"".join(source.chunks)
