"""Gadgets as Gadgetron starts them: ``python -m gadgetron PORT module target``, fed with recorded bytes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from gadgets import mrd, protocol
from gadgets.protocol import Channel, MessageId
from tests.gadgets.acquisitions import header, kspace, lines_of, scan

ROOT = Path(__file__).resolve().parents[2]
CONFIG = '<configuration><property name="acceleration" value="4"/></configuration>'


class Gadget:
    """A gadget process, and the server's end of its connection."""

    def __init__(self, module: str, target: str | None = None) -> None:
        target = target or module.rpartition(".")[2]
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.settimeout(60)
            port = str(listening.getsockname()[1])
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gadgetron", port, module, target],
                cwd=ROOT,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "GADGETRON_EXTERNAL_LOG_LEVEL": "INFO"},
            )
            connected, _ = listening.accept()
        self.channel = Channel(connected)
        self.channel.socket.settimeout(60)

    def __enter__(self) -> Gadget:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def send(self, *frames: bytes) -> None:
        self.channel.socket.sendall(b"".join(frames))

    def answer(self) -> list[protocol.Message]:
        messages = []
        while (message := self.channel.read_message()).id != MessageId.CLOSE:
            messages.append(message)
        return messages

    def end(self) -> tuple[int, str]:
        """Exit status and log."""
        _, log = self.process.communicate(timeout=20)
        return self.process.returncode, log


def frames() -> list[bytes]:
    return [protocol.encode(made) for made in lines_of(kspace())]


def test_recorded_acquisitions_at_acs_buffer(recordings):
    data = (recordings / "server_to_gadget_acquisitions.bin").read_bytes()
    with Gadget("gadgets.acs_buffer") as gadget:
        # Chunks that respect no boundary, as TCP delivers them.
        for place in range(0, len(data), 977):
            gadget.send(data[place : place + 977])
        messages = gadget.answer()
        status, log = gadget.end()
    assert [message.id for message in messages] == [MessageId.RECON_DATA] * 4
    the_scan = scan(ro=64, pe=64, limits=(0, 63, 32))
    slices = [found for message in messages for found in mrd.slices_of(message.item, the_scan)]
    assert [(found.key.repetition, found.is_acs) for found in slices] == [(0, True), (0, False), (1, True), (1, False)]
    assert [int(found.line_mask.sum()) for found in slices] == [5, 40, 5, 40]
    assert (status, "Traceback" in log) == (0, False)


def test_recorded_images_pass_the_last_stage(recordings):
    """A float image of the stock chain is none of ours, and goes on as it came."""
    data = (recordings / "server_to_gadget_images.bin").read_bytes()
    with Gadget("gadgets.anomaly_overlay") as gadget:
        gadget.send(data)
        (message,) = gadget.answer()
        assert gadget.end()[0] == 0
    assert message.item.data.shape == (1, 1, 64, 64)
    assert data.endswith(message.frame + protocol.close())


def test_recorded_buffers_at_planning_and_reconstruction(recordings):
    data = (recordings / "server_to_gadget_recondata.bin").read_bytes()
    data = data.replace(b'name="bundle" value="brain-t1-4x"', b'name="bundle" value="classical"  ')
    with Gadget("gadgets.mask_feedback") as planning, Gadget("gadgets.pass_reconstruction") as reconstruction:
        for gadget in (planning, reconstruction):
            gadget.send(data)
        plan, buffer = planning.answer()
        (image,) = reconstruction.answer()
        ends = [gadget.end() for gadget in (planning, reconstruction)]
    assert plan.item.meta["PASS_source"] == "acquired"
    assert int(plan.item.data.sum()) == 64
    assert buffer.id == MessageId.RECON_DATA
    assert image.item.image_series_index == 1
    assert [status for status, _ in ends] == [0, 0]


def test_lost_server_ends_an_idle_gadget_with_one_line():
    with Gadget("gadgets.acs_buffer") as gadget:
        gadget.send(protocol.config_script(CONFIG), protocol.header(header()), *frames()[:9], frames()[9][:200])
        time.sleep(1.0)  # past the handshake, which is the library's
        began = time.monotonic()
        gadget.channel.close()
        status, log = gadget.end()
    assert time.monotonic() - began < 30
    assert status == 1
    assert "Traceback" not in log
    assert len([line for line in log.splitlines() if "ERROR" in line]) == 1
    assert "the server is gone" in log


def test_lost_server_ends_a_busy_gadget():
    with Gadget("tests.gadgets.child_stages", "busy") as gadget:
        gadget.send(protocol.config_script(CONFIG), protocol.header(header()), *frames())
        assert gadget.channel.read_message().id == MessageId.ACQUISITION  # now it is busy
        began = time.monotonic()
        gadget.channel.close()
        status, log = gadget.end()
    assert time.monotonic() - began < 30
    assert (status, "Traceback" in log) == (1, False)


def test_exception_is_told_and_the_process_ends_after_close():
    with Gadget("tests.gadgets.child_stages", "broken") as gadget:
        gadget.send(protocol.config_script(CONFIG), protocol.header(header()), *frames())
        received = [gadget.channel.read_message() for _ in range(3)]
        assert [message.id for message in received] == [MessageId.ACQUISITION] * 2 + [MessageId.ERROR]
        assert received[2].item == "RuntimeError: out of luck at the third line"
        gadget.send(*frames() * 20)
        assert gadget.process.poll() is None, "it must go on reading until CLOSE"
        gadget.send(protocol.close())
        assert gadget.answer() == []
        assert gadget.end()[0] == 1


def test_no_stage_imports_torch_before_its_process_reads():
    stages = "gadgets.acs_buffer, gadgets.mask_feedback, gadgets.pass_reconstruction, gadgets.anomaly_overlay"
    program = f"import sys, {stages}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, check=True)
