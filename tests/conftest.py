"""Fixtures shared by all tests, and the reasons for which marked tests are skipped."""

from __future__ import annotations

import shutil
import signal
from importlib.util import find_spec
from pathlib import Path

from pass_recon.common.process import prepare_process

prepare_process()  # before torch starts its threads

import pytest
import torch

# A suite that a shell started in its background inherits "ignore Ctrl-C", and so would every process that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

DICOM_TOOLS = ("dcmdump", "dsrdump", "dciodvfy", "dcm2niix")
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow")
    parser.addoption("--images", action="store_true", help="run the tests of container images")
    parser.addoption("--network", action="store_true", help="run the tests marked network")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skips = {
        "slow": (not config.getoption("--slow"), "slow: run with --slow"),
        "fleet": (shutil.which("haproxy") is None, "no haproxy on PATH: make peers"),
        "images": (not config.getoption("--images") or not _on_path(("podman", "runc")), "images: make images"),
        "network": (not config.getoption("--network"), "network: run with --network"),
        "gpu": (not torch.cuda.is_available(), "no CUDA device on this machine"),
        "gadgetron": (shutil.which("gadgetron") is None, "no Gadgetron on PATH"),
        "dicom_peers": (_orthanc() is None or not _on_path(DICOM_TOOLS), "no dcmtk, dciodvfy or Orthanc: make peers"),
        "browser": (_browser() is None, "no Chromium on PATH, or playwright is missing: make peers"),
    }
    for item in items:
        for marker, (skip, reason) in skips.items():
            if skip and marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def _on_path(names: tuple[str, ...]) -> bool:
    return all(shutil.which(name) for name in names)


def _orthanc() -> str | None:
    return shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")


@pytest.fixture(scope="session")
def orthanc_executable() -> str:
    """The PACS that tests marked dicom_peers start."""
    path = _orthanc()
    assert path is not None
    return path


def _browser() -> str | None:
    """A Chromium, where it can be driven."""
    if find_spec("playwright") is None or find_spec("axe_playwright_python") is None:
        return None
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def browser_executable() -> str:
    """The Chromium that tests marked browser drive."""
    path = _browser()
    assert path is not None
    return path


def _shared(folder: str) -> Path:
    path = SHARED / folder
    if not path.is_dir():
        pytest.skip(f"no {folder} beside the clone: {path}")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real volumes and k-space beside the clone; the test is skipped where they are absent."""
    return _shared("data")


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Recorded conversations of a real Gadgetron; the test is skipped where they are absent."""
    return _shared("recordings")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
