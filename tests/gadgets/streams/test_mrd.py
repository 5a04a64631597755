"""Scans through pipes: the messages of the wire, written and read by ismrmrd's own library."""

from __future__ import annotations

import io
import subprocess
import sys

import ismrmrd
import numpy as np
import pytest
from ismrmrd import xsd

import pass_recon_cli.main as command_line
from gadgets.converters.image_file import read_images
from gadgets.mrd.scan_file import ScanFile
from gadgets.offline import Account
from gadgets.properties import Properties
from gadgets.streams.mrd import stream
from pass_recon.types import InputError
from tests.gadgets.scans import patient_file

serialization = pytest.importorskip("ismrmrd.serialization", reason="this version of ismrmrd reads no streams")
CLASSICAL = Properties(bundle="classical", device="cpu")


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return patient_file(tmp_path_factory.mktemp("stream") / "patient.h5", slices=2)


@pytest.fixture(scope="module")
def scan(patient) -> bytes:
    """The patient as ismrmrd's library writes a stream."""
    written = io.BytesIO()
    with ScanFile(patient) as source:
        serializer = serialization.ProtocolSerializer(written)
        serializer.serialize(serialization.ConfigFile("default.xml"))
        serializer.serialize(xsd.CreateFromDocument(source.header_xml))
        for line in source.acquisitions():
            serializer.serialize(line)
        serializer.close()
    return written.getvalue()


def images_in(content: bytes) -> list[ismrmrd.Image]:
    return [one for one in serialization.ProtocolDeserializer(io.BytesIO(content)).deserialize() if _is_image(one)]


def _is_image(item: object) -> bool:
    return isinstance(item, ismrmrd.Image)


def test_same_images_as_recon_through_real_pipes(tmp_path, patient, scan):
    command = [sys.executable, "-m", "pass_recon_cli.main", "stream", "--bundle", "classical", "--device", "cpu"]
    ran = subprocess.run(command, input=scan, capture_output=True, check=True, timeout=120)
    streamed = [image for image in images_in(ran.stdout) if image.image_series_index == 1]
    arguments = ["recon", "-f", str(patient), "-o", str(tmp_path / "o.h5"), "-G", "g", "-q"]
    assert command_line.main([*arguments, "--bundle", "classical", "--device", "cpu"]) == 0
    expected = read_images(tmp_path / "o.h5", "g", 1)
    assert len(streamed) == len(expected) == 2
    for one, other in zip(streamed, expected, strict=True):
        np.testing.assert_array_equal(one.data, other.data)
        assert list(one.position) == list(other.position)


def test_a_stream_that_breaks_off_gives_what_came_and_says_so(scan):
    sink, account = io.BytesIO(), Account()
    stream(io.BytesIO(scan[: len(scan) * 3 // 5]), sink, CLASSICAL, account)
    assert any("ends in the middle of a message" in failure.message for failure in account.failures)
    assert account.failed
    assert images_in(sink.getvalue())


def test_what_is_no_stream_is_said():
    for content, said in (
        (b"", "empty"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "unknown message id"),
        (b"\x03", "header"),
    ):
        with pytest.raises(InputError, match=said):
            stream(io.BytesIO(content), io.BytesIO(), CLASSICAL, Account())


def test_from_and_to_files_whole_or_not_at_all(tmp_path, scan, capsys):
    source, target = tmp_path / "in.mrd", tmp_path / "out.mrd"
    source.write_bytes(scan)
    arguments = ["stream", "-i", str(source), "-o", str(target), "--bundle", "classical", "--device", "cpu"]
    assert command_line.main(arguments) == 0
    assert len(images_in(target.read_bytes())) >= 2
    source.write_bytes(b"nothing")
    assert command_line.main([*arguments[:4], str(tmp_path / "other.mrd")]) == 1
    assert not (tmp_path / "other.mrd").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1
