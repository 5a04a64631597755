"""Pipelines for the gadgets: chosen by a scan's properties, loaded once, and kept as long as the process lives."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from gadgets.mrd import Scan

if TYPE_CHECKING:
    from pass_recon.pipeline import Pipeline

_log = logging.getLogger(__name__)
_loaded: dict[tuple[str | None, str, float], Pipeline] = {}
_loading = threading.Lock()


def pipeline_for(scan: Scan) -> Pipeline:
    """The pipeline for a scan; the first call for a bundle and a device takes seconds, later ones nothing.

    Raises
    ------
    BundleError
        If there is no such bundle.
    InputError
        If there is no such device.
    """
    properties = scan.properties
    key = (bundle_for(scan), _device(properties.device), properties.acceleration)
    with _loading:  # two sessions that start together must not load the same networks twice
        if key not in _loaded:
            started = time.perf_counter()
            from pass_recon.pipeline import Pipeline

            _loaded[key] = Pipeline(key[0], device=key[1], acceleration=key[2])
            _log.info("loaded %s on %s in %.1f s", key[0] or "classical", key[1], time.perf_counter() - started)
        return _loaded[key]


def bundle_for(scan: Scan) -> str | None:
    """The bundle to use: the one that was named, or with ``auto`` the one that fits the header; None for none."""
    named = scan.properties.bundle
    return None if named in ("auto", "classical") else named


def _device(name: str) -> str:
    import torch

    from pass_recon.types import InputError

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise InputError(
            f"the property 'device' is {name!r}, but this machine has {torch.cuda.device_count()} CUDA GPUs"
        )
    return name
