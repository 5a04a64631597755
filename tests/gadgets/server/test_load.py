"""More clients, slower ones, and ones that mean harm: each hears why it is refused, others notice nothing."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gadgets import protocol
from gadgets.protocol import MessageId, PeerLost
from gadgets.server import server
from gadgets.server.server import serve
from gadgets.server.settings import ServerSettings
from pass_recon.common import memory
from tests.gadgets.server.tools import (
    HEADER,
    Client,
    acquisition,
    configuration,
    connect_node,
    errors,
    listening_gadget,
    of_kind,
    running_server,
    scan,
    talk,
)

ROOT = Path(__file__).resolve().parents[3]


def begun(port: int) -> Client:
    """A client in the middle of its scan, whose first line has come back."""
    client = Client(port)
    client.send(scan(configuration(""), acquisition(), close=False))
    assert client.read().id == MessageId.ACQUISITION
    return client


def test_more_scans_than_are_allowed_are_refused_with_the_figure() -> None:
    with running_server(max_scans=2) as port, begun(port), begun(port) as second:
        assert errors(talk(port, scan(configuration(""), acquisition()))) == [
            "[server] ERROR: the server runs 2 scans already and takes no more (--max-scans)"
        ]
        second.send(protocol.close())
        assert not second.read_to_close()
        deadline = time.monotonic() + 10
        while errors(answer := talk(port, scan(configuration(""), acquisition()))) and time.monotonic() < deadline:
            pass
        assert len(of_kind(answer, MessageId.ACQUISITION)) == 1


def test_idle_connections_are_bounded_and_told_why() -> None:
    with running_server(max_scans=1) as port, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(Client(port)) for _ in range(40)]
        sentence = "the server has 33 connections and takes no more"
        assert any(sentence in message.item for message in idle[-1].read_to_close())


def test_a_server_that_can_start_no_thread_says_so_and_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith(("session-", "to-client")):
            raise RuntimeError("can't start new thread")
        start(thread)

    with running_server() as port:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            with Client(port) as client:
                said = [message.item for message in client.read_to_close()]
        assert "the server cannot take one more client (can't start new thread)" in said[0]
        assert len(talk(port, scan(configuration(""), acquisition()))) == 1


@pytest.mark.parametrize(
    ("settings", "frames", "sentence"),
    [
        ({"handshake_seconds": 0.3}, b"", "nothing has come for 0.3 s"),
        ({"silence_seconds": 0.3}, scan(configuration(""), acquisition(), close=False), "nothing has come for 0.3 s"),
        ({"message_seconds": 0.3}, protocol.config_file("x")[:10], "has begun and not ended within 0.3 s"),
    ],
)
def test_a_client_that_is_silent_or_stops_in_a_message_is_dropped(settings, frames, sentence) -> None:
    with running_server(**settings) as port, Client(port) as client:
        client.send(frames)
        assert sentence in errors(client.read_to_close())[0]


def test_a_client_that_drips_is_dropped() -> None:
    frame = protocol.encode(acquisition(coils=64))
    with running_server(message_seconds=0.5) as port, Client(port) as client:
        client.send(scan(configuration(""), close=False))
        began = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in frame[:600]:
                client.send(bytes([byte]))
                time.sleep(0.02)
        assert time.monotonic() - began < 10
        assert "has begun and not ended" in errors(client.read_to_close())[0]


def test_a_client_that_does_not_read_is_dropped_and_holds_no_more_than_may_wait() -> None:
    lines = [protocol.encode(acquisition(step, coils=64)) for step in range(30)]
    with running_server(sending_seconds=0.5, waiting_bytes=1 << 20) as port, Client(port) as client:
        client.send(protocol.config_script(configuration("")), protocol.header(HEADER))
        with contextlib.suppress(OSError):
            for _ in range(100):
                client.send(*lines)
            client.send(protocol.close())
        with pytest.raises((PeerLost, OSError)):
            client.read_to_close()


def test_what_a_client_sends_ahead_waits_with_the_client() -> None:
    """A gadget that reads nothing: the server takes no more than may wait, and the client's sends stop."""
    lines = b"".join(protocol.encode(acquisition(step, coils=64)) for step in range(300))
    release = threading.Event()
    with (
        listening_gadget(lambda channel: (release.wait(60), None)[1]) as gadget,
        running_server(waiting_bytes=1 << 20, grace_seconds=0.5) as port,
        Client(port) as client,
    ):
        client.send(scan(configuration(connect_node(gadget)), close=False))
        client.channel.socket.settimeout(1.0)
        with pytest.raises(TimeoutError):
            client.send(*[lines] * 20)
        release.set()


@pytest.mark.parametrize("ends", [True, False])
def test_a_server_that_drains_lets_scans_end_and_refuses_new_ones(ends: bool) -> None:
    drain, ready, ports = threading.Event(), threading.Event(), []
    settings = ServerSettings(drain_seconds=30.0 if ends else 1.0)
    thread = threading.Thread(
        target=serve,
        kwargs={
            "port": 0,
            "allow_client_configs": True,
            "ready": lambda port: (ports.append(port), ready.set()),
            "drain": drain,
            "settings": settings,
        },
    )
    thread.start()
    assert ready.wait(30)
    with begun(ports[0]) as client:
        drain.set()
        time.sleep(0.5)
        assert errors(talk(ports[0], scan(configuration(""), acquisition()))) == [
            "[server] ERROR: the server is about to end and takes no new scans"
        ]
        if ends:
            client.send(protocol.encode(acquisition(1)), protocol.close())
            assert len(client.read_to_close()) == 1
        thread.join(20)
        assert not thread.is_alive()


def test_sigterm_to_the_command_drains_and_is_exit_code_0() -> None:
    command = [sys.executable, "-m", "pass_recon_cli.main", "serve", "-q", "-p", "0", "--allow-client-configs"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().rpartition(":")[2])
        with begun(port) as client:
            server.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            client.send(protocol.encode(acquisition(1)), protocol.close())
            assert len(client.read_to_close()) == 1
        assert server.wait(30) == 0


def test_what_scans_may_hold_is_a_share_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, str(1 << 30))
    settings = server._within_memory(ServerSettings(max_scans=16))
    assert 16 * (settings.kept_bytes + 4 * settings.waiting_bytes) <= 1 << 30
