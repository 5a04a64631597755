"""Framing: the recorded bytes go in and come out, absurd ones are refused before memory is taken for them."""

from __future__ import annotations

import contextlib
import ctypes
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import ismrmrd
import numpy as np
import pytest
from gadgetron.types.recon_data import ReconBit, ReconBuffer, ReconData, SamplingDescription

from gadgets import protocol
from gadgets.protocol import Channel, Message, MessageId, PeerLost, ProtocolError
from pass_recon.types import InputError
from tests.gadgets.server.tools import acquisition, plan_image

RECORDINGS = {
    "client_to_server_acquisitions": {"CONFIG_SCRIPT": 1, "HEADER": 1, "ACQUISITION": 80, "CLOSE": 1},
    "client_to_server_default": {"CONFIG_FILE": 1, "HEADER": 1, "ACQUISITION": 64, "CLOSE": 1},
    "gadget_to_server_acquisitions": {"IMAGE": 1, "CLOSE": 1},
    "server_to_client_default": {"IMAGE": 1, "CLOSE": 1},
    "server_to_gadget_images": {"CONFIG_SCRIPT": 1, "HEADER": 1, "IMAGE": 1, "CLOSE": 1},
    "server_to_gadget_recondata": {"CONFIG_SCRIPT": 1, "HEADER": 1, "RECON_DATA": 1, "CLOSE": 1},
}


@contextlib.contextmanager
def connected() -> Iterator[tuple[Channel, Channel]]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = Channel.connect(*listening.getsockname())
        far = Channel(listening.accept()[0])
    try:
        yield near, far
    finally:
        near.close()
        far.close()


def messages_of(data: bytes, chunks: list[int] | None = None) -> list[Message]:
    """All messages in a stream that is sent in pieces of the given sizes."""
    with connected() as (near, far):

        def send() -> None:
            rest = memoryview(data)
            for size in chunks or [len(data)]:
                near.socket.sendall(rest[:size])
                rest = rest[size:]
            near.socket.sendall(rest)

        sender = threading.Thread(target=send)
        sender.start()
        messages = [far.read_message()]
        while messages[-1].id != MessageId.CLOSE:
            messages.append(far.read_message())
        sender.join()
        return messages


@pytest.mark.parametrize("name", RECORDINGS)
def test_recorded_streams_come_out_as_they_went_in(recordings: Path, name: str) -> None:
    data = (recordings / f"{name}.bin").read_bytes()
    messages = messages_of(data)
    assert b"".join(message.frame for message in messages) == data
    assert Counter(MessageId(message.id).name for message in messages) == RECORDINGS[name]


def test_pieces_of_any_size(recordings: Path) -> None:
    data = (recordings / "client_to_server_default.bin").read_bytes()
    rng = random.Random(0)
    chunks = [1] * 4000 + [rng.randrange(1, 3000) for _ in range(100)]
    assert b"".join(message.frame for message in messages_of(data, chunks)) == data


@pytest.mark.parametrize(
    "name", ["client_to_server_default", "server_to_gadget_recondata", "server_to_gadget_acquisitions"]
)
def test_decoded_and_encoded_again_nothing_changes(recordings: Path, name: str) -> None:
    kinds = (MessageId.ACQUISITION, MessageId.RECON_DATA)
    messages = [m for m in messages_of((recordings / f"{name}.bin").read_bytes()) if m.id in kinds]
    assert messages
    for message in messages:
        assert protocol.message_of(message.item) == Message(message.id, message.body)


def test_image_with_meta(recordings: Path) -> None:
    image = messages_of((recordings / "server_to_client_acquisitions.bin").read_bytes())[0].item
    assert image.meta["DataRole"] == "SamplingPlan"
    assert image.meta["lines"] == ["1", "5", "9"]
    assert image.data.dtype == np.uint16
    assert Message(MessageId.IMAGE, protocol.encode(image)[2:]).item == image


