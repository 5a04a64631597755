"""The guarded connection, over a socket pair: no library server and no process in between."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from gadgetron.types.recon_data import ReconBit, ReconData
from ismrmrd import Image

from gadgets import mrd, protocol
from gadgets.acs_buffer import buffer_lines
from gadgets.anomaly_overlay import overlay
from gadgets.mask_feedback import feed_back
from gadgets.pass_reconstruction import reconstruct
from gadgets.protocol import Channel, MessageId
from gadgets.protocol.bytes import U16
from gadgets.protocol.connection import Failure, GadgetConnection, converse
from gadgets.protocol.messages import read_body
from pass_recon.pipeline import Pipeline
from tests.gadgets.acquisitions import header, kspace, lines_of, scan

CONFIG = '<configuration><property name="acceleration" value="4"/></configuration>'


class Peer:
    """The server's end: sends bytes, and collects what comes back."""

    def __init__(self, config: str = CONFIG, head: str | None = None) -> None:
        self.theirs, ours = socket.socketpair(socket.AF_UNIX)
        self.lost = threading.Event()
        self.theirs.settimeout(10)
        self.send(protocol.config_script(config), protocol.header(head or header()))
        self.accepted: GadgetConnection | None = None
        self._ours = ours

    def accept(self) -> GadgetConnection:
        return GadgetConnection.accept(self._ours)

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.theirs.sendall(frame)

    def received(self) -> list[protocol.Message]:
        """All messages until the gadget hangs up."""
        data = b""
        while chunk := self.theirs.recv(1 << 16):
            data += chunk
        place, messages = 0, []

        def read(count: int) -> bytes:
            nonlocal place
            place += count
            assert place <= len(data), "the gadget stopped in the middle of a message"
            return data[place - count : place]

        while place < len(data):
            identifier = U16.unpack(read(2))[0]
            messages.append(protocol.Message(identifier, read_body(identifier, read)))
        return messages


@pytest.fixture(autouse=True)
def _unix_sockets_have_no_tcp_options(monkeypatch):
    """A socket pair stands in for TCP here; the options themselves are tested over TCP with processes."""
    original = socket.socket.setsockopt

    def setsockopt(self, level, *rest):
        if level != socket.IPPROTO_TCP:
            original(self, level, *rest)

    monkeypatch.setattr(socket.socket, "setsockopt", setsockopt)


@contextmanager
def conversation(peer: Peer, stage) -> Iterator[list[bool]]:
    """A gadget with this stage on a thread; the list holds what `converse` returned, or nothing if it raised."""
    outcome: list[bool] = []

    def run() -> None:
        try:
            outcome.append(converse(peer.accept(), lambda the_scan: lambda items: stage(items, the_scan)))
        except protocol.PeerLost:
            peer.lost.set()

    thread = threading.Thread(target=run)
    thread.start()
    yield outcome
    thread.join(30)
    assert not thread.is_alive(), "the gadget did not end"
    peer.theirs.close()


def ids(messages):
    return [MessageId(message.id).name for message in messages]


def frames(k=None):
    return [protocol.encode(made) for made in lines_of(kspace() if k is None else k)]


def test_a_scan_goes_through_and_ends_with_close():
    peer = Peer()
    with conversation(peer, buffer_lines) as outcome:
        peer.send(*frames(), protocol.close())
        messages = peer.received()
    assert ids(messages) == ["RECON_DATA", "RECON_DATA", "CLOSE"]
    (whole,) = mrd.slices_of(messages[1].item, scan())
    np.testing.assert_array_equal(whole.kspace, kspace())
    assert outcome == [True]


def test_one_byte_at_a_time():
    k = kspace(ro=4, pe=12, coils=1)
    peer = Peer(head=header(ro=4, pe=12, limits=None))
    stream = b"".join([*frames(k), protocol.close()])
    with conversation(peer, buffer_lines):
        for number in range(len(stream)):
            peer.send(stream[number : number + 1])
        messages = peer.received()
    assert ids(messages) == ["RECON_DATA", "RECON_DATA", "CLOSE"]


def test_each_message_is_one_write(monkeypatch):
    writes = []
    monkeypatch.setattr(Channel, "send", lambda self, frame: writes.append(frame))
    peer = Peer()
    with conversation(peer, buffer_lines):
        peer.send(*frames(), protocol.close())
    assert [U16.unpack_from(frame)[0] for frame in writes] == [1023, 1023, MessageId.CLOSE]


