"""What whoever runs a server sees of its scans: ids, logs, health, metrics."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import ismrmrd
import numpy as np
import pytest

from gadgets import protocol
from gadgets.monitoring.health import Once, Readiness, health_server
from gadgets.monitoring.logs import JsonFormatter
from gadgets.monitoring.metrics import Metrics, reason_of
from gadgets.monitoring.observers import Observers
from gadgets.monitoring.scan_id import SCAN_ID, in_this_scan, new_scan_id, scan_id_of
from gadgets.protocol import MessageId
from gadgets.protocol.connection import GadgetConnection, converse
from pass_recon.types import InputError
from tests.gadgets.server.tools import (
    Client,
    acquisition,
    configuration,
    connect_node,
    errors,
    listening_gadget,
    plan_image,
    running_server,
    scan,
    stock_node,
    talk,
)

parser = pytest.importorskip("prometheus_client.parser")
ECHO = configuration("")


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    """Values by name and labels, read by Prometheus' own parser."""
    families = parser.text_string_to_metric_families(text.decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def get(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def wait_for(condition) -> None:
    for _ in range(200):
        if condition():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it never came")


def image(series: int, **meta: str) -> ismrmrd.Image:
    made = ismrmrd.Image.from_array(np.zeros((4, 4), np.float32))
    made.image_series_index = series
    for name, value in meta.items():
        made.meta[name] = value
    return made


@contextmanager
def echoing(*images: ismrmrd.Image) -> Iterator[int]:
    """A gadget that answers with images."""

    def handle(channel: protocol.Channel) -> None:
        with channel.socket:
            connection = GadgetConnection.accept(channel.socket)
            converse(connection, lambda scan: lambda items: [*([] if list(items) is None else images)])

    with listening_gadget(handle) as port:
        yield port


def test_scans_are_counted_by_how_they_end():
    metrics = Metrics()
    with running_server(observers=(metrics,)) as port:
        talk(port, scan(ECHO, acquisition(0)))
        assert errors(talk(port, scan(configuration(stock_node("NoSuchGadget")), acquisition(0))))
        with Client(port) as client:
            client.send(scan(ECHO, acquisition(0), close=False))
            client.read()
            wait_for(lambda: samples(metrics.text())[("pass_scans_in_flight",)] == 1)
        with Client(port):
            pass  # a probe that only knocks is no scan
        wait_for(lambda: samples(metrics.text())[("pass_scans_total", "cut")] == 1)
    told = samples(metrics.text())
    assert told[("pass_scans_total", "ok")] == 1
    assert told[("pass_scans_total", "failed")] == 1
    assert told[("pass_scans_in_flight",)] == 0
    assert told[("pass_scan_seconds_count",)] == 2, "a scan that never began takes no time"
    assert told[("process_resident_memory_bytes",)] > 1e6


def test_images_tell_of_times_fallbacks_and_faults():
    metrics = Metrics()
    watched = Observers((metrics,), "id", pytest.fail)
    watched.began(b"", b"", lambda: 3)
    assert samples(metrics.text())[("pass_messages_waiting",)] == 3
    plan = image(1000, PASS_lines="1", PASS_seconds_plan="0.02", PASS_fallback="no plan within the deadline of 5 ms")
    for made in (plan, image(1, PASS_seconds_reconstruction="0.5", PASS_quality="clipped"), image(2), image(3)):
        watched.sent(protocol.message_of(made))
    watched.told("warning", "odd")
    watched.ended("with_errors", 2.0)
    told = samples(metrics.text())
    assert told[("pass_plan_seconds_sum",)] == pytest.approx(0.02)
    assert told[("pass_image_seconds_sum",)] == pytest.approx(0.5)
    assert told[("pass_image_seconds_count",)] == 1
    assert told[("pass_fallbacks_total", "deadline")] == 1
    assert told[("pass_quality_findings_total", "clipped")] == 1
    assert told[("pass_messages_told_total", "warning")] == 1
    assert {told[("pass_images_total", series)] for series in ("1", "2", "3", "1000")} == {1}


@pytest.mark.parametrize(
    ("sentence", "word"),
    [
        ("reconstruction failed: OutOfMemoryError: CUDA out of memory", "out_of_memory"),
        ("reconstruction failed: ArithmeticError: 3 of 9 pixels are NaN or infinite", "not_finite"),
        ("reconstruction failed: ValueError: something new", "failure"),
    ],
)
def test_reasons_are_few(sentence, word):
    assert reason_of(sentence) == word


def test_ready_only_while_every_condition_is_met():
    readiness, stand = Readiness(), {"it": "not yet"}
    readiness.require("it", lambda: stand["it"])
    with health_server("127.0.0.1", 0, readiness, lambda: b"x 1\n") as port:
        status, told = get(port, "/readyz")
        assert (status, json.loads(told)) == (503, {"ready": False, "conditions": {"it": "not yet"}})
        stand["it"] = ""
        assert get(port, "/readyz")[0] == 200
        assert get(port, "/healthz")[0] == 200
        assert get(port, "/metrics") == (200, b"x 1\n")
        assert get(port, "/etc/passwd")[0] == 404
        with pytest.raises(InputError, match=f":{port}"), health_server("127.0.0.1", port, readiness, bytes):
            pass


def test_a_condition_whose_work_fails_says_why():
    def work() -> None:
        raise InputError("no such device")

    condition = Once(work, "wait")
    wait_for(lambda: condition() != "wait")
    assert condition() == "no such device"


def test_an_observer_that_fails_is_dropped_and_the_scan_goes_on():
    class Failing:
        def __getattr__(self, name):
            raise OSError("disk full")

    metrics = Metrics()
    with running_server(observers=(lambda scan_id: Failing(), metrics)) as port:
        answer = talk(port, scan(ECHO, acquisition(0)))
    assert [message.id for message in answer].count(MessageId.ACQUISITION) == 1
    assert [message.item for message in answer if message.id == MessageId.TEXT] == ["[server] WARNING: disk full"]
    assert samples(metrics.text())[("pass_scans_total", "ok")] == 1


def test_gadgets_get_the_id_of_their_scan_and_tell_it_with_images():
    seen: list[str] = []

    class Watching:
        def __init__(self, scan_id: str) -> None:
            seen.append(scan_id)

        def __getattr__(self, name):
            return lambda *arguments: None

    with echoing(plan_image()) as gadget, running_server(observers=(Watching,)) as port:
        answer = talk(port, scan(configuration(connect_node(gadget)), acquisition(0)))
    images = [message.item for message in answer if message.id == MessageId.IMAGE]
    assert [image.meta["PASS_scan_id"] for image in images] == seen


def test_ids_are_distinct_and_sort_by_time():
    made = [new_scan_id() for _ in range(50)]
    assert len(set(made)) == 50
    assert [one[:15] for one in made] == sorted(one[:15] for one in made)
    assert scan_id_of(None) == ""


def test_log_records_as_json_tell_the_scan_in_each_of_its_threads():
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record):
            lines.append(self.format(record))

    handler, logger = Kept(), logging.getLogger("tests.json")
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    with ExitStack() as after:
        after.callback(logger.removeHandler, handler)
        logger.info("before")
        token = SCAN_ID.set("7")
        after.callback(SCAN_ID.reset, token)
        thread = threading.Thread(target=in_this_scan(lambda: logger.info("line %d\nof two", 1)))
        thread.start()
        thread.join()
        try:
            raise ValueError("no")
        except ValueError:
            logger.exception("failed")
    before, inside, failed = (json.loads(line) for line in lines)
    assert "scan" not in before
    assert (inside["scan"], inside["message"], inside["level"]) == ("7", "line 1\nof two", "INFO")
    assert "ValueError: no" in failed["exception"]


def test_one_scan_too_many_is_refused_with_a_sentence():
    with running_server(max_scans=1) as port, Client(port) as first:
        first.send(scan(ECHO, acquisition(0), close=False))
        first.read()
        assert errors(talk(port, scan(ECHO, acquisition(0)))) == [
            "[server] ERROR: the server runs 1 scans already and takes no more (--max-scans)"
        ]
        first.send(protocol.encode(acquisition(1)), protocol.close())
        assert len(first.read_to_close()) == 1, "the refused one is no trouble for the first"


def test_whoever_opens_connections_and_says_nothing_takes_few_threads():
    before = threading.active_count()
    with health_server("127.0.0.1", 0, Readiness(), bytes) as port, ExitStack() as idle:
        opened = [idle.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(60)]
        opened[-1].settimeout(30)
        assert opened[-1].recv(1) == b""  # turned away
        assert threading.active_count() <= before + 33
        for one in opened:
            one.close()
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as answer:
                    assert answer.status == 200
                    return
            except (OSError, http.client.HTTPException):
                assert time.monotonic() < deadline