def test_recon_data_with_every_optional_part() -> None:
    headers = np.empty((3, 1), dtype=object)
    for index in range(3):
        headers[index, 0] = ismrmrd.AcquisitionHeader(scan_counter=index)
    data = (np.arange(24) + 1j).astype(np.complex64).reshape(4, 3, 2)
    trajectory, density = np.ones((2, 4), np.float32), np.full(4, 2, np.float32)
    reference = ReconBuffer(data[:, :1], None, None, headers[:1], SamplingDescription())
    sampling = SamplingDescription(encoded_matrix=(4, 3, 1))
    sent = ReconData([ReconBit(ReconBuffer(data, trajectory, density, headers, sampling), reference)])
    received = protocol.message_of(sent).item[0]
    np.testing.assert_array_equal(received.data.data, data)
    np.testing.assert_array_equal(received.data.trajectory, trajectory)
    np.testing.assert_array_equal(received.data.density, density)
    assert [header.scan_counter for header in received.data.headers.ravel()] == [0, 1, 2]
    assert list(received.data.sampling.encoded_matrix) == [4, 3, 1]
    assert received.ref.data.shape == (4, 1, 2)
    assert received.ref.trajectory is None


def test_strings_queries_and_names() -> None:
    stream = [
        protocol.config_file("pass_recon.xml"),
        protocol.config_script("<a/>"),
        protocol.header(b"<h/>"),
        protocol.text("größer"),
        protocol.query("gadgetron::version", 7),
        protocol.response(7, "4.7.2"),
        protocol.error("no ACS"),
        protocol.close(),
    ]
    items = [message.item for message in messages_of(b"".join(stream))]
    assert items == [
        "pass_recon.xml",
        b"<a/>",
        b"<h/>",
        "größer",
        (7, "gadgetron::version"),
        (7, "4.7.2"),
        "no ACS",
        None,
    ]


def test_error_layout_is_that_of_the_protocol() -> None:
    assert protocol.error("né") == struct.pack("<HQ", 8, 3) + "né".encode()


def test_a_name_longer_than_its_field_is_refused() -> None:
    with pytest.raises(InputError, match="1024 bytes"):
        protocol.config_file("x" * 1024)


def _absurd_acquisition() -> bytes:
    head = ismrmrd.AcquisitionHeader(number_of_samples=65535, active_channels=65535)
    return struct.pack("<H", 1008) + bytes(head)


def _absurd_image() -> bytes:
    head = ismrmrd.ImageHeader(data_type=ismrmrd.DATATYPE_CXFLOAT, channels=65535)
    head.matrix_size[:] = (65535, 65535, 65535)
    return struct.pack("<H", 1022) + bytes(head) + struct.pack("<Q", 0)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (struct.pack("<HI", 2, 0xFFFFFFFF), "CONFIG_SCRIPT refused: a field asks for 4294967295 bytes"),
        (struct.pack("<HI", 3, 0xFFFFFFFF), "HEADER refused"),
        (struct.pack("<HI", 5, 0xFFFFFFFF), "TEXT refused"),
        (struct.pack("<HQQQ", 6, 0, 0, 2**64 - 1), "QUERY refused"),
        (struct.pack("<HQ", 8, 2**63), "ERROR refused"),
        (_absurd_acquisition(), "ACQUISITION refused: a field asks for 34358689800 bytes"),
        (_absurd_image(), "IMAGE refused"),
        (struct.pack("<HQQQQ", 1023, 1, 2, 2**40, 2**40), "RECON_DATA refused"),
        (struct.pack("<HQQ", 1023, 1, 2**40), "an array of 1099511627776 axes"),
        (struct.pack("<H", 1050), "unknown message id 1050"),
        (struct.pack("<H", 77), "unknown message id 77"),
    ],
)
def test_absurd_sizes_and_ids_are_refused_before_memory_is_taken(data: bytes, sentence: str) -> None:
    with connected() as (near, far):
        near.send(data)
        with pytest.raises(ProtocolError, match=sentence):
            far.read_message()


@pytest.mark.parametrize("kind", [ismrmrd.DATATYPE_SHORT, ismrmrd.DATATYPE_INT, 99])
def test_image_types_that_a_gadgetron_refuses_are_refused(kind: int) -> None:
    head = ismrmrd.ImageHeader(data_type=kind, channels=1)
    with connected() as (near, far):
        near.send(struct.pack("<H", 1022) + bytes(head) + struct.pack("<Q", 0))
        with pytest.raises(ProtocolError, match=f"data type {kind}"):
            far.read_message()