def test_reading_never_stops_while_a_stage_is_busy():
    peer, release = Peer(), threading.Event()

    def stuck(items, the_scan):
        next(items)
        release.wait(20)
        yield from buffer_lines(items, the_scan)

    with conversation(peer, stuck):
        peer.theirs.settimeout(5)
        for _ in range(40):  # far more than a socket buffer holds
            peer.send(*frames())
        release.set()
        peer.send(protocol.close())
        assert ids(peer.received())[-1] == "CLOSE"


def test_text_from_the_client_is_logged(caplog):
    peer = Peer()
    with caplog.at_level(logging.INFO), conversation(peer, buffer_lines):
        peer.send(protocol.text("hello from the scanner"), *frames(), protocol.close())
        assert ids(peer.received()) == ["RECON_DATA", "RECON_DATA", "CLOSE"]
    assert "hello from the scanner" in caplog.text


def test_exception_reaches_the_client_as_an_error_and_reading_goes_on():
    peer = Peer()

    def broken(items, the_scan):
        yield next(buffer_lines(items, the_scan))
        raise ZeroDivisionError("division of the scan by zero")

    with conversation(peer, broken) as outcome:
        peer.send(*frames())
        for _ in range(40):
            peer.send(*frames())
        peer.send(protocol.close())
        messages = peer.received()
    assert ids(messages) == ["RECON_DATA", "ERROR", "CLOSE"]
    assert messages[1].item == "ZeroDivisionError: division of the scan by zero"
    assert outcome == [False]


def test_behind_connect_an_error_waits_for_the_end_of_the_input():
    """A server that receives it earlier hangs up on a client that still sends, and that never reads the sentence."""
    peer, raised = Peer(), threading.Event()

    def broken(items, the_scan):
        next(items)
        raised.set()
        raise ZeroDivisionError("at the first line")
        yield

    with conversation(peer, broken):
        peer.send(frames()[0])
        assert raised.wait(30)
        peer.theirs.settimeout(0.3)
        with pytest.raises(TimeoutError):
            peer.theirs.recv(1)
        peer.theirs.settimeout(10)
        peer.send(*frames()[1:], protocol.close())
        assert ids(peer.received()) == ["ERROR", "CLOSE"]


def test_warnings_are_no_errors(caplog):
    peer = Peer()

    def stage(items, the_scan):
        yield Failure("slice 0: the plan was late", "warning")

    with conversation(peer, stage) as outcome:
        peer.send(frames()[0], protocol.close())
        messages = peer.received()
    assert ids(messages) == ["ERROR", "CLOSE"], "a gadget has no other message that a client is told of"
    assert messages[0].item == "WARNING: slice 0: the plan was late"
    assert outcome == [True]
    assert "the plan was late" in caplog.text


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        (lambda items, the_scan: feed_back(items, the_scan, Pipeline()), "no line of an image came"),
        (lambda items, the_scan: reconstruct(items, the_scan, Pipeline()), "no slice came to be reconstructed"),
        (lambda items, the_scan: overlay(items), "no image came from the reconstruction"),
    ],
)
def test_a_stage_that_sees_its_input_end_with_nothing_in_it_says_so(stage, sentence):
    """What a killed stage before it looks like: a normal CLOSE."""
    peer = Peer()
    with conversation(peer, stage):
        peer.send(protocol.close())
        messages = peer.received()
    assert ids(messages) == ["ERROR", "CLOSE"]
    assert sentence in messages[0].item


def test_header_and_configuration_may_end_with_a_nul():
    peer = Peer(config=CONFIG + "\0", head=header() + "\0")
    with conversation(peer, buffer_lines):
        peer.send(*frames(), protocol.close())
        assert ids(peer.received()) == ["RECON_DATA", "RECON_DATA", "CLOSE"]


@pytest.mark.parametrize(("whole_chain", "expected"), [(True, 8.0), (False, 4.0)])
def test_parameters_as_text_count_where_they_reach_the_whole_chain(whole_chain, expected, caplog):
    peer, seen = Peer(), []

    def run():
        converse(peer.accept(), prepare_and_note, whole_chain=whole_chain)

    def prepare_and_note(the_scan):
        def stage(items):
            seen.append(the_scan.properties.acceleration)
            yield from buffer_lines(items, the_scan)

        return stage

    thread = threading.Thread(target=run)
    thread.start()
    peer.send(protocol.text('{"parameters": {"acceleration": "8", "colour": "red"}}\0'), *frames(), protocol.close())
    peer.received()
    thread.join(30)
    peer.theirs.close()
    assert seen == [expected]
    assert ("colour" in caplog.text) or not whole_chain
    assert ("are ignored: they reach this stage" in caplog.text) == (not whole_chain)


