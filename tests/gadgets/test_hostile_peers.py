"""Peers that mean harm: what they write, name or ask for tells them nothing and steers nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import ismrmrd
import numpy as np
import pytest

from gadgets import protocol
from gadgets.converters.image_file import ImageFile
from gadgets.mrd import ScanContext
from gadgets.properties import Properties
from gadgets.protocol import Message, MessageId, ProtocolError
from gadgets.resident import _Bundles
from gadgets.server.configuration import find
from pass_recon.types import InputError
from tests.gadgets.acquisitions import header
from tests.gadgets.scanner.fake_server import FakeServer
from tests.gadgets.scanner.test_client import run
from tests.gadgets.scans import patient_file
from tests.gadgets.server.tools import acquisition, configuration, errors, execute_node, running_server, scan, talk


def test_escape_codes_of_a_server_never_reach_the_terminal(tmp_path: Path) -> None:
    def misbehave(channel: protocol.Channel, count: int) -> None:
        if count == 5:
            channel.send(protocol.text("[a] ERROR: \x1b]0;owned\x07 \x9b31m red"))
            channel.send(protocol.text("[a] WARNING: \x1b[2J"))

    with FakeServer(misbehave=misbehave) as server:
        report = run(server, patient_file(tmp_path / "patient.h5"), tmp_path, closed_loop=False)
    assert report.errors == ["[a] ERROR: �]0;owned� �31m red"]
    assert report.warnings[0] == "[a] WARNING: �[2J"


def test_a_configuration_may_start_only_modules_that_are_allowed() -> None:
    node = '<external><execute name="os.path" target="join" type="python"/></external>'
    with running_server(allowed_modules=("gadgets",)) as port:
        assert errors(talk(port, scan(configuration(node), acquisition()))) == [
            "[server] ERROR: configurations of clients may start gadgets, not os.path (--allow-module)"
        ]
        (sentence,) = errors(talk(port, scan(configuration(execute_node("count")), acquisition())))
        assert "not tests.gadgets.server.children" in sentence


@pytest.mark.parametrize("name", ["x" * 1023, "a\nb", "a\x1b[2J"])
def test_names_of_configurations_tell_no_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as refused:
        find(name, [tmp_path])
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize("bundle", ["/etc", "../../secret", "/etc/passwd"])
def test_a_scan_may_name_bundles_but_no_folders(tmp_path: Path, bundle: str) -> None:
    may_use = _Bundles("auto", [tmp_path])
    with pytest.raises(InputError, match="among the shipped ones, nor in a folder that this process was given"):
        may_use.checked(ScanContext(header(), Properties(bundle=bundle)))
    for fine in ("auto", "classical", "brain-t1-4x", str(tmp_path / "mine")):
        may_use.checked(ScanContext(header(), Properties(bundle=fine)))


def test_meta_with_a_document_type_is_refused() -> None:
    image = ismrmrd.Image.from_array(np.zeros((1, 1, 2, 2), np.uint16), transpose=False)
    image.meta = {"a": "b"}
    frame = protocol.encode(image)
    meta = image.attribute_string.encode()
    hostile = b"<!DOCTYPE a [<!ENTITY b 'c'>]>" + meta
    body = frame[2:].replace(len(meta).to_bytes(8, "little") + meta, len(hostile).to_bytes(8, "little") + hostile)
    with pytest.raises(ProtocolError, match="its meta has a document type"):
        _ = Message(MessageId.IMAGE, body).item


def test_images_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        for _ in range(2):
            output = ImageFile(tmp_path / "out.h5")
            output.append(ismrmrd.Image.from_array(np.zeros((2, 2), np.uint16)))
            output.keep()
            assert stat.S_IMODE((tmp_path / "out.h5").stat().st_mode) == 0o600
    finally:
        os.umask(before)
