"""What README and documentation tell people to type does what it says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from pass_recon_cli.main import build_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    return [text for kind, text in _BLOCK.findall(path.read_text(encoding="utf-8")) if kind == language]


def commands() -> list[tuple[str, str]]:
    """Every call of pass-recon in a block, with the page that it stands on."""
    found = []
    for page in PAGES:
        for block in [*blocks(page, "bash"), *blocks(page, "console")]:
            for line in block.replace("\\\n", " ").splitlines():
                found += [(page.name, part) for part in line.split("&") if "pass-recon " in part and "…" not in part]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_is_one(page, line):
    command = re.sub(r" [<>] \S+", "", line.partition(" # ")[0])  # redirections are the shell's
    words = shlex.split(command.strip().removeprefix("$ "))
    parsed = build_parser().parse_args(words[words.index("pass-recon") + 1 :])
    assert callable(parsed.run)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def run_blocks(path: Path, folder: Path, *needed: str) -> None:
    """Run the blocks that call one of the needed commands, in order, in one shell; the server has a port of its own."""
    program = folder / "bin" / "pass-recon"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pass_recon_cli.main "$@"\n')
    program.chmod(0o755)
    script = ["set -e", "trap 'kill $(jobs -p)' EXIT"]
    for block in blocks(path, "bash"):
        if any(f"pass-recon {name}" in block for name in needed):
            lines = (line for line in block.splitlines() if not line.startswith(("source ", "pip ", "make ", "git ")))
            script += lines
    text = "\n".join(script).replace(" -p 9002", "").replace(" --port 9002", "")
    port = free_port()
    text = re.sub(r"pass-recon (serve|scan)\b", rf"pass-recon \1 -p {port}", text)
    places = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=folder, env={**os.environ, **places}, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on PATH")
@pytest.mark.skipif(find_spec("highdicom") is None, reason="DICOM needs the extra dicom")
@pytest.mark.timeout(900)
class TestTyped:
    def test_readme(self, tmp_path):
        run_blocks(ROOT / "README.md", tmp_path, "simulate")
        assert {"patient.h5", "out.h5", "out_file.h5", "report.html", "dicom"} <= {
            path.name for path in tmp_path.iterdir()
        }

    def test_tutorial(self, tmp_path):
        names = ("doctor", "simulate", "scan", "recon", "report", "dicom")
        run_blocks(ROOT / "docs" / "tutorial.md", tmp_path, *names)
        assert {"patient.h5", "out.h5", "from_file.h5", "report.html"} <= {path.name for path in tmp_path.iterdir()}
        assert len(list((tmp_path / "dicom" / "magnitude").iterdir())) == 3


def test_from_python():
    """The block of the README, on a scan of noise."""
    (block,) = blocks(ROOT / "README.md", "python")
    rng = np.random.default_rng(0)
    kspace = (rng.standard_normal((2, 64, 320)) + 1j * rng.standard_normal((2, 64, 320))).astype(np.complex64)
    acs_lines = list(range(147, 173))
    names = {"kspace": kspace, "acs": kspace[..., acs_lines], "acs_lines": acs_lines, "shape": (64, 320)}
    exec(block, names)
    assert int(names["plan"].lines.sum()) == 80  # type: ignore[attr-defined]
    assert tuple(names["result"].image.shape) == (64, 320)  # type: ignore[attr-defined]


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.skipif(
    find_spec("mkdocs") is None or find_spec("mkdocstrings") is None, reason="no mkdocs: the extra docs"
)
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "site" / "reference" / "index.html").read_text(encoding="utf-8")
    assert "pass_recon.pipeline.Pipeline.plan" in reference
