"""The monitor: what it remembers of scans, what it tells whom, and the page in a real browser."""

from __future__ import annotations

import io
import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import ismrmrd
import numpy as np
import pytest

import pass_recon_cli.main as command_line
from gadgets import protocol
from gadgets.monitoring import live as live_module
from gadgets.monitoring.health import Readiness, health_server
from gadgets.monitoring.live import LiveScans
from gadgets.monitoring.pages import monitor_pages
from gadgets.protocol.connection import GadgetConnection, converse
from pass_recon.report.orientation import AS_ACQUIRED
from tests.gadgets.monitoring.test_monitoring import ECHO, echoing, get, wait_for
from tests.gadgets.server.tools import (
    Client,
    acquisition,
    configuration,
    connect_node,
    listening_gadget,
    running_server,
    scan,
    talk,
)
from tests.report.scans import HOSTILE

pytest.importorskip("prometheus_client")


def magnitude(level: int = 1000, slice: int = 0, **meta: str) -> ismrmrd.Image:
    """A bright square on a dark ground, as the chain sends it."""
    pixels = np.zeros((1, 1, 60, 40), np.uint16)
    pixels[..., 20:40, 10:30] = level
    made = ismrmrd.Image.from_array(pixels.squeeze(), transpose=False)
    made.image_series_index, made.slice = 1, slice
    for name, value in {"PASS_scale": "1", "WindowWidth": "1000", **meta}.items():
        made.meta[name] = value
    return made


def plan(seconds: str = "0.02", **meta: str) -> ismrmrd.Image:
    made = ismrmrd.Image.from_array(np.zeros((4, 4), np.uint16))
    made.image_series_index = 1000
    for name, value in {"PASS_lines": "1", "PASS_seconds_plan": seconds, **meta}.items():
        made.meta[name] = value
    return made


def body(image: ismrmrd.Image) -> protocol.Message:
    return protocol.message_of(image)


def pixels_of(png: bytes) -> np.ndarray:
    from PIL import Image

    assert png.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_scans_now_and_last_with_what_was_told():
    live = LiveScans()
    first, second = live("a"), live("b")
    first.told("error", "early")
    assert live.status()["scans"] == [], "who only knocks is no scan"
    first.began(b"", b"", lambda: 3)
    for made in (
        plan("0.5", PASS_fallback="no plan within the deadline of 5 ms"),
        magnitude(PASS_anomaly_score="0.25"),
    ):
        first.sent(body(made))
    first.received(protocol.Message(1008, b""))
    first.told("warning", "odd")
    first.told("warning", "odd")
    second.began(b"", b"", lambda: 0)
    second.ended("cut", 4.0)
    newest, oldest = live.status()["scans"]
    assert (newest["id"], newest["state"], newest["seconds"], newest["image"]) == ("b", "cut", 4.0, None)
    assert (oldest["state"], oldest["lines"], oldest["waiting"], oldest["images"]) == ("running", 1, 3, 1)
    assert oldest["plan_seconds"] == [0.5]
    assert oldest["fallbacks"] == {"deadline": 1}
    assert oldest["image"] == {"number": 1, "slice": 0, "score": 0.25}
    assert [one["sentence"] for one in oldest["said"]] == ["early", "no plan within the deadline of 5 ms", "odd"]
    assert live.status()["memory"]["used_bytes"] > 1e6


def test_the_picture_is_that_of_the_newest_slice():
    live = LiveScans()
    watched = live("a")
    watched.began(b"", b"", lambda: 0)
    assert live.picture("a") == live.picture("nobody") == b""
    watched.sent(body(magnitude(1000)))
    bright = pixels_of(live.picture("a"))
    expected = np.asarray(AS_ACQUIRED.turn(np.pad(np.full((20, 20), 255), ((10, 10), (20, 20)))))
    assert bright.max() == 255
    assert (bright[..., 0] > 200).mean() == pytest.approx((expected > 200).mean(), abs=0.03)
    watched.sent(body(magnitude(200, slice=1)))
    assert np.median(pixels_of(live.picture("a"))[100:300, 150:250]) < 60


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(live_module, "_HELD_BYTES", 20_000)
    live = LiveScans()
    for number in range(60):
        watched = live(str(number))
        watched.began(b"", b"h" * 1000, lambda: 0)
        for slice in range(100):
            watched.told("error", f"error {slice}")
            watched.sent(body(plan()))
        watched.sent(body(magnitude()))
        watched.ended("ok", 1.0)
    told = live.status()["scans"]
    assert [scan["id"] for scan in told] == [str(number) for number in range(59, 39, -1)]
    assert [bool(scan["image"]) for scan in told[:5]] == [True, True, True, False, False]
    assert max(len(scan["said"]) for scan in told) == 20
    assert max(len(scan["plan_seconds"]) for scan in told) == 60


def test_what_a_header_or_an_image_says_cannot_break_it():
    live = LiveScans()
    watched = live("a")
    watched.began(b"", b"<not xml", lambda: 0)
    watched.sent(body(plan("nan")))
    watched.sent(body(magnitude(PASS_anomaly_score="nan", PASS_quality_reason=HOSTILE)))
    (told,) = json.loads(json.dumps(live.status(), allow_nan=False))["scans"]
    assert told["protocol"] == "unnamed protocol"
    assert told["plan_seconds"] == [0.0]
    assert live.picture("a")