def test_a_wrong_parameter_is_an_error():
    peer = Peer()
    thread = threading.Thread(
        target=lambda: converse(peer.accept(), lambda the_scan: lambda items: items, whole_chain=True)
    )
    thread.start()
    peer.send(protocol.text('{"parameters": {"acceleration": "x"}}'), *frames(), protocol.close())
    messages = peer.received()
    thread.join(30)
    peer.theirs.close()
    assert ids(messages) == ["ERROR", "CLOSE"]
    assert "'acceleration' must be a number" in messages[0].item


def test_exception_after_the_end_of_the_input_is_told_too():
    peer = Peer()

    def broken(items, the_scan):
        yield from buffer_lines(items, the_scan)
        raise ZeroDivisionError("too late")

    with conversation(peer, broken) as outcome:
        peer.send(*frames(), protocol.close())
        assert ids(peer.received()) == ["RECON_DATA", "RECON_DATA", "ERROR", "CLOSE"]
    assert outcome == [False]


def test_error_message_is_as_the_real_server_reads_it():
    assert protocol.error("größer") == b"\x08\x00" + (8).to_bytes(8, "little") + "größer".encode()


def test_failures_are_told_at_the_end_because_an_error_ends_the_input():
    peer, told = Peer(), threading.Event()

    def stage(items, the_scan):
        yield Failure("slice 0: first", "processing")
        yield Failure("slice 0: first", "processing")
        told.set()
        yield from buffer_lines(items, the_scan)
        yield Failure("slice 1: second", "input")

    with conversation(peer, stage) as outcome:
        peer.send(frames()[0])
        assert told.wait(30)
        peer.theirs.settimeout(0.3)
        with pytest.raises(TimeoutError):
            peer.theirs.recv(1)
        peer.theirs.settimeout(10)
        peer.send(*frames()[1:], protocol.close())
        messages = peer.received()
    assert ids(messages) == ["RECON_DATA", "RECON_DATA", "ERROR", "ERROR", "CLOSE"]
    assert [message.item for message in messages[2:4]] == ["slice 0: first", "slice 1: second"]
    assert outcome == [True]


def test_stage_that_ends_early_still_reads_to_close():
    peer, ended = Peer(), threading.Event()

    def stage(items, the_scan):
        yield next(items)
        ended.set()

    with conversation(peer, stage) as outcome:
        peer.send(frames()[0])
        assert ended.wait(30)
        time.sleep(0.1)
        peer.send(*frames()[1:], protocol.close())
        assert ids(peer.received()) == ["ACQUISITION", "CLOSE"]
    assert outcome == [True]


def test_very_many_failures_are_cut_short():
    peer = Peer()

    def stage(items, the_scan):
        yield from (Failure(f"number {n}", "input") for n in range(100))

    with conversation(peer, stage):
        peer.send(frames()[0], protocol.close())
        messages = peer.received()
    assert ids(messages).count("ERROR") == 21
    assert messages[-2].item == "and 80 more failures, see the log"


@pytest.mark.parametrize("dtype", ["int16", "int64", "float64", "complex128"])
def test_types_that_the_server_refuses_become_an_error(dtype):
    peer = Peer()

    def stage(items, the_scan):
        yield Image.from_array(np.ones((4, 4), dtype=dtype))

    with conversation(peer, stage):
        peer.send(frames()[0], protocol.close())
        messages = peer.received()
    assert ids(messages) == ["ERROR", "CLOSE"]
    assert f"an image of {dtype} cannot be sent, only uint16, uint32, float32, complex64" in messages[0].item


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "float32", "complex64"])
def test_types_that_the_server_takes(dtype):
    peer = Peer()

    def stage(items, the_scan):
        yield Image.from_array(np.arange(12, dtype=dtype).reshape(3, 4), transpose=False)

    with conversation(peer, stage):
        peer.send(frames()[0], protocol.close())
        messages = peer.received()
    assert ids(messages) == ["IMAGE", "CLOSE"]
    np.testing.assert_array_equal(messages[0].item.data[0, 0], np.arange(12, dtype=dtype).reshape(3, 4))


