"""What this project can say: the texts of its source, with ``…`` for what is put into them when they are said."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pass_recon", "pass_recon_cli", "gadgets", "training")


def said_by_the_code() -> str:
    """All texts, one a line."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in files)
    return "\n".join(_text(node) for tree in trees for node in ast.walk(tree))


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return ""