@pytest.mark.parametrize("sent", [0, 1, 2, 100, 341, 400])
def test_a_peer_that_goes_away_is_noticed_at_once(sent: int) -> None:
    with connected() as (near, far):
        near.socket.sendall(protocol.encode(acquisition())[:sent])
        near.close()
        with pytest.raises(PeerLost):
            far.read_message()


def test_sending_to_nobody_is_an_error() -> None:
    with connected() as (near, far):
        far.close()
        with pytest.raises(PeerLost):
            near.send(bytes(64 << 20))  # more than any socket buffers


def test_closing_wakes_a_reader() -> None:
    with connected() as (near, _):
        lost = threading.Event()

        def read() -> None:
            with contextlib.suppress(PeerLost, OSError):
                near.read_message()
            lost.set()

        reader = threading.Thread(target=read)
        reader.start()
        near.close()
        assert lost.wait(30)
        reader.join()


def test_many_senders_do_not_interleave() -> None:
    frames = [protocol.encode(acquisition(step, coils=4)) for step in range(20)]
    with connected() as (near, far):
        senders = [threading.Thread(target=lambda: [near.send(frame) for frame in frames]) for _ in range(4)]
        for sender in senders:
            sender.start()
        counters = Counter(far.read_message().item.scan_counter for _ in range(80))
        for sender in senders:
            sender.join()
    assert counters == dict.fromkeys(range(20), 4)


def test_unknown_items_have_no_message() -> None:
    with pytest.raises(TypeError, match="no message carries a dict"):
        protocol.encode({})


def test_error_texts_are_recognised() -> None:
    assert protocol.is_error_text("[Connection Main Thread/Stream] ERROR: boom")
    assert not protocol.is_error_text("an ERROR: boom")


def test_sizes_in_headers_are_those_of_the_body() -> None:
    image, line = plan_image(), acquisition()
    assert len(protocol.message_of(line).body) == ctypes.sizeof(ismrmrd.AcquisitionHeader) + line.data.nbytes
    meta = len(image.attribute_string.encode())
    assert len(protocol.message_of(image).body) == ctypes.sizeof(ismrmrd.ImageHeader) + 8 + meta + image.data.nbytes


def test_strings_end_at_a_nul_that_their_length_may_count() -> None:
    for identifier, terminated in ((MessageId.CONFIG_SCRIPT, b"<a/>\0"), (MessageId.HEADER, b"<a/>\0\0")):
        message = Message(identifier, struct.pack("<I", len(terminated)) + terminated)
        assert message.item == b"<a/>"
        assert message.terminated
    message = Message(MessageId.TEXT, protocol.text("größer", terminated=True)[2:])
    assert (message.item, message.terminated) == ("größer", True)
    message = Message(MessageId.TEXT, protocol.text("größer")[2:])
    assert (message.item, message.terminated) == ("größer", False)


def test_an_image_whose_meta_is_no_xml_is_unreadable_but_an_image() -> None:
    image = ismrmrd.Image.from_array(
        np.arange(6, dtype=np.float32).reshape(2, 3), transpose=False, image_series_index=7
    )
    body = Message(MessageId.IMAGE, protocol.encode(image)[2:]).body
    head = ctypes.sizeof(ismrmrd.ImageHeader)
    for meta in (b"<not xml", b"<other/>", b"\xff\xfe\xfd"):
        broken = Message(MessageId.IMAGE, body[:head] + struct.pack("<Q", len(meta)) + meta + body[head + 8 :])
        with pytest.raises(ProtocolError, match="unreadable IMAGE"):
            _ = broken.item
        left = protocol.image_without_meta(broken.body)
        np.testing.assert_array_equal(left.data, image.data)
        assert left.image_series_index == 7


def test_a_peer_that_is_there_and_does_nothing_is_given_up() -> None:
    with connected() as (near, _):
        near.give_up_after(reading=0.2, sending=0.2)
        with pytest.raises(protocol.PeerStalled, match="stopped sending"):
            near.read_message()
        with pytest.raises(protocol.PeerStalled, match="stopped taking"):
            near.send(b"x" * (64 << 20))
