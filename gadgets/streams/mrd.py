"""MRD streams: the messages of the wire, as ismrmrd's tools and ``gadgetron --from_stream`` read and write them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from gadgets import protocol
from gadgets.offline import Account, reconstructed
from gadgets.properties import Properties
from gadgets.protocol import Message, MessageId, PeerLost, name_of
from gadgets.protocol.connection import Failure
from gadgets.spool.recording import MessageReader
from pass_recon.types import InputError

_PASSED_OVER = frozenset((MessageId.CONFIG_FILE, MessageId.CONFIG_SCRIPT, MessageId.TEXT))


def stream(source: BinaryIO, sink: BinaryIO, properties: Properties, account: Account) -> None:
    """Reconstruct what comes, and write each image as soon as it is made; the header goes before them, CLOSE after.

    Parameters
    ----------
    source
        The scan: configurations and texts, which are passed over, the header, acquisitions, CLOSE.
    sink
        Where the images go.
    properties
        Of the chain.
    account
        Is told what went wrong. A stream that breaks off is a warning: what came is reconstructed.

    Raises
    ------
    InputError
        If it is no MRD stream, or ends before its header.
    """
    reader = MessageReader(source)
    header = _header(reader)
    sink.write(protocol.header(header))
    for image in reconstructed(_acquisitions(reader, account), header, properties, account):
        sink.write(protocol.encode(image))
        sink.flush()
    sink.write(protocol.close())


def _header(reader: MessageReader) -> bytes:
    try:
        while (message := reader.read()) is not None:
            if message.id == MessageId.HEADER:
                return bytes(message.item)
            if message.id not in _PASSED_OVER:
                raise InputError(f"{name_of(message.id)} comes before the MRD header")
    except PeerLost as error:
        raise InputError(f"no MRD header came: {error}") from error
    raise InputError("no MRD header came: the stream is empty, or ends before it")


def _acquisitions(reader: MessageReader, account: Account) -> Iterator[Any]:
    while (message := _next(reader, account)) is not None and message.id != MessageId.CLOSE:
        if message.id == MessageId.ACQUISITION:
            yield message.item


def _next(reader: MessageReader, account: Account) -> Message | None:
    try:
        message = reader.read()
    except PeerLost as error:
        account.failures.append(Failure(str(error), "input"))
        return None
    if message is None:
        account.failures.append(Failure("the stream ends without CLOSE", "warning"))
    return message