def test_buffers_must_be_complex64():
    peer = Peer()

    def stage(items, the_scan):
        message = next(buffer_lines(items, the_scan))
        buffer = message[0].data
        buffer.data = buffer.data.astype(np.complex128)
        yield ReconData([ReconBit(buffer)])

    with conversation(peer, stage):
        peer.send(*frames(), protocol.close())
        messages = peer.received()
    assert ids(messages) == ["ERROR", "CLOSE"]
    assert "complex128" in messages[0].item


def test_lost_peer_ends_the_conversation_at_once():
    peer = Peer()
    with conversation(peer, buffer_lines) as outcome:
        peer.send(*frames()[:5])
        peer.send(frames()[5][:100])
        began = time.monotonic()
        peer.theirs.close()
        assert peer.lost.wait(30)
    assert time.monotonic() - began < 30
    assert outcome == []


def test_lost_peer_does_not_spin():
    peer = Peer()
    connection = peer.accept()
    peer.theirs.close()
    with pytest.raises(protocol.PeerLost):
        next(connection.items())
    connection.hang_up()
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


def test_peer_that_is_gone_when_we_finish_raises_nothing():
    peer = Peer()
    connection = peer.accept()
    peer.send(protocol.close())
    assert list(connection.items()) == []
    peer.theirs.close()
    connection.send(Failure("nobody will hear this", "input"))
    connection.finish()


def test_message_with_unknown_id_ends_with_an_error_sentence():
    peer = Peer()
    with conversation(peer, buffer_lines) as outcome:
        peer.send(*frames()[:3], U16.pack(4711), b"whatever follows cannot be understood" * 1000)
        peer.theirs.shutdown(socket.SHUT_WR)
        messages = peer.received()
    assert ids(messages)[-2:] == ["ERROR", "CLOSE"]
    assert "4711" in messages[-2].item
    assert outcome == [False]


@pytest.mark.parametrize(
    ("config", "head", "sentence"),
    [
        ('<configuration><property name="bundel" value="x"/></configuration>', None, "unknown property 'bundel'"),
        (CONFIG, header(z=12), "z = 12"),
        (CONFIG, header(trajectory="radial"), "'radial'"),
        (CONFIG, "<nonsense/>", "not an ISMRMRD header"),
    ],
)
def test_scan_wide_faults_are_told_at_once_and_the_rest_is_drained(config, head, sentence):
    peer = Peer(config, head)
    with conversation(peer, buffer_lines) as outcome:
        peer.send(*frames())
        peer.send(protocol.close())
        messages = peer.received()
    assert ids(messages) == ["ERROR", "CLOSE"]
    assert sentence in messages[0].item
    assert outcome == [False]


def test_later_nodes_of_a_chain_do_not_repeat_the_fault_of_a_header():
    peer = Peer(head=header(z=12))
    with conversation(peer, buffer_lines):
        peer.send(protocol.close())
        assert ids(peer.received()) == ["CLOSE"]


def test_header_without_version_and_empty_configuration():
    peer = Peer(config="")
    with conversation(peer, buffer_lines):
        peer.send(*frames(), protocol.close())
        assert ids(peer.received()) == ["RECON_DATA", "RECON_DATA", "CLOSE"]


def test_handshake_that_is_none():
    theirs, ours = socket.socketpair()
    theirs.sendall(frames()[0])
    with pytest.raises(protocol.ProtocolError, match="expected CONFIG_SCRIPT"):
        GadgetConnection.accept(ours)
    theirs.close()
    ours.close()


def test_what_is_to_be_forwarded_does_not_wait_for_the_stage():
    peer, release = Peer(), threading.Event()
    plan = Image.from_array(np.ones((1, 1, 8), dtype=np.uint16), transpose=False, image_series_index=mrd.PLAN_SERIES)
    other = Image.from_array(np.ones((4, 4), dtype=np.float32))

    def slow(items, the_scan):
        for item in items:
            release.wait(20)
            yield item

    def run():
        converse(peer.accept(), lambda the_scan: lambda items: slow(items, the_scan), forward=mrd.is_plan)

    thread = threading.Thread(target=run)
    thread.start()
    peer.send(protocol.encode(other))
    time.sleep(0.2)
    peer.send(protocol.encode(plan))
    peer.theirs.settimeout(5)
    assert peer.theirs.recv(len(protocol.encode(plan)), socket.MSG_WAITALL) == protocol.encode(plan)
    release.set()
    peer.send(protocol.close())
    assert ids(peer.received()) == ["IMAGE", "CLOSE"]
    thread.join(30)
    peer.theirs.close()
