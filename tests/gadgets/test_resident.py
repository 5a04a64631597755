"""The resident process: whole scans over one connection, several at a time, warm."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from gadgets import mrd, pipelines, protocol
from gadgets.acs_buffer import buffer_lines
from gadgets.chain import run_chain
from gadgets.properties import Properties
from gadgets.protocol import Channel, MessageId
from gadgets.protocol.connection import Failure
from gadgets.resident import _Worker, serve_resident
from pass_recon.types import InputError
from tests.gadgets.acquisitions import header, kspace, lines_of, oversampled
from tests.gadgets.pipelines import Detecting

CONFIG = '<configuration><property name="mode" value="closed_loop"/></configuration>'
BUNDLE = '<configuration><property name="bundle" value="{}"/><property name="device" value="cpu"/></configuration>'
ACS, REST = range(22, 26), [*range(22), *range(26, 48)]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running() as bound:
        yield bound


@contextmanager
def running() -> Iterator[int]:
    ports: list[int] = []
    ready, stop = threading.Event(), threading.Event()

    def note(bound: int) -> None:
        ports.append(bound)
        ready.set()

    options = {"ready": note, "stop": stop, "bundle_folders": [Path(tempfile.gettempdir()), Path.cwd()]}
    thread = threading.Thread(target=serve_resident, args=("127.0.0.1", 0), kwargs=options)
    thread.start()
    assert ready.wait(60)
    yield ports[0]
    stop.set()
    thread.join(30)
    assert not thread.is_alive(), "the resident process did not stop"


@contextmanager
def session(port: int, config: str = CONFIG, head: str | None = None) -> Iterator[Channel]:
    channel = Channel.connect("127.0.0.1", port)
    channel.socket.settimeout(60)
    channel.send(protocol.config_script(config) + protocol.header(head or header()))
    yield channel
    channel.close()


def rest(channel: Channel) -> list[protocol.Message]:
    messages = []
    while (message := channel.read_message()).id != MessageId.CLOSE:
        messages.append(message)
    return messages


def send(channel: Channel, made) -> None:
    for item in made:
        channel.send(protocol.encode(item))


def test_same_images_as_the_stages_in_one_thread(port):
    k = oversampled(kspace())
    with session(port) as channel:
        for number in range(3):
            send(channel, lines_of(k * (1 + number), slice=number))
        channel.send(protocol.close())
        found = [message.item for message in rest(channel)]
    made = (acquisition for number in range(3) for acquisition in lines_of(k * (1 + number), slice=number))
    expected = list(run_chain(made, header(), Properties(mode="closed_loop")))

    def by_key(images):
        return {(image.image_series_index, image.slice, image.meta.get("PASS_source")): image for image in images}

    assert by_key(found).keys() == by_key(expected).keys()
    assert len(found) == 3 * (2 + 1)
    for key, image in by_key(expected).items():
        np.testing.assert_array_equal(by_key(found)[key].data, image.data)
        assert by_key(found)[key].image_index == image.image_index


def test_recorded_session(port, recordings):
    data = (recordings / "server_to_gadget_acquisitions.bin").read_bytes()
    channel = Channel.connect("127.0.0.1", port)
    channel.socket.settimeout(60)
    channel.send(data.replace(b'value="brain-t1-4x"', b'value="classical"  '))
    images = [message.item for message in rest(channel)]
    channel.close()
    assert sorted({image.image_series_index for image in images}) == [1, 1000]
    assert {image.repetition for image in images} == {0, 1}


def test_plan_does_not_wait_for_a_reconstruction(port, monkeypatch):
    busy, release = threading.Event(), threading.Event()

    class Slow(Detecting):
        def reconstruct(self, *args, **kwargs):
            busy.set()
            assert release.wait(30)
            return super().reconstruct(*args, **kwargs)

    monkeypatch.setitem(pipelines._loaded, ("slow", "cpu", 4.0, True), Slow())
    config = (
        '<configuration><property name="bundle" value="slow"/><property name="device" value="cpu"/></configuration>'
    )
    k = kspace()
    with session(port, config) as channel:
        send(channel, lines_of(k, [*ACS, *REST], slice=0))
        assert mrd.is_plan(channel.read_message().item)
        assert busy.wait(20)
        send(channel, lines_of(k, [*ACS], slice=1, mark=False))
        second = channel.read_message().item
        assert mrd.is_plan(second)
        assert second.slice == 1
        assert not release.is_set()
        release.set()
        channel.send(protocol.close())
        series = [message.item.image_series_index for message in rest(channel) if message.id == MessageId.IMAGE]
    assert series.count(1) == 2


def test_failed_network_is_told_at_the_end_and_images_come(port, monkeypatch):
    broken = Detecting(fail=("plan", "reconstruct"))
    monkeypatch.setitem(pipelines._loaded, ("broken", "cpu", 4.0, True), broken)
    config = (
        '<configuration><property name="bundle" value="broken"/><property name="device" value="cpu"/></configuration>'
    )
    with session(port, config) as channel:
        send(channel, lines_of(kspace()))
        channel.send(protocol.close())
        messages = rest(channel)
    kinds = [message.id for message in messages]
    assert kinds == [MessageId.IMAGE] * 2 + [MessageId.ERROR] * 2
    assert messages[0].item.meta["PASS_source"] == "population"
    assert "out of memory in plan" in messages[0].item.meta["PASS_fallback"]
    assert {"planning", "reconstruction"} == {message.item.split(": ")[1].split()[0] for message in messages[2:]}


def test_late_plan_is_the_populations_and_no_error(port, monkeypatch):
    release = threading.Event()
    monkeypatch.setitem(pipelines._loaded, ("late", "cpu", 4.0, True), Detecting(hold=release))
    given = {"bundle": "late", "device": "cpu", "mode": "closed_loop", "plan_deadline_ms": "50"}
    properties = "".join(f'<property name="{name}" value="{value}"/>' for name, value in given.items())
    with session(port, f"<configuration>{properties}</configuration>") as channel:
        send(channel, lines_of(kspace(), [*ACS, *REST]))
        plan = channel.read_message().item
        release.set()
        channel.send(protocol.close())
        messages = rest(channel)
    assert (plan.meta["PASS_source"], plan.meta["PASS_fallback"]) == (
        "population",
        "no personal plan within the deadline of 50 ms",
    )
    told = [message.item for message in messages if message.id == MessageId.ERROR]
    assert told == ["WARNING: slice 0: no personal plan within the deadline of 50 ms"]


def test_parameters_as_text_act(port):
    with session(port, "<configuration/>") as channel:
        channel.send(protocol.text('{"parameters": {"acceleration": "8", "planImages": "off"}}', terminated=True))
        send(channel, lines_of(kspace()))
        channel.send(protocol.close())
        (image,) = [message.item for message in rest(channel)]
    assert image.meta["PASS_lines_used"] == "6 of 48"


def test_exception_in_the_reconstruction_thread_reaches_the_client(port, monkeypatch):
    monkeypatch.setattr("gadgets.resident.overlay", lambda images: (1 / 0 for _ in images))
    with session(port) as channel:
        send(channel, lines_of(kspace()))
        channel.send(protocol.close())
        messages = rest(channel)
    assert messages[-1].id == MessageId.ERROR
    assert messages[-1].item == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("properties", "sentence"),
    [
        ('<property name="bundle" value="no-such-thing"/>', "no-such-thing"),
        ('<property name="colour" value="red"/>', "unknown property 'colour'"),
        ('<property name="device" value="cuda:99"/>', "cuda:99"),
    ],
)
def test_impossible_settings_are_an_error_and_nothing_else(port, properties, sentence):
    with session(port, f"<configuration>{properties}</configuration>") as channel:
        send(channel, lines_of(kspace()))
        channel.send(protocol.close())
        (message,) = rest(channel)
    assert message.id == MessageId.ERROR
    assert sentence in message.item


def test_sessions_at_the_same_time_do_not_mix(port):
    k = kspace()
    with session(port) as one, session(port) as two:
        for first, second in zip(lines_of(k), lines_of(2 * k), strict=True):
            one.send(protocol.encode(first))
            two.send(protocol.encode(second))
        for channel in (one, two):
            channel.send(protocol.close())
        scales = [
            float(next(m.item for m in rest(channel) if m.item.image_series_index == 1).meta["PASS_scale"])
            for channel in (one, two)
        ]
    assert scales[0] == pytest.approx(2 * scales[1], rel=1e-3)


def test_lost_server_and_nonsense_do_not_end_the_process(port):
    with session(port) as channel:
        send(channel, list(lines_of(kspace()))[:7])
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    test_sessions_at_the_same_time_do_not_mix(port)


def test_address_that_is_taken(port):
    with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}"):
        serve_resident("127.0.0.1", port)


def waiting_slices(stage, most):
    """A worker with slices handed over by a thread, until it has taken all of them."""
    scan = mrd.ScanContext(header(), Properties())
    slices = [
        item
        for number in range(4)
        for item in buffer_lines(lines_of(kspace(), slice=number), scan)
        if not isinstance(item, Failure)
    ]
    handed: list[object] = []
    worker = _Worker(stage, lambda item: None, most)

    def hand_over() -> None:
        with suppress(ZeroDivisionError), worker:
            for item in slices:
                worker.put(item)
                handed.append(item)
            worker.wait()

    thread = threading.Thread(target=hand_over, daemon=True)
    return thread, handed, len(slices)


def test_slices_of_a_file_wait_outside_the_process():
    go_on = threading.Event()

    def stage(slices):
        for item in slices:
            assert go_on.wait(30)
            yield item

    thread, handed, number = waiting_slices(stage, most=1)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    assert len(handed) <= 2 < number  # one that is worked on, one that waits
    go_on.set()
    thread.join(30)
    assert not thread.is_alive()
    assert len(handed) == number


def test_nobody_waits_for_a_worker_that_has_failed():
    failed = threading.Event()

    def stage(slices):
        next(iter(slices))
        assert failed.wait(30)
        yield 1 / 0

    thread, _, _ = waiting_slices(stage, most=1)
    thread.start()
    failed.set()
    thread.join(30)
    assert not thread.is_alive()
