"""The conversation with a Gadgetron.

``messages``: the one table of all messages. ``channel``: messages over a socket. ``connection``: a gadget's guarded end
of it. ``bytes`` and ``recon_data``: reading what peers send.
"""

from gadgets.protocol.bytes import PeerLost, PeerStalled, ProtocolError
from gadgets.protocol.channel import Channel
from gadgets.protocol.messages import (
    DATA_MESSAGES,
    WARNING,
    Message,
    MessageId,
    close,
    config_file,
    config_script,
    encode,
    error,
    header,
    image_without_meta,
    is_error_text,
    is_warning_text,
    message_of,
    name_of,
    query,
    response,
    text,
)

__all__ = [
    "DATA_MESSAGES",
    "WARNING",
    "Channel",
    "Message",
    "MessageId",
    "PeerLost",
    "PeerStalled",
    "ProtocolError",
    "close",
    "config_file",
    "config_script",
    "encode",
    "error",
    "header",
    "image_without_meta",
    "is_error_text",
    "is_warning_text",
    "message_of",
    "name_of",
    "query",
    "response",
    "text",
]
