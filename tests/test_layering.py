"""The house rules that code review would otherwise have to enforce: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["pass_recon", "gadgets", "training", "pass_recon_cli"]
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# For each folder, what no file below it may import.
FORBIDDEN = {
    "pass_recon": ["gadgets", "training", "pass_recon_cli", "ismrmrd", "gadgetron", "argparse"],
    "gadgets": ["training", "pass_recon_cli"],
    "training": ["gadgets", "pass_recon_cli"],
    "training/data": [f"training.{name}" for name in ("engine", "evaluate", "stages", "recipe", "bundles")],
    "training/engine": [f"training.{name}" for name in ("evaluate", "stages", "recipe", "bundles")],
    "training/evaluate": [f"training.{name}" for name in ("stages", "recipe", "bundles")],
    "training/stages": [f"training.{name}" for name in ("recipe", "bundles")],
    "pass_recon/physics": [
        f"pass_recon.{name}" for name in ("anomaly", "sampling", "reconstruction", "bundles", "pipeline", "phantom")
    ],
    "pass_recon/anomaly": [f"pass_recon.{name}" for name in ("sampling", "reconstruction", "bundles", "pipeline")],
    "pass_recon/sampling": [f"pass_recon.{name}" for name in ("reconstruction", "bundles", "pipeline")],
    "pass_recon/reconstruction": [f"pass_recon.{name}" for name in ("sampling", "bundles", "pipeline")],
    "pass_recon/bundles": ["pass_recon.pipeline"],
    "pass_recon/phantom": [f"pass_recon.{name}" for name in ("reconstruction", "bundles", "pipeline")],
}
# The command line may import everything, but only once a command runs, so that --help stays quick.
QUICK = ["torch", "numpy", "scipy", "ismrmrd", "gadgetron", "h5py", "sigpy", "matplotlib", "open_clip"]


def _imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layers"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_there_are_files_to_check():
    assert Path("pass_recon/pipeline.py") in FILES


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_one_way(path):
    forbidden = [name for folder, names in FORBIDDEN.items() if path.is_relative_to(folder) for name in names]
    wrong = {name for name in _imports(path) if any(_within(name, package) for package in forbidden)}
    assert not wrong, f"{path} may not import {sorted(wrong)}"


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "pass_recon_cli"], ids=str)
def test_command_line_imports_lazily(path):
    heavy = {name for name in _imports(path, top_level_only=True) if any(_within(name, package) for package in QUICK)}
    assert not heavy, f"{path} imports {sorted(heavy)} before a command runs"
