"""Gadgets in processes of their own: what comes back, how each way of dying reaches the client, nothing left behind."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gadgets import protocol
from gadgets.protocol import MessageId
from tests.gadgets.server.tools import (
    HEADER,
    Client,
    acquisition,
    configuration,
    errors,
    execute_node,
    of_kind,
    running_server,
    scan,
    talk,
)

COUNT = execute_node("count").replace(
    "</external>", '<configuration><property name="factor" value="3"/></configuration></external>'
)
WRITERS = "<writers><writer><dll>d</dll><classname>AcquisitionWriter</classname></writer></writers>"
LINES = [acquisition(step) for step in range(1, 5)]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("configurations")
    (folder / "count.xml").write_text(
        configuration(COUNT + COUNT.replace("<configuration>", WRITERS + "<configuration>"))
    )
    with running_server(folder, grace_seconds=1.0) as port:
        yield port


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(*pids: int) -> bool:
    deadline = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


def children() -> set[int]:
    """Processes that this one has started and not yet reaped."""
    tasks = Path("/proc/self/task")
    while True:
        # A thread that ends meanwhile leaves its children to another, which may have been read before: all anew.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return {int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()}


def test_modules_are_started_configured_and_reaped(port: int) -> None:
    """The second takes acquisitions only: the images of the first pass by it, and no acquisition is left for it."""
    lines = b"".join(protocol.encode(line) for line in LINES)
    answer = talk(port, protocol.config_file("count.xml"), protocol.header(HEADER), lines, protocol.close())
    assert [int(message.item.data.max()) for message in answer] == [3, 6, 9, 12]
    assert not children()


def test_an_exception_in_a_gadget_reaches_the_client_and_so_does_what_came_before(port: int) -> None:
    answer = talk(port, scan(configuration(execute_node("fail_at_third")), *LINES))
    assert len(of_kind(answer, MessageId.IMAGE)) == 2
    (sentence,) = errors(answer)
    assert sentence.startswith("[tests.gadgets.server.children] ERROR: ended with exit code 1")
    assert "out of luck at the third line" in sentence


def test_a_gadget_that_is_killed_in_mid_scan(port: int) -> None:
    answer = talk(port, scan(configuration(execute_node("die")), *LINES))
    (sentence,) = errors(answer)
    assert "[tests.gadgets.server.children] ERROR: went away in mid-scan, killed by SIGKILL: about to die" in sentence


def test_a_gadget_that_is_killed_is_started_again_and_nothing_is_lost_or_doubled(port: int, tmp_path: Path) -> None:
    mark = f'<configuration><property name="mark" value="{tmp_path / "mark"}"/></configuration></external>'
    node = execute_node("die_once").replace("</external>", mark)
    answer = talk(port, scan(configuration(node), *LINES))
    assert [int(message.item.data.max()) for message in of_kind(answer, MessageId.IMAGE)] == [1, 2, 3, 4]
    assert not errors(answer)
    (warning,) = (message.item for message in of_kind(answer, MessageId.TEXT))
    assert "WARNING: went away in mid-scan, killed by SIGKILL" in warning
    assert "tests.gadgets.server.children is started with the" in warning
    assert not children()


def test_more_than_is_remembered_cannot_be_sent_again(tmp_path: Path) -> None:
    mark = f'<configuration><property name="mark" value="{tmp_path / "mark"}"/></configuration></external>'
    node = execute_node("die_once").replace("</external>", mark)
    with running_server(grace_seconds=1.0, kept_bytes=100) as port:
        answer = talk(port, scan(configuration(node), *LINES))
    (sentence,) = errors(answer)
    assert "went away in mid-scan, killed by SIGKILL" in sentence


def test_modules_and_targets_that_do_not_exist(port: int) -> None:
    module = '<external><execute name="gadgets.nowhere" target="x" type="python"/></external>'
    sentences = sorted(errors(talk(port, scan(configuration(module + execute_node("nothing")), *LINES))))
    assert sentences[0].startswith("[gadgets.nowhere] ERROR: ended with exit code 1")
    assert "No module named 'gadgets.nowhere'" in sentences[0]
    assert sentences[1].startswith("[tests.gadgets.server.children] ERROR: ended with exit code 1")
    assert "'nothing'" in sentences[1]


def test_a_process_that_ends_before_it_connects(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nonexistent")  # no interpreter starts like this
    (sentence,) = errors(talk(port, scan(configuration(execute_node("count")), *LINES)))
    assert "[tests.gadgets.server.children] ERROR: ended before it connected, exit code 1" in sentence


def test_a_process_that_lingers_is_killed_without_a_complaint_to_the_client(port: int) -> None:
    began = time.monotonic()
    assert not talk(port, scan(configuration(execute_node("linger")), *LINES))
    assert time.monotonic() - began < 15
    assert not children()


def test_stopping_the_server_leaves_no_process_behind() -> None:
    with contextlib.ExitStack() as clients:
        with running_server() as port:
            client = clients.enter_context(Client(port))
            client.send(scan(configuration(execute_node("sleep_with_child")), acquisition(), close=False))
            pids = [int(pid) for pid in client.read().item.data.ravel()]
            assert all(map(alive, pids))
        assert wait_until_gone(*pids)


def test_a_lost_client_leaves_no_process_behind(port: int) -> None:
    with Client(port) as client:
        client.send(scan(configuration(execute_node("sleep_with_child")), acquisition(), close=False))
        pids = [int(pid) for pid in client.read().item.data.ravel()]
    assert wait_until_gone(*pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_server_in_mid_session(number: int) -> None:
    program = "from gadgets.server.server import serve; serve(port=0, ready=lambda port: print(port, flush=True))"
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        with Client(int(server.stdout.readline())) as client:
            client.send(protocol.query("gadgetron::version"))
            assert client.read().id == MessageId.RESPONSE
            began = time.monotonic()
            server.send_signal(number)
            assert server.wait(30) == 0
            assert time.monotonic() - began < 30
