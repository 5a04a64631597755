"""Pipelines for the gadgets: chosen by a scan's properties, loaded once, and kept as long as the process lives."""

from __future__ import annotations

import logging
import threading
import time
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from gadgets.mrd import ScanContext
from gadgets.properties import Guard, Properties

if TYPE_CHECKING:
    from pass_recon.pipeline import Pipeline

_log = logging.getLogger(__name__)
_loaded: dict[tuple[object, ...], Pipeline] = {}
_loading = threading.Lock()
_MOST_LOADED = 16  # each scan may ask for another acceleration, and each is kept


def pipeline_for(scan: ScanContext) -> Pipeline:
    """The pipeline for a scan; the first call for a bundle and a device takes seconds, later ones nothing.

    Raises
    ------
    BundleError
        If there is no such bundle.
    InputError
        If there is no such device, or the bundle is for another acceleration.
    """
    _log.info("bundle %s", bundle_reason(scan))
    return _load(scan.properties, scan.examination)


def second_pipeline(scan: ScanContext, first: Pipeline) -> Pipeline:
    """The pipeline for a slice with its additional lines: that of their number, where its bundle came with the package.

    A bundle of one's own is for both rounds.
    """
    from pass_recon.bundles import nearest_bundle, shipped_bundles

    properties, acceleration = scan.properties, scan.properties.second_acceleration
    name = nearest_bundle(first.name.rpartition("-")[0], acceleration) if first.name in shipped_bundles() else None
    if name is None or properties.bundle not in ("auto", first.name):
        return first
    second = replace(properties, bundle=name, acceleration=acceleration, second_look="off")
    pipeline = copy(_load(second, scan.examination))
    pipeline.first = first
    return pipeline


def on_cpu(pipeline: Pipeline, scan: ScanContext) -> Pipeline:
    """The same as one that was loaded for a scan, on the CPU; loaded anew, as nothing can be read from a lost GPU."""
    from pass_recon.bundles import shipped_bundles

    asked = scan.properties.bundle
    bundle = pipeline.name if asked in ("auto", *shipped_bundles()) else asked
    properties = replace(scan.properties, bundle=bundle, acceleration=pipeline.acceleration, second_look="off")
    moved = copy(_load(replace(properties, device="cpu"), scan.examination))
    moved.guard = pipeline.guard
    moved.first = None if pipeline.first is None else on_cpu(pipeline.first, scan)
    return moved


def guarded(pipeline: Pipeline, guard: Guard) -> tuple[Pipeline, Pipeline]:
    """The pipeline for the first slice of a scan and that for all others, by the property ``guard``.

    They share the networks with the one that is given, which other scans may be using.
    """
    first, others = copy(pipeline), copy(pipeline)
    first.guard = "warn" if guard == "first" else guard
    others.guard = "off" if guard == "first" else guard
    return first, others


def warm_up(properties: Properties) -> None:
    """Load and run once what scans with these properties may need; raises as `pipeline_for` does."""
    examinations = [""]
    if properties.bundle == "auto":
        from pass_recon.bundles import shipped_bundles

        examinations += sorted({name.rpartition("-")[0] for name in shipped_bundles()})
    for examination in examinations:
        _run_once(_load(properties, examination))


def _run_once(pipeline: Pipeline) -> None:
    import torch

    # The first Fourier transform and the first decomposition in a process cost up to a second.
    kspace, lines = torch.randn(4, 64, 64, dtype=torch.complex64), pipeline.acs(64)
    pipeline.plan(kspace[..., lines], lines, (64, 64))
    pipeline.reconstruct(kspace, pipeline.population_plan(64).lines)


def chosen_bundle(properties: Properties, examination: str) -> str | None:
    """The bundle for an examination: the one asked for, or with ``auto`` the shipped one of the nearest acceleration,
    None for none.
    """
    from pass_recon.bundles import nearest_bundle

    if properties.bundle == "classical":
        return None
    if properties.bundle != "auto":
        return properties.bundle
    return nearest_bundle(examination, properties.acceleration)


def bundle_reason(scan: ScanContext) -> str:
    """Why a scan gets the bundle that it gets, in words for whoever looks at the images."""
    properties = scan.properties
    if properties.bundle != "auto":
        return "asked for"
    if (name := chosen_bundle(properties, scan.examination)) is not None:
        return f"{name}: {scan.examination_reason}"
    wanted = f"{scan.examination or 'this scan'} at {properties.acceleration:g}x"
    return f"classical: no bundle for {wanted}: {scan.examination_reason}"


def _load(properties: Properties, examination: str) -> Pipeline:
    bundle = chosen_bundle(properties, examination)
    device = device_of(properties.device)
    try:
        return _load_on(device, bundle, properties)
    except RuntimeError as error:
        from gadgets.devices import is_of_device, remark_on

        if device == "cpu" or not is_of_device(error):
            raise
        _log.warning("%s", remark_on(error))
        pipeline = copy(_load_on("cpu", bundle, properties))
        pipeline.remark = remark_on(error)
        return pipeline


def _load_on(device: str, bundle: str | None, properties: Properties) -> Pipeline:
    key: tuple[object, ...] = (bundle, device, properties.acceleration, properties.anomaly)
    if properties.precision != "auto":
        key = (*key, properties.precision)
    with _loading:  # two sessions that start together must not load the same networks twice
        if key not in _loaded:
            started = time.perf_counter()
            from pass_recon.pipeline import Pipeline

            _loaded[key] = Pipeline(
                bundle,
                device=device,
                acceleration=properties.acceleration,
                anomaly=properties.anomaly,
                precision=properties.precision,
            )
            while len(_loaded) > _MOST_LOADED:
                del _loaded[next(iter(_loaded))]
            _log.info("loaded %s on %s in %.1f s", bundle or "classical", device, time.perf_counter() - started)
        return _loaded[key]


def device_of(name: str) -> str:
    """The device that the property ``device`` asks for; raises InputError if there is none such."""
    import torch

    from pass_recon.types import InputError

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise InputError(
            f"the property 'device' is {name!r}, but this machine has {torch.cuda.device_count()} CUDA GPUs"
        )
    return name
