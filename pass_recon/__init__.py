"""PASS: personalised, anomaly-aware sampling and reconstruction of MR images (arXiv 2604.06849).

Research software, not for clinical use. ``Pipeline`` and ``load_bundle`` are imported on first use, so that
``import pass_recon`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["Pipeline", "__version__", "load_bundle"]

if TYPE_CHECKING:
    from pass_recon.bundles import load_bundle
    from pass_recon.pipeline import Pipeline

    __version__: str

_LAZY = {"Pipeline": "pass_recon.pipeline", "load_bundle": "pass_recon.bundles"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    """The release that is installed, without the commit: data made between two releases are not told apart by it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pass-gadgetron").partition("+")[0]
    except PackageNotFoundError:  # a tree on PYTHONPATH that nobody has installed
        return "0"
