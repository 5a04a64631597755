"""A client as that of python-ismrmrd-server, which speaks as the host of a FIRE or OpenRecon scanner does.

What it sends is byte for byte what that client sends: every string ends with a NUL that its length counts, the name of
the configuration fills 1024 bytes, and parameters follow the header as JSON in a Text. What it reads is what that
client can read: nothing but Text, Image, Acquisition, Waveform and CLOSE.
"""

from __future__ import annotations

import io
import json
import struct
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ismrmrd

from tests.gadgets.server.tools import Client

TEXT, CLOSE, ACQUISITION, IMAGE, WAVEFORM = 5, 4, 1008, 1022, 1026


def string(identifier: int, content: str) -> bytes:
    """A string with its NUL."""
    terminated = f"{content}\0".encode()
    return struct.pack("<H", identifier) + struct.pack("<I", len(terminated)) + terminated


def line(acquisition: ismrmrd.Acquisition) -> bytes:
    """An acquisition."""
    packed = io.BytesIO()
    acquisition.serialize_into(packed.write)
    return struct.pack("<H", ACQUISITION) + packed.getvalue()


def opening(config: str, header: str, parameters: Mapping[str, Any] | str | None = None) -> bytes:
    """All that comes before the lines."""
    frames = struct.pack("<H1024s", 1, config.encode()) + string(3, header)
    if parameters is not None:
        document = {"version": "1.1.0", "parameters": parameters}
        frames += string(TEXT, parameters if isinstance(parameters, str) else json.dumps(document, indent=2))
    return frames


@dataclass
class Answer:
    """What a FIRE client was told, and what it got."""

    texts: list[str] = field(default_factory=list)
    images: list[ismrmrd.Image] = field(default_factory=list)

    def series(self) -> list[int]:
        """Of each image."""
        return [image.image_series_index for image in self.images]

    def saying(self, prefix: str) -> list[str]:
        """Texts of one colour."""
        return [text for text in self.texts if text.startswith(prefix)]


def fire_scan(
    port: int,
    config: str,
    header: str,
    acquisitions: Iterable[ismrmrd.Acquisition],
    parameters: Mapping[str, Any] | str | None = None,
) -> Answer:
    """One scan; an error of the connection while sending is one, for that client calls it a failure."""
    answer = Answer()
    with Client(port) as client:
        reader = threading.Thread(target=_read, args=(client, answer))
        reader.start()
        client.send(opening(config, header, parameters))
        for acquisition in acquisitions:
            client.send(line(acquisition))
        client.send(struct.pack("<H", CLOSE))
        reader.join(120)
        assert not reader.is_alive()
    assert answer.texts[-1:] != ["unreadable"]
    return answer


def _read(client: Client, answer: Answer) -> None:
    def exactly(count: int) -> bytes:
        return client.channel.read_exact(count)

    while (identifier := struct.unpack("<H", exactly(2))[0]) != CLOSE:
        if identifier == TEXT:
            content = exactly(struct.unpack("<I", exactly(4))[0])
            assert content.endswith(b"\0")
            answer.texts.append(content[:-1].decode())
        elif identifier == IMAGE:
            answer.images.append(ismrmrd.Image.deserialize_from(exactly))
        else:  # as its reader ends: "Received unknown message type"
            answer.texts.append("unreadable")
            return
