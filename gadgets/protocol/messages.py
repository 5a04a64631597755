"""All messages of a Gadgetron in one table: id, where each one ends, what it holds, and how it is written.

Shared by the embedded server, the scanner and the gadget processes. A message travels as `Message(id, body)`, its bytes
untouched; `Message.item` decodes on demand, so that whoever only forwards pays nothing. The serialisation is that of
`ismrmrd` and `gadgetron`.

Two facts about Error (id 8) that the protocol does not show:

- A real server that receives an Error from a gadget sends CLOSE to that gadget **at once** and gives it nothing more. A
  gadget that wants the rest of the scan therefore keeps its Errors until its input has ended and sends them before its
  own CLOSE.
- A real server never sends Error to a client. It sends Text (id 5) "[location] ERROR: message", just before CLOSE: see
  `is_error_text`.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from io import BytesIO
from typing import Any

import ismrmrd
from gadgetron.external import writers
from gadgetron.types.recon_data import ReconData, write_recon_data
from ismrmrd import constants
from ismrmrd.image import get_dtype_from_data_type

from gadgets.protocol.bytes import DATA_LIMIT, TEXT_LIMIT, U16, U32, U64, ProtocolError, Read, Source
from gadgets.protocol.recon_data import read_recon_data
from pass_recon.types import InputError

_CONFIG_FILE_BYTES = 1024
IMAGE_HEAD_BYTES = ctypes.sizeof(ismrmrd.ImageHeader)
# What the C++ ImageReader takes. It throws at int16; Python writes int64 under the id of int32 and so loses the stream.
_IMAGE_TYPES = {
    constants.DATATYPE_USHORT,
    constants.DATATYPE_UINT,
    constants.DATATYPE_FLOAT,
    constants.DATATYPE_DOUBLE,
    constants.DATATYPE_CXFLOAT,
    constants.DATATYPE_CXDOUBLE,
}


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


@dataclass(frozen=True)
class Rule:
    """What is to be known of a message.

    Attributes
    ----------
    id
        What it begins with.
    limit
        Most bytes that it may have.
    pass_over
        Reads a body to its end.
    decode
        What a body holds.
    encode
        The whole message that holds an item, id included.
    carries
        Type of the items of a data message; None for those that steer the conversation.
    names
        What readers and writers of a configuration call it, without "Reader" or "Writer"; the later ones are those of
        gadgetron_mricore, as older configurations have them.
    """

    id: MessageId
    limit: int
    pass_over: Callable[[Source], object]
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    carries: type | None = None
    names: tuple[str, ...] = ()


def _string(identifier: MessageId, length: struct.Struct, *, decoded: bool = True, names: tuple[str, ...] = ()) -> Rule:
    def decode(body: bytes) -> str | bytes:
        content = _up_to_nul(body[length.size :])
        return content.decode(errors="replace") if decoded else content  # XML names its own encoding, and stays bytes

    return Rule(
        identifier,
        TEXT_LIMIT,
        lambda source: source.read(source.count(length)),
        decode,
        lambda item: U16.pack(identifier) + length.pack(len(content := _as_bytes(item))) + content,
        names=names,
    )


def _up_to_nul(content: bytes) -> bytes:
    """Without the NUL that some clients count into the length: a Gadgetron reads C strings."""
    return content.partition(b"\0")[0]


def _as_bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _correlated(identifier: MessageId, before: int) -> Rule:
    """A string after so many reserved zeros and a correlation id."""
    numbers = struct.Struct(f"<{before + 2}Q")

    def pass_over(source: Source) -> None:
        source.read((before + 1) * U64.size)
        source.read(source.count(U64))

    def encode(item: tuple[int, str]) -> bytes:
        content = item[1].encode()
        return U16.pack(identifier) + numbers.pack(*[0] * before, item[0], len(content)) + content

    return Rule(
        identifier,
        TEXT_LIMIT,
        pass_over,
        lambda body: (numbers.unpack_from(body)[before], body[numbers.size :].decode()),
        encode,
    )


def _data(
    identifier: MessageId,
    carries: type,
    pass_over: Callable[[Source], object],
    decode: Callable[[bytes], Any],
    write: Callable[[BytesIO, Any], None],
    *names: str,
) -> Rule:
    def encode(item: Any) -> bytes:
        write(buffer := BytesIO(), item)
        return buffer.getvalue()

    return Rule(identifier, DATA_LIMIT, pass_over, decode, encode, carries, names)


def _encode_file_name(name: str) -> bytes:
    if len(content := name.encode()) >= _CONFIG_FILE_BYTES:
        raise InputError(f"configuration name of {len(content)} bytes; the field holds {_CONFIG_FILE_BYTES - 1}")
    return U16.pack(MessageId.CONFIG_FILE) + content.ljust(_CONFIG_FILE_BYTES, b"\0")


def _pass_over_acquisition(source: Source) -> None:
    head = ismrmrd.AcquisitionHeader.from_buffer_copy(source.read(ctypes.sizeof(ismrmrd.AcquisitionHeader)))
    source.read(head.number_of_samples * (head.trajectory_dimensions * 4 + head.active_channels * 8))


def _pass_over_waveform(source: Source) -> None:
    head = ismrmrd.WaveformHeader.from_buffer_copy(source.read(ctypes.sizeof(ismrmrd.WaveformHeader)))
    source.read(head.channels * head.number_of_samples * 4)


def _pass_over_image(source: Source) -> None:
    head = ismrmrd.ImageHeader.from_buffer_copy(source.read(IMAGE_HEAD_BYTES))
    source.read(source.count(U64))
    if head.data_type not in _IMAGE_TYPES:
        raise ProtocolError(
            f"image of data type {head.data_type}: a Gadgetron takes uint16, uint32, float and complex only"
        )
    source.read(math.prod(head.matrix_size) * head.channels * get_dtype_from_data_type(head.data_type).itemsize)


def _decode_image(body: bytes) -> ismrmrd.Image:
    length = U64.unpack_from(body, IMAGE_HEAD_BYTES)[0]
    if b"<!DOCTYPE" in body[IMAGE_HEAD_BYTES + U64.size : IMAGE_HEAD_BYTES + U64.size + length]:
        raise ValueError("its meta has a document type")
    return ismrmrd.Image.from_bytes(body)


_ALL = (
    Rule(
        MessageId.CONFIG_FILE,
        _CONFIG_FILE_BYTES,
        lambda source: source.read(_CONFIG_FILE_BYTES),
        lambda body: _up_to_nul(body).decode(),
        _encode_file_name,
    ),
    _string(MessageId.CONFIG_SCRIPT, U32, decoded=False),
    _string(MessageId.HEADER, U32, decoded=False),
    Rule(MessageId.CLOSE, 0, lambda source: None, lambda body: None, lambda item: U16.pack(MessageId.CLOSE)),
    _string(MessageId.TEXT, U32, names=("Text",)),
    _correlated(MessageId.QUERY, 1),
    _correlated(MessageId.RESPONSE, 0),
    _string(MessageId.ERROR, U64),
    _data(
        MessageId.ACQUISITION,
        ismrmrd.Acquisition,
        _pass_over_acquisition,
        ismrmrd.Acquisition.from_bytes,
        writers.write_acquisition,
        "Acquisition",
        "GadgetIsmrmrdAcquisitionMessage",
    ),
    _data(
        MessageId.IMAGE,
        ismrmrd.Image,
        _pass_over_image,
        _decode_image,
        writers.write_image,
        "Image",
        "MRIImage",
    ),
    _data(
        MessageId.RECON_DATA,
        ReconData,
        read_recon_data,
        lambda body: read_recon_data(BytesIO(body)),
        write_recon_data,
        "Buffer",
    ),
    _data(
        MessageId.WAVEFORM,
        ismrmrd.Waveform,
        _pass_over_waveform,
        ismrmrd.Waveform.from_bytes,
        writers.write_waveform,
        "Waveform",
        "GadgetIsmrmrdWaveformMessage",
    ),
)
RULES: dict[int, Rule] = {rule.id: rule for rule in _ALL}
DATA_MESSAGES = frozenset(rule.id for rule in _ALL if rule.carries)
# The library's reader of meta asserts what it expects, and XML that is none is a SyntaxError.
_UNREADABLE = (ValueError, TypeError, KeyError, OverflowError, SyntaxError, AssertionError, struct.error)
_STRINGS = (MessageId.CONFIG_SCRIPT, MessageId.HEADER, MessageId.TEXT)


@dataclass(frozen=True)
class Message:
    """One message: its id and the bytes after it, exactly as they came."""

    id: int
    body: bytes

    @property
    def frame(self) -> bytes:
        """The bytes on the wire."""
        return U16.pack(self.id) + self.body

    @property
    def terminated(self) -> bool:
        """Whether this is a string whose last byte is a NUL, as clients of python-ismrmrd-server send strings."""
        return self.id in _STRINGS and self.body.endswith(b"\0")

    @cached_property
    def item(self) -> Any:
        """What the message holds.

        Acquisition, Waveform, Image or ReconData; str for Text, Error and the name of a configuration file; bytes for a
        configuration script and the header; (correlation id, str) for Query and Response; None for CLOSE.

        Raises
        ------
        ProtocolError
            The bytes do not hold what the id promises.
        """
        try:
            return RULES[self.id].decode(self.body)
        except _UNREADABLE as error:
            raise ProtocolError(f"unreadable {name_of(self.id)}: {error}") from error


def image_without_meta(body: bytes) -> ismrmrd.Image:
    """What is left of an image whose meta cannot be read; raises ProtocolError if that is not an image either."""
    try:
        after = IMAGE_HEAD_BYTES + U64.size + U64.unpack_from(body, IMAGE_HEAD_BYTES)[0]
        return ismrmrd.Image.from_bytes(body[:IMAGE_HEAD_BYTES] + U64.pack(0) + body[after:])
    except _UNREADABLE as error:
        raise ProtocolError(f"unreadable IMAGE: {error}") from error


def name_of(identifier: int) -> str:
    """The id in words."""
    return MessageId(identifier).name if identifier in RULES else f"message {identifier}"


def read_body(identifier: int, read_exact: Read) -> bytes:
    """What belongs to a message after its id, exactly as it comes; raises ProtocolError."""
    if identifier not in RULES:
        raise ProtocolError(f"unknown message id {identifier}")
    rule = RULES[identifier]
    source = Source(read_exact, rule.limit, name_of(identifier))
    try:
        rule.pass_over(source)
    except (ValueError, TypeError, OverflowError) as error:
        raise ProtocolError(f"unreadable {name_of(identifier)}: {error}") from error
    return b"".join(source.chunks)


def config_file(name: str) -> bytes:
    """CONFIG FILE: the name of a configuration in a field of 1024 bytes; raises InputError if it does not fit."""
    return RULES[MessageId.CONFIG_FILE].encode(name)


def config_script(xml: str | bytes) -> bytes:
    """CONFIG SCRIPT: the configuration itself."""
    return RULES[MessageId.CONFIG_SCRIPT].encode(xml)


def header(xml: str | bytes) -> bytes:
    """HEADER: the ISMRMRD header."""
    return RULES[MessageId.HEADER].encode(xml)


def text(content: str, *, terminated: bool = False) -> bytes:
    """TEXT, ended by a NUL where it is for a client that expects one."""
    return RULES[MessageId.TEXT].encode(content + "\0" * terminated)


def error(content: str) -> bytes:
    """ERROR."""
    return RULES[MessageId.ERROR].encode(content)


WARNING = "WARNING: "
"""How an Error of a gadget begins that is none: nothing else that a gadget sends reaches the client as words."""


def is_error_text(content: str) -> bool:
    """Whether a Text is the form in which a Gadgetron or a python-ismrmrd-server reports an error to its client."""
    told = content.startswith("ERR") or (content.startswith("[") and "] ERROR: " in content)
    return told and not is_warning_text(content)


def is_warning_text(content: str) -> bool:
    """Whether a Text is a warning of the embedded server or of a python-ismrmrd-server."""
    in_brackets = content.startswith("[") and ("] WARNING: " in content or f"] ERROR: {WARNING}" in content)
    return content.startswith(("WRN", "WARNING")) or in_brackets


def query(content: str, correlation: int = 0) -> bytes:
    """QUERY: a correlation id for the answer, the question."""
    return RULES[MessageId.QUERY].encode((correlation, content))


def response(correlation: int, content: str) -> bytes:
    """RESPONSE to the query with the same correlation id."""
    return RULES[MessageId.RESPONSE].encode((correlation, content))


def close() -> bytes:
    """CLOSE: the last message in a direction."""
    return RULES[MessageId.CLOSE].encode(None)


def encode(item: object) -> bytes:
    """The whole message of an Acquisition, Waveform, Image or ReconData; raises TypeError for anything else."""
    for rule in _ALL:
        if rule.carries and isinstance(item, rule.carries):
            return rule.encode(item)
    raise TypeError(f"no message carries a {type(item).__name__}")


def message_of(item: object) -> Message:
    """Same as `encode`, as a `Message`."""
    frame = encode(item)
    return Message(U16.unpack_from(frame)[0], frame[U16.size :])
