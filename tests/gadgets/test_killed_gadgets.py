"""A resident process that is not there, or is killed, costs no image; one that is killed leaves a word."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gadgets import protocol
from gadgets.protocol import Channel, MessageId
from pass_recon_cli.local_server import write_configuration
from tests.gadgets.acquisitions import header, kspace, lines_of, oversampled
from tests.gadgets.server.tools import errors, listening_gadget, of_kind, running_server, talk


def scan_of(slices: int) -> list[bytes]:
    lines = [line for number in range(slices) for line in lines_of(oversampled(kspace()), slice=number)]
    return [protocol.header(header()), *map(protocol.encode, lines), protocol.close()]


def hang_up_after_ten(channel: Channel) -> None:
    for _ in range(12):
        channel.read_message()
    channel.close()


@pytest.mark.parametrize("killed", [False, True])
def test_the_server_runs_the_stages_itself_where_the_resident_process_is_gone(tmp_path: Path, killed: bool) -> None:
    properties = {"bundle": "classical", "device": "cpu", "mode": "retrospective"}
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with listening_gadget(hang_up_after_ten) as gadget, running_server(tmp_path, connect_seconds=0.3) as server:
        write_configuration("pass_recon_resident.xml", tmp_path, properties, gadget if killed else port)
        answer = talk(server, protocol.config_file("pass_recon_resident.xml"), *scan_of(2))
    assert not errors(answer)
    images = [message.item for message in of_kind(answer, MessageId.IMAGE)]
    assert sorted(image.slice for image in images if image.image_series_index == 1) == [0, 1]
    warnings = " ".join(message.item for message in of_kind(answer, MessageId.TEXT))
    assert "gadgets.resident is started with the" in warnings
    assert ("went away in mid-scan" if killed else "no gadget listens there") in warnings
