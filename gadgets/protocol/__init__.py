"""A conversation with Gadgetron: ``bytes`` where messages end, ``messages`` what they say, ``connection`` guarded."""

from gadgets.protocol.bytes import PeerLost, ProtocolError, read_recon_data
from gadgets.protocol.messages import (
    Channel,
    Message,
    MessageId,
    close,
    config_file,
    config_script,
    encode,
    error,
    header,
    is_error_text,
    is_warning_text,
    message_of,
    query,
    response,
    text,
)

__all__ = [
    "Channel",
    "Message",
    "MessageId",
    "PeerLost",
    "ProtocolError",
    "close",
    "config_file",
    "config_script",
    "encode",
    "error",
    "header",
    "is_error_text",
    "is_warning_text",
    "message_of",
    "query",
    "read_recon_data",
    "response",
    "text",
]
