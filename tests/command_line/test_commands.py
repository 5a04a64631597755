"""The other commands as a user runs them: simulate, serve, resident, demo."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest

from gadgets.converters.image_file import read_images
from gadgets.mrd.scan_file import ScanFile
from pass_recon_cli.configurations import packaged_configurations
from pass_recon_cli.local_server import LocalProcess, write_configuration
from pass_recon_cli.main import main

TINY = ["--slices", "2", "--coils", "4", "--matrix", "64", "80"]


class TestSimulate:
    def test_file_and_summary(self, tmp_path, capsys):
        path = tmp_path / "patient.h5"
        options = ["--anatomy", "knee", "--lesions", "1", "--seed", "3", "--noise", "0.02", *TINY]
        assert main(["simulate", *options, "-o", str(path)]) == 0
        assert "knee pd, 2 slices of 64×80, 4 coils" in capsys.readouterr().out
        assert main(["simulate", *options, "-o", str(tmp_path / "again.h5"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["matrix"] == [64, 80]
        with ScanFile(path) as source:
            assert source.header.measurementInformation.protocolName == "knee_pd"
            assert len(source) == 1 + 2 * 80
        with h5py.File(path) as file:
            assert file["truth/image"].shape == (2, 64, 80)
            noise = file["dataset/data"][0]["data"].view(np.complex64)
        assert np.sqrt((np.abs(noise) ** 2).mean()) == pytest.approx(0.02, rel=0.1)

    def test_same_seed_same_patient(self, tmp_path):
        options = ["--slices", "1", "--coils", "1", "--matrix", "32", "32"]
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
            assert main(["simulate", "--seed", seed, *options, "-o", str(tmp_path / name)]) == 0
        truths = []
        for name in "abc":
            with h5py.File(tmp_path / name) as file:
                truths.append(file["truth/image"][()])
        np.testing.assert_array_equal(truths[0], truths[1])
        assert not np.array_equal(truths[0], truths[2])

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [(["--anatomy", "knee", "--contrast", "flair"], "it has pd"), (["--slices", "0"], "slices")],
    )
    def test_impossible_patient(self, tmp_path, capsys, options, sentence):
        assert main(["simulate", *options, "-o", str(tmp_path / "p.h5")]) == 1
        assert sentence in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_nowhere_to_write(self, tmp_path, capsys):
        assert main(["simulate", *TINY, "-o", str(tmp_path / "no" / "p.h5")]) == 1
        assert "No such file or directory" in capsys.readouterr().err


class TestServers:
    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
    )
    def test_serve_says_its_port_and_ends_with_the_signal(self, number, code):
        command = [sys.executable, "-m", "pass_recon_cli.main", "serve", "-p", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline().startswith("pass-recon serve: listening on 127.0.0.1:")
                process.send_signal(number)
                _, said = process.communicate(timeout=20)
            finally:
                process.kill()
        assert process.returncode == code
        assert "Traceback" not in said

    def test_default_configuration_that_does_not_exist(self, capsys):
        assert main(["serve", "-p", "0", "--default-config", "nowhere.xml"]) == 1
        assert "no configuration 'nowhere.xml'" in capsys.readouterr().err

    def test_port_in_use(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            server = LocalProcess("serve", "--port", port, log=tmp_path / "log")
            with server, pytest.raises(OSError, match=f"serve did not start: .*cannot listen on .*:{port}"):
                server.port()

    def test_configurations_are_found(self):
        assert {path.name for path in packaged_configurations().glob("*.xml")} >= {
            "pass_recon.xml", "pass_recon_plain.xml", "pass_recon_resident.xml",
        }  # fmt: skip

    def test_changed_configuration(self, tmp_path):
        path = write_configuration("pass_recon_resident.xml", tmp_path, {"acceleration": "8"}, 12345)
        root = ElementTree.parse(path).getroot()
        assert [node.get("port") for node in root.iter("connect")] == ["12345"]
        values = [node.get("value") for node in root.iter("property") if node.get("name") == "acceleration"]
        assert values == ["8"]
        original = ElementTree.parse(packaged_configurations() / "pass_recon_resident.xml").getroot()
        untouched = [node.tag for node in original.iter() if isinstance(node.tag, str)]
        assert Counter(node.tag for node in root.iter()) == Counter([*untouched, "configuration", "property"])


class TestDemo:
    @pytest.fixture(scope="class")
    @classmethod
    def demo(cls, tmp_path_factory):
        """Runs once; the tests look at what is there afterwards."""
        folder = tmp_path_factory.mktemp("demo") / "output"
        command = [sys.executable, "-m", "pass_recon_cli.main", "demo", *TINY, "-o", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        return folder, done

    def test_table(self, demo):
        folder, done = demo
        assert done.returncode == 0, done.stderr
        rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
        assert rows[0] == ["slice", "lines", "sent", "plan", "NRMSE", "PSNR", "SSIM"]
        for row, index in zip(rows[2:4], "01", strict=True):
            assert row[:4] == [index, "20", "of", "80"]
            assert 0 < float(row[5]) < 0.3
            assert 20 < float(row[6]) < 60
            assert 0.3 < float(row[8]) < 1
        assert rows[4][:2] == ["slice", "ACS→plan"]
        assert "Simulated data, not for clinical use." in done.stdout
        assert str(folder / "demo.png") in done.stdout

    def test_files(self, demo):
        from matplotlib.image import imread

        folder, _ = demo
        assert {"demo.png", "images.h5", "patient.h5", "report.html"} <= {path.name for path in folder.iterdir()}
        pixels = imread(folder / "demo.png")
        assert pixels.ndim == 3
        assert pixels.std() > 0.05
        page = (folder / "report.html").read_text()
        assert "brain_flair" in page
        assert 'id="truth-1"' in page, "the error can be shown"
        plans = read_images(folder / "images.h5", "demo", 1000)
        assert [int(plan.data.sum()) for plan in plans] == [20, 20]

    def test_processes_are_gone(self, demo):
        folder, _ = demo
        for log in folder.glob("*.log"):
            assert "Traceback" not in log.read_text()
        running = Path("/proc").glob("[0-9]*/cmdline")
        assert not any(str(folder).encode() in _read(path) for path in running)

    def test_wrong_options_are_refused_before_any_work(self, tmp_path, capsys):
        assert main(["demo", "--acceleration", "fast", "-o", str(tmp_path / "out")]) == 1
        assert "the property 'acceleration' must be a number" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile
        return b""


def test_all_packages_are_importable_by_a_gadget_process():
    """`python -m gadgetron` imports these by name, from wherever it is started."""
    for name in (
        "gadgets.acs_buffer",
        "gadgets.mask_feedback",
        "gadgets.pass_reconstruction",
        "gadgets.anomaly_overlay",
    ):
        assert find_spec(name) is not None
