"""Sessions as clients see them: the recorded ones, unfriendly ones, several at once."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gadgets import protocol
from gadgets.protocol import Channel, Message, MessageId, PeerLost
from gadgets.server.server import serve
from pass_recon.types import InputError
from tests.gadgets.server.tools import (
    HEADER,
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

RECORDED_PORT = 18100  # that the recorded configurations connect to


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running_server(idle_seconds=1.0, connect_seconds=0.5) as port:
        yield port


def in_pieces(data: bytes, seed: int | None) -> Iterator[bytes]:
    """Everything at once, or single bytes through configuration, header and some lines and random pieces after."""
    if seed is None:
        yield data
        return
    rng, start = random.Random(seed), 0
    while start < len(data):
        size = 1 if start < 5000 else rng.randrange(1, 4000)
        yield data[start : start + size]
        start += size


@pytest.mark.parametrize("seed", [None, 0])
def test_the_recorded_session_gives_the_recorded_answer(recordings: Path, port: int, seed: int | None) -> None:
    gadget = Replay((recordings / "gadget_to_server_acquisitions.bin").read_bytes(), after=8)
    with listening_gadget(gadget, RECORDED_PORT):
        session = (recordings / "client_to_server_acquisitions.bin").read_bytes()
        answer = talk(port, *in_pieces(session, seed))
    (image,) = answer
    expected = Message(MessageId.IMAGE, (recordings / "server_to_client_acquisitions.bin").read_bytes()[2:-2]).item
    np.testing.assert_array_equal(image.item.data, expected.data)
    assert dict(image.item.meta) == dict(expected.meta)
    kinds = [MessageId(message.id).name for message in gadget.received]
    assert kinds == ["CONFIG_SCRIPT", "HEADER"] + ["ACQUISITION"] * 80
    assert {message.item.number_of_samples for message in gadget.received[2:]} == {64}  # oversampling removed


@pytest.mark.parametrize("seed", [None, 1])
def test_default_by_name_is_an_error_that_says_so(recordings: Path, port: int, seed: int | None) -> None:
    answer = talk(port, *in_pieces((recordings / "client_to_server_default.bin").read_bytes(), seed))
    assert errors(answer) == [
        "[server] ERROR: no configuration 'default.xml' in the configuration folders; they hold none"
    ]


def test_default_by_name_works_where_there_is_one(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "default.xml").write_text(configuration(stock_node("RemoveROOversamplingGadget")))
    with running_server(tmp_path, allow_client_configs=False) as port:
        answer = talk(port, (recordings / "client_to_server_default.bin").read_bytes())
    assert [message.id for message in answer] == [MessageId.ACQUISITION] * 64
    assert {message.item.number_of_samples for message in answer} == {64}


@pytest.mark.parametrize("name", ["recondata", "images"])
def test_recorded_sessions_with_gadgets_that_are_missing(recordings: Path, port: int, name: str) -> None:
    (sentence,) = errors(talk(port, (recordings / f"client_to_server_{name}.bin").read_bytes()))
    assert "BucketToBufferGadget" in sentence.split(";")[0]
    assert "RemoveROOversamplingGadget" in sentence.split(";")[1]


def test_errors_come_as_text_at_once_and_as_error_at_the_end(port: int) -> None:
    answer = talk(port, protocol.config_script(configuration("<parallel/>")), protocol.close())
    assert [message.id for message in answer] == [MessageId.TEXT, MessageId.ERROR]
    assert answer[0].item == answer[1].item
    assert protocol.is_error_text(answer[0].item)


def test_for_the_stock_client_errors_are_text_only() -> None:
    with running_server(stock_client=True) as port:
        answer = talk(port, protocol.config_file("nothing.xml"), protocol.header(HEADER), protocol.close())
    assert [message.id for message in answer] == [MessageId.TEXT]


def test_client_configurations_are_refused_unless_allowed() -> None:
    with running_server(allow_client_configs=False) as port:
        (sentence,) = errors(talk(port, scan(configuration(""), acquisition())))
    assert "--allow-client-configs" in sentence


def test_paths_are_refused(port: int, tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(configuration(""))
    for name in (str(tmp_path / "x.xml"), "../x.xml"):
        (sentence,) = errors(talk(port, protocol.config_file(name), protocol.close()))
        assert "not the name of a configuration" in sentence


def test_queries_are_answered_in_every_phase(port: int) -> None:
    answer = talk(
        port,
        protocol.query("gadgetron::version", 11),
        protocol.config_script(configuration("")),
        protocol.query("gadgetron::info", 12),
        protocol.header(HEADER),
        protocol.query("no such thing", 13),
        protocol.close(),
    )
    replies = dict(message.item for message in of_kind(answer, MessageId.RESPONSE))
    assert replies[11] == "4.7.2"
    assert "NoiseAdjustGadget" in replies[12]
    assert replies[13] == "Unknown query"


def test_a_lone_query_needs_no_configuration(port: int) -> None:
    (reply,) = talk(port, protocol.query("gadgetron::info::memory", 1), protocol.close())
    assert int(reply.item[1]) > 1 << 28


@pytest.mark.parametrize(
    ("frames", "sentence"),
    [
        ([protocol.header(HEADER)], "HEADER before a configuration"),
        ([protocol.config_script(configuration("")), protocol.encode(acquisition())], "ISMRMRD header was expected"),
        ([protocol.config_script(configuration("")), protocol.header("<a/>")], "not an ISMRMRD header"),
        ([protocol.config_script(configuration("")), protocol.header("nonsense")], "not well-formed XML"),
        (
            [protocol.config_script(configuration("")), protocol.header('<!DOCTYPE a [<!ENTITY b "c">]><a/>')],
            "document type",
        ),
        ([scan(configuration(""), close=False), protocol.config_script(configuration(""))], "misplaced CONFIG_SCRIPT"),
        ([scan(configuration(""), close=False), protocol.header(HEADER)], "misplaced HEADER"),
        ([scan(configuration(""), plan_image(), close=False)], "no reader for IMAGE"),
        ([scan(configuration(""), close=False), struct.pack("<H", 4321)], "unknown message id 4321"),
        ([struct.pack("<HI", 2, 0xFFFFFFFF), b"x" * 100000], "CONFIG_SCRIPT refused"),
        ([scan(configuration(""), close=False), struct.pack("<HI", 5, 0xFFFFFFFF)], "TEXT refused"),
    ],
)
def test_what_breaks_the_protocol_is_answered_and_ends(port: int, frames: list[bytes], sentence: str) -> None:
    (said,) = errors(talk(port, *frames))
    assert sentence in said


def test_a_refused_client_that_keeps_sending_still_reads_why(port: int) -> None:
    lines = protocol.encode(acquisition(coils=32)) * 2000  # 32 MB, far more than the sockets hold
    with Client(port) as client:
        client.send(protocol.config_file("nothing.xml"), protocol.header(HEADER), lines, protocol.close())
        assert "nothing.xml" in errors(client.read_to_close())[0]


def test_text_is_logged_unless_a_reader_wants_it(port: int, caplog: pytest.LogCaptureFixture) -> None:
    readers = "<readers><reader><dll>d</dll><classname>TextReader</classname></reader></readers>"
    writers = "<writer><dll>d</dll><classname>TextWriter</classname></writer>"
    with caplog.at_level(logging.INFO, logger="gadgets.server"):
        assert not talk(port, scan(configuration(""), close=False), protocol.text("hello"), protocol.close())
    assert "hello" in caplog.text
    heard = Replay(b"", after=-1)
    with listening_gadget(heard) as gadget:
        config = configuration(connect_node(gadget, writers=writers), readers=readers)
        assert not talk(port, scan(config, close=False), protocol.text("wie geht es"), protocol.close())
    assert [message.item for message in heard.received if message.id == MessageId.TEXT] == ["wie geht es"]


def test_a_chain_whose_stages_differ_in_a_property_warns_the_client(port: int) -> None:
    execute = '<external><execute name="gadgets.{0}" target="{0}" type="python"/>{1}</external>'
    at_8 = '<configuration><property name="acceleration" value="8"/></configuration>'
    chain = execute.format("acs_buffer", at_8) + execute.format("anomaly_overlay", "")
    answer = of_kind(talk(port, scan(configuration(chain))), MessageId.TEXT)
    texts = [message.item for message in answer if protocol.is_warning_text(message.item)]
    assert len(texts) == 1
    assert "differ in the property 'acceleration': 8 for gadgets.acs_buffer, 4 for gadgets.anomaly_overlay" in texts[0]


def test_what_has_no_writer_is_dropped_silently(port: int) -> None:
    only_images = "<writer><dll>gadgetron_core_writers</dll><classname>ImageWriter</classname></writer>"
    assert not talk(port, scan(configuration(stock_node("NoiseAdjustGadget"), writers=only_images), acquisition()))


def test_a_client_lost_in_mid_scan_is_a_normal_end_for_its_gadget_and_nobody_else_notices(port: int) -> None:
    closed = threading.Event()

    def gadget(channel: Channel) -> None:
        while channel.read_message().id != MessageId.CLOSE:
            pass
        closed.set()
        channel.send(protocol.close())

    with listening_gadget(gadget) as listening, Client(port) as other:
        config = configuration(connect_node(listening))
        other.send(scan(configuration(""), acquisition(3), close=False))
        with Client(port) as lost:
            lost.send(scan(config, acquisition(), close=False), protocol.encode(acquisition(1))[:1000])
        assert closed.wait(30)
        assert other.read().item == acquisition(3)
        other.send(protocol.close())
        assert not other.read_to_close()


def test_a_truncated_stream_is_reported_to_a_client_that_still_listens(port: int) -> None:
    with Client(port) as client:
        client.send(scan(configuration(""), acquisition(), close=False), protocol.encode(acquisition(1))[:1000])
        client.channel.socket.shutdown(socket.SHUT_WR)
        answer = client.read_to_close()
    assert "truncated" in errors(answer)[0]
    assert len(of_kind(answer, MessageId.ACQUISITION)) == 1


def test_clients_at_the_same_time_get_each_their_own(port: int) -> None:
    answers: dict[int, list[int]] = {}

    def one(number: int) -> None:
        lines = [acquisition(1000 * number + step) for step in range(100)]
        answer = talk(port, scan(configuration(stock_node("RemoveROOversamplingGadget")), *lines))
        answers[number] = [message.item.scan_counter for message in answer]

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: [1000 * number + step for step in range(100)] for number in range(4)}


def test_a_client_that_does_not_read_harms_only_itself(port: int) -> None:
    lines = [protocol.encode(acquisition(step, coils=64)) for step in range(300)]  # 10 MB that come straight back
    with Client(port) as stalled:
        stalled.send(protocol.config_script(configuration("")), protocol.header(HEADER), *lines)
        assert len(talk(port, scan(configuration(""), acquisition()))) == 1
        stalled.send(protocol.close())
        assert len(stalled.read_to_close()) == 300


def test_sessions_are_logged_with_counts_and_duration(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="gadgets.server"):
        talk(port, scan(configuration(""), acquisition(), acquisition(1)))
        deadline = time.monotonic() + 5
        while "ends after" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "1 CONFIG_SCRIPT 1 HEADER 2 ACQUISITION 1 CLOSE, sent 2 ACQUISITION, 0 errors" in caplog.text


def test_stopping_cuts_off_sessions() -> None:
    with listening_gadget(Replay(b"", after=-1)) as gadget, contextlib.ExitStack() as clients:
        with running_server() as port:  # which checks that it stops within three seconds
            for _ in range(3):
                client = clients.enter_context(Client(port))
                client.send(scan(configuration(connect_node(gadget)), acquisition(), close=False))
            time.sleep(0.2)
        with pytest.raises((PeerLost, ConnectionError)):
            client.read()


def test_addresses_and_folders_that_cannot_be_used_are_refused(tmp_path: Path, port: int) -> None:
    with pytest.raises(InputError, match="no such configuration folder"):
        serve(config_folders=[tmp_path / "missing"])
    with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}"):
        serve(port=port)
    with pytest.raises(InputError, match="cannot listen"):
        serve(port=70000)


def test_it_listens_on_loopback_unless_told_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()
    stop.set()
    with caplog.at_level(logging.WARNING, logger="gadgets.server"):
        serve(port=0, stop=stop)
        assert "loopback" not in caplog.text
        serve("0.0.0.0", port=0, stop=stop)
        assert "0.0.0.0 is not a loopback address" in caplog.text


def test_localhost_is_reached_over_ipv4() -> None:
    with running_server(host="localhost") as port:
        assert len(talk(port, scan(configuration(""), acquisition()))) == 1
