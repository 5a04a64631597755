"""`pass-recon doctor` on sound and on broken installations."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from io import StringIO
from pathlib import Path

import pytest

from pass_recon.bundles import store
from pass_recon_cli import doctor_checks
from pass_recon_cli.configurations import packaged_configurations
from pass_recon_cli.main import main
from pass_recon_cli.terminal import GREEN, painted


def checked(capsys) -> tuple[int, dict[str, dict[str, str]]]:
    code = main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["healthy"] == (code == 0)
    return code, {check["topic"]: check for check in told["checks"]}


@pytest.fixture
def one_bundle(monkeypatch, tmp_path):
    """Only one of the shipped bundles, and a copy of it, for loading all of them takes a while."""
    folder = tmp_path / "shipped"
    for name in ("brain-t1-4x", "common"):
        shutil.copytree(store.SHIPPED / name, folder / name)
    monkeypatch.setattr(store, "SHIPPED", folder)
    return folder


def test_all_is_well(capsys, one_bundle):
    code, checks = checked(capsys)
    assert code == 0, checks
    assert checks["bundle brain-t1-4x"]["state"] == "ok"
    assert {"Python", "packages", "device", "configurations", "Gadgetron", "port of serve", "storage server"} <= set(
        checks
    )
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("everything that is needed is there\n")
    assert "\033" not in out, "no colours in a pipe"


def test_a_tampered_bundle_is_broken(capsys, one_bundle):
    weights = one_bundle / "brain-t1-4x" / "sampler.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    code, checks = checked(capsys)
    assert code == 1
    assert checks["bundle brain-t1-4x"]["state"] == "broken"
    assert "sampler.safetensors" in checks["bundle brain-t1-4x"]["fact"]
    assert checks["bundle brain-t1-4x"]["advice"]
    assert main(["doctor"]) == 1
    assert "broken: bundle brain-t1-4x" in capsys.readouterr().out


def test_a_missing_package_is_broken(capsys, one_bundle, monkeypatch):
    real = doctor_checks.metadata.version

    def version(name: str) -> str:
        if name == "sigpy":
            raise doctor_checks.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor_checks.metadata, "version", version)
    code, checks = checked(capsys)
    assert code == 1
    assert checks["packages"]["fact"] == "missing: sigpy (not installed)"
    assert "pip install" in checks["packages"]["advice"]


@pytest.fixture
def gadgetron(monkeypatch, tmp_path) -> Path:
    """A Gadgetron on PATH that starts its gadgets with this Python; returns the folder of its configurations."""
    home = tmp_path / "gadgetron"
    (home / "bin").mkdir(parents=True)
    folder = home / "share" / "gadgetron" / "config"
    folder.mkdir(parents=True)
    program = home / "bin" / "gadgetron"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{Path(sys.executable).parent}")
    monkeypatch.setenv("PYTHONPATH", str(Path(doctor_checks.__file__).parents[1]))
    monkeypatch.delenv("GADGETRON_HOME", raising=False)
    return folder


def test_gadgetron_with_and_without_our_configurations(capsys, one_bundle, gadgetron):
    code, checks = checked(capsys)
    assert code == 0
    assert checks["its configurations"]["state"] == "note"
    assert f"/*.xml {gadgetron}/" in checks["its configurations"]["advice"]
    assert checks["its Python"]["state"] == "ok"
    for path in packaged_configurations().glob("*.xml"):
        shutil.copy(path, gadgetron)
    assert checked(capsys)[1]["its configurations"]["state"] == "ok"
    (gadgetron / "pass_recon.xml").write_text("<configuration/>")
    assert checked(capsys)[1]["its configurations"]["fact"] == "differ from ours: pass_recon.xml"


def test_gadgetron_whose_python_lacks_the_gadgets(capsys, one_bundle, gadgetron):
    for path in packaged_configurations().glob("*.xml"):
        shutil.copy(path, gadgetron)
    python = gadgetron.parents[2] / "bin" / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'gadgetron'\" >&2\nexit 1\n")
    python.chmod(0o755)
    code, checks = checked(capsys)
    assert code == 1
    assert checks["its Python"]["state"] == "broken"
    assert "No module named 'gadgetron'" in checks["its Python"]["fact"]


def test_ports(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken = listening.getsockname()[1]
        for name in ("SERVER_PORT", "STORAGE_PORT"):
            monkeypatch.setattr(doctor_checks, name, taken)
        found = {one.topic: one for one in doctor_checks._ports()}
    assert found["port of serve"].fact == f"{taken}: something listens there"
    assert found["storage server"].fact == f"answers on {taken}"


def test_colours_only_for_terminals(monkeypatch):
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert painted("well", GREEN, Terminal()) == "\033[32mwell\033[0m"
    assert painted("well", GREEN, StringIO()) == "well"
    monkeypatch.setenv("NO_COLOR", "1")
    assert painted("well", GREEN, Terminal()) == "well"