@contextmanager
def monitored(live: LiveScans, **options: bool) -> Iterator[int]:
    readiness = Readiness()
    with health_server("127.0.0.1", 0, readiness, bytes, monitor_pages(live, readiness), **options) as port:
        yield port


def asked_as(port: int, host: str, path: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.headers["Cache-Control"] == "no-store"
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return int(error.code)


def test_images_are_for_this_machine_alone(monkeypatch):
    live = LiveScans()
    watched = live("a")
    watched.began(b"", b"", lambda: 0)
    watched.sent(body(magnitude()))
    pages = ("/", "/scans.json", "/image.png?scan=a")
    with monitored(live) as port:
        assert [asked_as(port, "localhost:1", page) for page in pages] == [200] * 3
        assert [asked_as(port, "[::1]", page) for page in pages] == [200] * 3
        assert [asked_as(port, "evil.example", page) for page in (*pages, "/healthz")] == [403, 403, 403, 200]
        assert asked_as(port, "[", "/") == 403
        assert asked_as(port, "localhost", "/image.png?scan=b") == 404
        monkeypatch.setattr("gadgets.monitoring.health._is_loopback", lambda address: not address.startswith("127."))
        assert [get(port, page)[0] for page in (*pages, "/metrics")] == [403, 403, 403, 200]
    with monitored(live, everywhere=True) as port:
        assert [asked_as(port, "evil.example", page) for page in pages] == [200] * 3


def test_the_command_tells_and_says_who_does_not_answer(capsys):
    live = LiveScans()
    watched = live("20261126T1")
    watched.began(b"", b"", lambda: 0)
    watched.sent(body(plan("0.031")))
    watched.told("error", "bad\x1b[31m line")
    with monitored(live) as port:
        assert command_line.main(["monitor", "--url", f"http://127.0.0.1:{port}/"]) == 0
        told = capsys.readouterr().out
        assert command_line.main(["monitor", "--url", f"http://127.0.0.1:{port}", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["scans"][0]["id"] == "20261126T1"
    assert "20261126T1  running" in told
    assert "1 plans (median 31 ms)" in told
    assert "\x1b" not in told
    assert command_line.main(["monitor", "--url", f"http://127.0.0.1:{port}"]) == 1
    assert "--metrics-port" in capsys.readouterr().err
    assert command_line.main(["monitor", "--url", "nonsense"]) == 1
    assert "nonsense" in capsys.readouterr().err


def test_scans_of_a_server_are_seen():
    live = LiveScans()
    with echoing(magnitude()) as gadget, running_server(observers=(live,)) as port:
        talk(port, scan(configuration(connect_node(gadget)), acquisition(0)))
        with Client(port):
            pass  # a probe is no scan
        wait_for(lambda: live.status()["scans"][0]["state"] != "running")
    (told,) = live.status()["scans"]
    assert (told["state"], told["lines"], told["images"]) == ("ok", 1, 1)
    assert pixels_of(live.picture(told["id"])).max() == 255


@contextmanager
def stepwise(steps: dict[str, threading.Event]) -> Iterator[int]:
    """A gadget that sends an image when the test says so, in the middle of a scan."""

    def stage(items):
        yield plan(PASS_fallback=HOSTILE)
        for name, step in steps.items():
            assert step.wait(60)
            yield magnitude(1000 if name == "first" else 300, slice=int(name != "first"), PASS_anomaly_score="0.5")
        list(items)

    def handle(channel: protocol.Channel) -> None:
        with channel.socket:
            converse(GadgetConnection.accept(channel.socket), lambda scan: stage)

    with listening_gadget(handle) as port:
        yield port


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("size", [(1366, 900), (390, 844)])
def test_page_shows_a_scan_while_it_runs(browser_executable, size, scheme, tmp_path):
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import expect, sync_playwright

    live, steps = LiveScans(), {"first": threading.Event(), "second": threading.Event()}
    with (
        monitored(live) as web,
        stepwise(steps) as gadget,
        running_server(observers=(live,)) as port,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=browser_executable, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda one: said.append(one.url) if f"127.0.0.1:{web}/" not in one.url else None)
        page.goto(f"http://127.0.0.1:{web}/")
        page.wait_for_selector("body[data-asked]")
        assert page.is_visible("#no-image")
        assert Axe().run(page).violations_count == 0
        with Client(port) as client:
            client.send(scan(configuration(connect_node(gadget)), acquisition(0), close=False))
            expect(page.locator("#running")).to_have_text("1", timeout=30_000)
            steps["first"].set()
            expect(page.locator("#image")).to_have_js_property("naturalHeight", 400, timeout=30_000)
            assert "slice 0, score 0.50" in page.text_content("#caption")
            assert "under way" in page.text_content("#caption")
            assert page.text_content("#plan") == "20 ms"
            expect(page.locator("#said")).to_contain_text("</script>", timeout=30_000)
            steps["second"].set()
            expect(page.locator("#caption")).to_contain_text("slice 1", timeout=30_000)
            client.send(protocol.close())
            client.read_to_close()
        expect(page.locator("#running")).to_have_text("0", timeout=30_000)
        page.click("#scans button")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert page.evaluate("window.hacked") is None
        page.screenshot(path=tmp_path / "monitor.png", full_page=True)
        assert said == []
        browser.close()


def test_echo_is_no_scan_with_an_image():
    live = LiveScans()
    with running_server(observers=(live,)) as port:
        talk(port, scan(ECHO, acquisition(0)))
        wait_for(lambda: live.status()["scans"][0]["state"] == "ok")
    assert live.status()["scans"][0]["image"] is None
