"""A scan is never lost: what is done instead when a plan or a reconstruction fails, or a plan is late."""

from __future__ import annotations

import logging
import math
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np
import torch

from gadgets import devices
from gadgets.mrd import ScanContext, SliceData
from gadgets.protocol.connection import Failure
from pass_recon.pipeline import Pipeline
from pass_recon.reconstruction.classical import root_sum_of_squares
from pass_recon.types import PassError, Reconstruction, SamplingPlan

_log = logging.getLogger(__name__)
_Planned = tuple[SamplingPlan, str]  # and what is to be said of it


class Planner:
    """Plans on a thread of its own, so that nobody waits for a late plan.

    A daemon thread rather than an executor, which Python would wait for at the end of the process: a server waits for
    its gadgets to exit.
    """

    def __init__(self, pipeline: Pipeline, scan: ScanContext) -> None:
        self._pipeline, self._scan, self._properties = pipeline, scan, scan.properties
        # Only a scanner waits. All else waits for the plan, so that the same data always give the same image.
        waited_for = scan.properties.mode == "closed_loop" and math.isfinite(scan.properties.plan_deadline_ms)
        self._deadline_s = scan.properties.plan_deadline_ms / 1000 if waited_for else None
        self._requests: SimpleQueue[tuple[Future[_Planned], SliceData] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="planner", daemon=True)

    def __enter__(self) -> Planner:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._requests.put(None)
        if self._deadline_s is None:  # nothing is late: a thread that ends while the process does can crash it
            self._thread.join()

    def plan(self, acs: SliceData) -> tuple[SamplingPlan | None, Failure | None]:
        """The personal plan; the population's where that fails or is late; none where falling back is switched off."""
        future = Future[_Planned]()
        self._requests.put((future, acs))
        try:
            plan, remark = future.result(self._deadline_s)
            return plan, Failure(remark, "warning") if remark else None
        except Late:
            future.cancel()
            reason = f"no personal plan within the deadline of {self._properties.plan_deadline_ms:g} ms"
            failure = Failure(f"{acs.key}: {reason}", "warning")
        except Exception as error:  # noqa: BLE001, whatever a network does, the scanner gets a plan
            reason = _sentence("planning failed", error)
            failure = Failure(f"{acs.key}: {reason}", "processing")
        if not self._properties.fallback:
            return None, failure
        about: dict[str, Any] = {"reachable": acs.encoding.reachable, "fallback": reason}
        try:
            plan, _ = devices.computed(
                lambda pipeline: pipeline.population_plan(acs.encoding.pe, **about), self._pipeline, self._scan
            )
            return plan, failure
        except (PassError, RuntimeError) as error:
            return None, Failure(f"{failure.message}; there is no population plan either: {error}", "processing")

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            future, acs = request
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(devices.computed(partial(_plan, acs), self._pipeline, self._scan))
            except Exception as error:  # noqa: BLE001, handed to whoever waits
                future.set_exception(error)


def _plan(acs: SliceData, pipeline: Pipeline) -> SamplingPlan:
    lines = range(acs.first_line, acs.first_line + acs.kspace.shape[-1])
    shape, reachable = (acs.kspace.shape[1], acs.encoding.pe), acs.encoding.reachable
    return pipeline.plan(acs.kspace, list(lines), shape, reachable=reachable)


def acquired_plan(
    whole: SliceData, scan: ScanContext, pipeline: Pipeline, *, fallback: str | None = None
) -> SamplingPlan:
    """What came, told as a plan."""
    return SamplingPlan(
        lines=torch.from_numpy(whole.line_mask),
        order=whole.order,
        acceleration=scan.properties.acceleration,
        source="acquired",
        bundle=pipeline.name,
        fallback=fallback,
    )


def reconstruct(
    whole: SliceData, scan: ScanContext, pipeline: Pipeline, *, again: bool = False
) -> tuple[Reconstruction | None, Failure | None]:
    """The reconstruction; CG-SENSE where that fails; none where falling back is switched off or fails too.

    ``again``: there is an image of fewer lines already, which no CG-SENSE is to replace.
    """
    data = whole.kspace, whole.line_mask
    about: dict[str, Any] = {"calibration": whole.calibration, "multiband": whole.encoding.multiband}
    pixel_mm = whole.encoding.pixel_mm
    try:
        result, remark = devices.computed(
            lambda chosen: chosen.reconstruct(*data, **about, pixel_mm=pixel_mm), pipeline, scan
        )
        return _finite(result), Failure(remark, "warning") if remark else None
    except Exception as error:  # noqa: BLE001, whatever a network does, there will be an image
        reason = _sentence("reconstruction failed", error)
    if again:
        return None, Failure(f"{whole.key}: second {reason}; the image of the first round stands", "warning")
    failure = Failure(f"{whole.key}: {reason}", "processing")
    if not scan.properties.fallback:
        return None, failure
    for classical in (pipeline, Pipeline("classical", device="cpu", acceleration=scan.properties.acceleration)):
        try:
            return _finite(classical.classical(*data, **about, fallback=reason)), failure
        except Exception as error:  # noqa: BLE001, a GPU that is out of memory is so for CG-SENSE too
            reason += f"; {_sentence('CG-SENSE failed', error)}"
    failure = Failure(f"{whole.key}: {reason}", "processing")
    image = root_sum_of_squares(torch.from_numpy(whole.kspace * whole.line_mask)).to(torch.complex64)
    result = Reconstruction(image=image, fallback=f"{reason}; the root sum of squares of the coils is sent")
    return (result if bool(torch.isfinite(image.real).all()) else None), failure


def _finite(result: Reconstruction) -> Reconstruction:
    image = result.image
    if not torch.isfinite(torch.view_as_real(image)).all():
        raise ArithmeticError(f"{int((~torch.isfinite(image)).sum())} of {image.numel()} pixels are NaN or infinite")
    if result.anomaly_map is not None and not np.isfinite(result.anomaly_map.numpy()).all():
        raise ArithmeticError("the anomaly map holds NaN or infinity")
    return result


def _sentence(what: str, error: Exception) -> str:
    _log.debug("%s", what, exc_info=error)
    # Messages of torch run over many lines; the first one says it.
    return f"{what}: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
