"""Nodes: what goes to a gadget, what passes by it, and what happens when it says or does the wrong thing."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import ismrmrd
import numpy as np
import pytest

from gadgets import protocol
from gadgets.protocol import Channel, MessageId, PeerLost
from tests.gadgets.server.tools import (
    Client,
    Replay,
    acquisition,
    configuration,
    connect_node,
    errors,
    listening_gadget,
    of_kind,
    plan_image,
    running_server,
    scan,
    stock_node,
    talk,
)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running_server(idle_seconds=1.0, connect_seconds=0.5) as port:
        yield port


def test_waveforms_pass_stock_gadgets_and_reach_the_node_that_takes_them(port: int) -> None:
    readers = "".join(
        f"<reader><dll>d</dll><classname>{kind}Reader</classname></reader>" for kind in ("Acquisition", "Waveform")
    )
    waveform = ismrmrd.Waveform.from_array(np.arange(12, dtype=np.uint32).reshape(2, 6), waveform_id=3)
    heard = Replay(b"", after=-1)
    with listening_gadget(heard) as gadget:
        nodes = stock_node("NoiseAdjustGadget") + connect_node(gadget)
        config = configuration(nodes, readers=f"<readers>{readers}</readers>")
        assert not talk(port, scan(config, acquisition(1), waveform, acquisition(2)))
    kinds = [message.id for message in heard.received[2:]]
    assert kinds == [MessageId.ACQUISITION, MessageId.WAVEFORM, MessageId.ACQUISITION]
    assert heard.received[3].item == waveform


def test_a_fault_in_every_line_is_one_error(port: int) -> None:
    strict = '<property name="pass_nonconformant_data" value="false"/></gadget>'
    node = stock_node("NoiseAdjustGadget").replace("</gadget>", strict)
    lines = [acquisition(0, coils=3, noise=True), *(acquisition(step, coils=2) for step in range(20))]
    answer = talk(port, scan(configuration(node), *lines, acquisition(1, coils=3)))
    assert errors(answer) == ["[NoiseAdjustGadget] ERROR: an acquisition has 2 coils, the noise scan had 3"]
    assert len(of_kind(answer, MessageId.ACQUISITION)) == 1


@pytest.mark.parametrize(("noise", "reason"), [(3, "noise scans have [3] coils, the lines 2"), (2, "holds no noise")])
def test_noise_that_cannot_be_used_is_one_warning_and_the_lines_pass(port: int, noise: int, reason: str) -> None:
    bad = acquisition(0, coils=noise, noise=True)
    bad.data[:] *= noise != 2
    lines = [acquisition(step, coils=2) for step in range(20)]
    answer = talk(port, scan(configuration(stock_node("NoiseAdjustGadget")), bad, *lines))
    assert not errors(answer)
    [told] = [message.item for message in of_kind(answer, MessageId.TEXT)]
    assert told.startswith("[NoiseAdjustGadget] WARNING: the noise scan cannot be used, nothing is whitened: ")
    assert reason in told
    passed = of_kind(answer, MessageId.ACQUISITION)
    assert len(passed) == 20
    np.testing.assert_array_equal(passed[7].item.data, lines[7].data)


def echo_first_image_late(release: threading.Event) -> Replay:
    """Returns the gadget that does not read until it is released."""

    class Busy(Replay):
        def __call__(self, channel: Channel) -> None:
            release.wait(20)
            super().__call__(channel)

    return Busy(b"", after=-1)


def test_images_pass_a_node_that_neither_reads_nor_accepts_them(port: int) -> None:
    """Head-of-line blocking: the second node is busy, its socket is full, the plan comes through all the same."""
    release, image = threading.Event(), plan_image(7)
    acquisitions = "<writer><dll>gadgetron_core_writers</dll><classname>AcquisitionWriter</classname></writer>"

    def planner(channel: Channel) -> None:
        with contextlib.suppress(PeerLost):
            lines = 0
            while (message := channel.read_message()).id != MessageId.CLOSE:
                if message.id == MessageId.ACQUISITION:
                    channel.send(message.frame)
                    lines += 1
                    if lines == 200:
                        channel.send(protocol.encode(image))
            channel.send(protocol.close())

    busy = echo_first_image_late(release)
    with listening_gadget(planner) as first, listening_gadget(busy) as second, Client(port) as client:
        config = configuration(connect_node(first) + connect_node(second, writers=acquisitions))
        client.send(scan(config, *(acquisition(step, coils=64) for step in range(200)), close=False))  # 7 MB
        arrived = client.read()
        assert not release.is_set()
        assert arrived.item == image
        release.set()
        client.send(protocol.close())
        client.read_to_close()
    assert len(of_kind(busy.received, MessageId.ACQUISITION)) == 200


def test_order_is_kept_by_what_passes_and_by_what_is_processed(port: int) -> None:
    heard = Replay(b"", after=-1)
    with listening_gadget(heard) as gadget:
        nodes = stock_node("RemoveROOversamplingGadget") + connect_node(gadget)
        lines = [acquisition(step) for step in range(50)]
        answer = talk(port, scan(configuration(nodes), *lines))
    assert not answer
    steps = [message.item.scan_counter for message in heard.received if message.id == MessageId.ACQUISITION]
    assert steps == list(range(50))


def test_an_error_from_a_gadget_closes_its_input_but_not_its_output(port: int) -> None:
    received: list[int] = []

    def gadget(channel: Channel) -> None:
        while (message := channel.read_message()).id != MessageId.CLOSE:
            received.append(message.id)
            if received.count(MessageId.ACQUISITION) == 1 and message.id == MessageId.ACQUISITION:
                channel.send(protocol.error("the model is missing"))
        channel.send(protocol.encode(plan_image()))
        channel.send(protocol.close())

    with listening_gadget(gadget) as listening, Client(port) as client:
        client.send(scan(configuration(connect_node(listening)), acquisition(), close=False))
        text = client.read()
        assert text.item == f"[localhost:{listening}] ERROR: the model is missing"
        assert client.read().id == MessageId.IMAGE  # though the client has not said CLOSE: the gadget was told to end
        client.send(*(protocol.encode(acquisition(step)) for step in range(1, 10)), protocol.close())
        assert errors(client.read_to_close()) == [text.item]
    assert received.count(MessageId.ACQUISITION) == 1


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (protocol.text("hello"), "sent a TEXT message"),
        (struct.pack("<H", 999), "unknown message id 999"),
        (b"\xf0\x03\x01", "went away in mid-scan"),
    ],
)
def test_what_a_gadget_may_not_say(port: int, said: bytes, sentence: str) -> None:
    def gadget(channel: Channel) -> None:
        channel.read_message()
        channel.read_message()
        channel.send(said)
        with suppress(OSError):  # the server may have hung up already, at what was said
            channel.socket.shutdown(socket.SHUT_WR)

    with listening_gadget(gadget) as listening:
        (error,) = errors(talk(port, scan(configuration(connect_node(listening)), acquisition())))
    assert sentence in error
    assert f"localhost:{listening}" in error


def test_no_listener_is_an_error_after_a_bounded_time(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    began = time.monotonic()
    (sentence,) = errors(talk(port, scan(configuration(connect_node(free)), acquisition())))
    assert f"[localhost:{free}] ERROR: no gadget listens there" in sentence
    assert time.monotonic() - began < 30


def test_a_listener_that_comes_late_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    heard = Replay(b"", after=-1)
    with running_server(connect_seconds=10.0) as port, Client(port) as client:
        client.send(scan(configuration(connect_node(free)), acquisition()))
        time.sleep(0.5)
        with listening_gadget(heard, free):
            assert not client.read_to_close()
    assert len(of_kind(heard.received, MessageId.ACQUISITION)) == 1
