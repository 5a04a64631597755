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
from tests.documentation.messages import said_by_the_code

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


def run_blocks(path: Path, folder: Path, *needed: str) -> str:
    """Run the blocks that call one of the needed commands, in order, in one shell; the server has a port of its own.

    Returns what was said.
    """
    programs = folder / "bin"
    programs.mkdir()
    for name, arguments in (("pass-recon", "-m pass_recon_cli.main"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    (folder / "examples").symlink_to(ROOT / "examples")
    script = ["set -e", "trap 'kill $(jobs -p)' EXIT"]
    for block in blocks(path, "bash"):
        if any(f"pass-recon {name}" in block for name in needed):
            lines = (line for line in block.splitlines() if not line.startswith(("source ", "pip ", "make ", "git ")))
            script += lines
    text = "\n".join(script).replace(" -p 9002", "").replace(" --port 9002", "")
    port = free_port()
    text = re.sub(r"pass-recon (serve|scan)\b", rf"pass-recon \1 -p {port}", text)
    text = text.replace("plan_at_my_scanner.py", f"plan_at_my_scanner.py --port {port}")
    places = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=folder, env={**os.environ, **places}, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


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

    def test_examples(self, tmp_path):
        said = run_blocks(ROOT / "docs" / "examples.md", tmp_path, "simulate")
        assert said.count(" lines, personal)") == 2, "a plan for each slice"
        for series in (1, 2, 3):
            assert said.count(f"image: series {series},") == 2
        assert "slice 1: brain-flair-4x" in said


# What README and tutorial tell people to type and this file does not run, with the reason.
NOT_RUN = {
    "git clone": "there is no address yet",
    "make demo": "installs; its command is run by tests/command_line",
    "make images": "tests/images",
    "pip install": "tests/release installs the wheel alone",
    "source .venv": "the tests' own environment",
    "cp xml_configs": "needs a Gadgetron",
    "gadgetron_ismrmrd_client": "needs a Gadgetron",
    "pass-recon train": "hours; tests/training runs each stage on little",
    "pass-recon evaluate": "the same",
    "pass-recon dicom out.h5 -o dicom --send": "needs a PACS; tests/report/dicom sends to one",
}


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_what_is_not_run_is_known(page):
    run = ("simulate", "serve", "scan", "recon", "report", "dicom", "doctor")
    for block in [*blocks(ROOT / page, "bash"), *blocks(ROOT / page, "console")]:
        for line in block.replace("\\\n", " ").splitlines():
            command = line.removeprefix("$ ").strip()
            known = any(command.startswith(start) for start in NOT_RUN)
            assert not command or known or command.startswith(tuple(f"pass-recon {name}" for name in run)), command


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


def test_troubleshooting_quotes_what_is_said():
    said = said_by_the_code()
    rows = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").splitlines()
    quoted = [text for row in rows if row.startswith("| `") for text in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(quoted) > 40
    assert [text for text in quoted if text.strip("… ") not in said] == []


def test_every_page_is_in_the_navigation():
    named = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert [page for page in pages if f": {page}\n" not in named] == []


@pytest.mark.slow
@pytest.mark.skipif(find_spec("nbclient") is None or find_spec("ipykernel") is None, reason="no nbclient or ipykernel")
@pytest.mark.parametrize(("name", "says"), [("closed_loop", "personal"), ("own_lines", "CG-SENSE")])
def test_notebooks_run(name, says, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    NotebookClient(notebook, timeout=250, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert says in "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))


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
