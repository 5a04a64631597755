"""Damaged and foreign files: a sentence and exit code 1, never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pass_recon_cli.main import main
from tests.gadgets.scans import write_scan

SCAN = np.ones((1, 2, 16, 24), np.complex64)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribbled(path: Path) -> None:
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(1)
    for place in rng.integers(2048, len(data), 400):
        data[place] ^= 0xFF
    path.write_bytes(data)


def group_in_place(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file[name]
            file.create_group(name)

    return change


def text_header(path: Path) -> None:
    with h5py.File(path, "a") as file:
        xml = file["dataset/xml"][0]
        text = xml.decode() if isinstance(xml, bytes) else xml
        file["dataset/xml"][0] = text.replace("<x>16</x>", "<x>sixteen</x>")


def fastmri(path: Path, **changes: object) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["acquisition"] = changes.get("acquisition", "AXT1")
        file["kspace"] = changes.get("kspace", np.ones((2, 4, 32, 24), np.complex64))
        file["ismrmrd_header"] = changes.get("header", "<ismrmrdHeader/>")
        if "rss" in changes:
            file.create_group("reconstruction_rss")


@pytest.mark.parametrize(
    "damage", [cut, scribbled, group_in_place("dataset/data"), group_in_place("dataset/xml"), text_header]
)
@pytest.mark.parametrize("command", ["recon", "scan"])
def test_scans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], command: str
) -> None:
    path = write_scan(tmp_path / "scan.h5", SCAN)
    damage(path)
    port = ["-p", "1"] if command == "scan" else ["--bundle", "classical"]
    assert main([command, "-q", "-f", str(path), "-o", str(tmp_path / "out.h5"), *port]) == 1
    assert_a_sentence(capsys.readouterr().err)


@pytest.mark.parametrize(
    "changes",
    [
        {"kspace": np.ones((32, 24), np.complex64)},
        {"kspace": "k-space"},
        {"acquisition": 7},
        {"header": 3.0},
        {"rss": True},
    ],
)
def test_fastmri_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object]) -> None:
    fastmri(tmp_path / "file.h5", **changes)
    assert main(["fastmri2mrd", str(tmp_path / "file.h5"), "-o", str(tmp_path / "out.h5")]) == 1
    assert_a_sentence(capsys.readouterr().err)


def test_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(tmp_path / "out.h5", "w") as file:
        file["a/image_1/data"] = np.zeros((3, 3))
    assert main(["report", str(tmp_path / "out.h5"), "-o", str(tmp_path / "report.html")]) == 1
    assert_a_sentence(capsys.readouterr().err)


def assert_a_sentence(said: str) -> None:
    assert "Traceback" not in said
    assert said.startswith("pass-recon"), said
    assert "a fault of the program" not in said, said
