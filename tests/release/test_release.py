"""What a release consists of: a wheel and an sdist that install alone, a version from the tag, a bill of materials."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """Wheel and sdist, built from the tracked files of a clone that has a tag."""
    folder = tmp_path_factory.mktemp("release")
    clone = folder / "clone"
    run("git", "clone", "--quiet", ROOT, clone)
    for path in ("pyproject.toml",):  # as it is now, committed or not
        shutil.copy(ROOT / path, clone / path)
    run("git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qam", "x", "--allow-empty", cwd=clone)
    run("git", "tag", "v7.8.9", cwd=clone)
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", clone)
    return folder / "dist"


@pytest.mark.slow
@pytest.mark.network
def test_the_version_is_that_of_the_tag(dist):
    assert sorted(path.name for path in dist.iterdir()) == [
        "pass_gadgetron-7.8.9-py3-none-any.whl",
        "pass_gadgetron-7.8.9.tar.gz",
    ]


@pytest.mark.slow
@pytest.mark.network
def test_wheel_and_sdist_hold_bundles_configurations_and_page(dist):
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    for part in ("pass_recon/bundles/shipped/brain-t1-4x/card.json", "xml_configs/pass_recon.xml", "training/recipes/"):
        assert any(name.startswith(part) for name in names), part
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "LICENSE", "docker/server.Dockerfile"} <= inside
    assert not [name for name in inside if name.endswith(".whl")]


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_each_installs_alone_and_scans(dist, tmp_path, kind):
    run(sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    # The dependencies, several GB of them, are those of the environment that runs the tests.
    (site,) = [path for path in sys.path if path.endswith("site-packages")]
    (purelib,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    (purelib / "dependencies.pth").write_text(site + "\n")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", next(dist.glob(kind)))
    command = tmp_path / "venv" / "bin" / "pass-recon"
    assert run(command, "--version", cwd=tmp_path) == "pass-recon 7.8.9\n"
    where = run(python, "-c", "import pass_recon; print(pass_recon.__file__)", cwd=tmp_path)
    assert where.startswith(str(tmp_path)), "another copy was imported"
    run(command, "simulate", "--matrix", "64", "64", "--slices", "1", "--coils", "4", "-o", "p.h5", cwd=tmp_path)
    told = json.loads(run(command, "recon", "-f", "p.h5", "-o", "o.h5", "--json", "--device", "cpu", cwd=tmp_path))
    assert told["images"] >= 3


def test_the_workflow_calls_targets_that_there_are():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    called = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(steps)))
    assert called <= targets
    assert {"test", "lint", "images", "dist", "sbom"} <= called
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w./-]+@v\d+", step["uses"])


@pytest.mark.slow
@pytest.mark.network
def test_the_bill_of_materials_names_what_the_image_holds(tmp_path):
    pytest.importorskip("cyclonedx")
    out = tmp_path / "sbom.json"
    run(sys.executable, "-m", "cyclonedx_py", "requirements", ROOT / "docker/locks/server.txt", "-o", out)
    told = json.loads(out.read_text())
    assert told["bomFormat"] == "CycloneDX"
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "docker/locks/server.txt").read_text(), re.MULTILINE))
    assert {component["name"] for component in told["components"]} == locked
    assert all(component.get("purl") for component in told["components"])
