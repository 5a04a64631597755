"""The image of the embedded server, run for real: `make images` builds it and runs these tests."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

import pass_recon_cli.main as command_line
from gadgets import protocol
from gadgets.converters.image_file import read_images
from gadgets.mrd.scan_file import ScanFile
from gadgets.protocol import Channel, MessageId
from tests.gadgets.scans import patient_file
from tests.images.engine import Container, exists, podman, readiness, wait_until

pytestmark = [pytest.mark.images, pytest.mark.timeout(600)]
IMAGE = "localhost/pass-server:cpu"
PORT, METRICS = 19002, 9102  # the second is that of the image's own health check
SERVE = ("serve", "-p", str(PORT), "--resident", "--metrics-port", str(METRICS), "--log-format", "json")
FIND_RESIDENT = r"""
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    if b"\0resident\0" in open(f"/proc/{pid}/cmdline", "rb").read():
        print(pid)
"""


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    if not exists(IMAGE):
        pytest.skip(f"there is no image {IMAGE}: make images")


@pytest.fixture(scope="module")
def patient(tmp_path_factory) -> Path:
    return patient_file(tmp_path_factory.mktemp("patient") / "patient.h5", coils=8, slices=2, shape=(96, 96))


@pytest.fixture
def spool(tmp_path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir(mode=0o700)
    os.chown(folder, 10001, 10001)
    return folder


@pytest.fixture
def container(spool):
    options = ("-v", f"{spool}:/spool")
    with Container(
        IMAGE, "pass-test", *SERVE, "--spool", "/spool", "--drain-seconds", "30", options=options
    ) as running:
        try:
            wait_until(True, METRICS)
            yield running
        except AssertionError:
            print(running.logs()[-4000:])
            raise


def scan(patient: Path, out: Path, configuration: str = "pass_recon_resident.xml") -> int:
    arguments = ["scan", "-p", str(PORT), "-f", str(patient), "-c", configuration, "-o", str(out), "-G", "g"]
    return command_line.main([*arguments, "--closed-loop"])


def test_scans_as_recon_does_stops_at_sigterm_and_starts_again(container, patient, tmp_path, spool):
    assert scan(patient, tmp_path / "out.h5") == 0
    assert command_line.main(["recon", "-f", str(patient), "-o", str(tmp_path / "r.h5"), "-G", "g", "-q"]) == 0
    made, expected = (read_images(tmp_path / name, "g", 1) for name in ("out.h5", "r.h5"))
    assert len(made) == len(expected) == 2
    for one, other in zip(made, expected, strict=True):
        peak = float(other.data.max())
        # Another build of torch sums in another order; the plans must be the same.
        assert np.abs(one.data.astype(float) - other.data.astype(float)).max() < 2e-3 * peak
        assert one.meta["PASS_bundle"] == other.meta["PASS_bundle"] == "brain-flair-4x"
    plans = [read_images(tmp_path / name, "g", 1000) for name in ("out.h5", "r.h5")]
    for one, other in zip(*plans, strict=True):
        assert one.meta["PASS_lines"] == other.meta["PASS_lines"]
    (raw,) = [path for path in spool.iterdir() if path.suffix == ".h5"]
    assert raw.stem == made[0].meta["PASS_scan_id"]
    assert made[0].meta["PASS_scan_id"] in container.logs()
    assert "2 plans" in container.execute("pass-recon", "monitor")
    assert container.stop() == 0, "SIGTERM is no crash"
    container.start()
    wait_until(True, METRICS)
    assert scan(patient, tmp_path / "again.h5") == 0


def test_runs_as_nobody_and_writes_nowhere(container):
    assert container.execute("id", "-u").strip() == "10001"
    told = podman("exec", "pass-test", "touch", "/opt/pass/x", check=False)
    assert told.returncode != 0
    assert "Read-only" in told.stderr


def test_a_killed_resident_comes_back_and_the_scan_in_flight_ends_with_a_sentence(container, patient):
    with ScanFile(patient) as source:
        header, lines = source.header_xml, [protocol.encode(line) for line in source.acquisitions()]
    channel = Channel.connect("127.0.0.1", PORT)
    channel.socket.settimeout(120)
    channel.send(protocol.config_file("pass_recon_resident.xml") + protocol.header(header) + b"".join(lines[:20]))
    pid = container.execute("python3", "-c", FIND_RESIDENT).split()
    assert len(pid) == 1
    container.execute("python3", "-c", f"import os; os.kill({pid[0]}, 9)")
    told = wait_until(False, METRICS, 30)
    assert "resident" in told["conditions"]["resident"]
    threading.Thread(target=lambda: channel.send(b"".join(lines[20:]) + protocol.close()), daemon=True).start()
    answer = []
    while (message := channel.read_message()).id != MessageId.CLOSE:
        answer.append(message)
    channel.close()
    assert any("went away" in message.item for message in answer if message.id in (MessageId.ERROR, MessageId.TEXT))
    wait_until(True, METRICS)


def test_a_killed_server_leaves_what_came(container, patient, spool, tmp_path):
    with ScanFile(patient) as source:
        header, lines = source.header_xml, [protocol.encode(line) for line in source.acquisitions()]
    channel = Channel.connect("127.0.0.1", PORT)
    came = lines[: len(lines) * 3 // 4]
    channel.send(protocol.config_file("pass_recon_resident.xml") + protocol.header(header))
    for line in came:
        channel.send(line)
    until = threading.Event()
    for _ in range(200):
        if any(path.stat().st_size >= 0.99 * sum(map(len, came)) for path in spool.glob("*.scan")):
            break
        until.wait(0.05)
    podman("kill", "-s", "KILL", "pass-test")
    channel.close()
    assert command_line.main(["replay", str(spool), "-o", str(tmp_path / "images"), "-q"]) in (0, 1)
    (images,) = (tmp_path / "images").glob("*.h5")
    with h5py.File(images) as file:
        (group,) = file
    assert read_images(images, group, 1)
    assert readiness(METRICS) == {}


def test_labels_and_health(container):
    labels = podman("inspect", IMAGE, "--format", "{{json .Labels}}").stdout
    assert "org.opencontainers.image.revision" in labels
    podman("healthcheck", "run", "pass-test")
