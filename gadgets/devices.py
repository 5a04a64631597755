"""Scans go on where a GPU does not: what fails on one is done again, on the CPU, and it is said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from gadgets.mrd import ScanContext
from pass_recon.pipeline import Pipeline

_log = logging.getLogger(__name__)
Result = TypeVar("Result")
_ACCELERATOR_ERROR: type[Exception] = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)  # from torch 2.8 on
_LIBRARIES = ("CUDA", "cuDNN", "CUBLAS", "cuFFT", "CUFFT", "HIP error")
# Devices on which nothing can be computed any more in this process, and why: an error of the device itself stays until
# the process ends, while memory may be free again for the next slice.
_lost: dict[str, str] = {}


def computed(work: Callable[[Pipeline], Result], pipeline: Pipeline, scan: ScanContext) -> tuple[Result, str]:
    """Do something with a pipeline, on the CPU where its GPU is lost or has no memory left.

    Parameters
    ----------
    work
        Calls the pipeline that it is given.
    pipeline
        For the scan.
    scan
        What the same pipeline is loaded for on the CPU.

    Returns
    -------
    result
        What ``work`` returns; what it raises for other reasons is raised.
    remark
        Why it was not computed where it was asked for; empty otherwise.
    """
    device = str(pipeline.device)
    if pipeline.device.type == "cpu":
        return work(pipeline), pipeline.remark
    if device not in _lost:
        try:
            return work(pipeline), pipeline.remark
        except RuntimeError as error:
            if not is_of_device(error):
                raise
            why = remark_on(error)
            _log.warning("%s", why)
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            else:
                _lost[device] = why
    else:
        why = _lost[device]
    from gadgets.pipelines import on_cpu

    return work(on_cpu(pipeline, scan)), why


def is_of_device(error: Exception) -> bool:
    """Whether a GPU is at fault, not the data: it is lost, or its memory is full."""
    if isinstance(error, torch.OutOfMemoryError | _ACCELERATOR_ERROR):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error) for name in _LIBRARIES)


def remark_on(error: Exception) -> str:
    """The sentence for whoever waits for the images."""
    said = str(error).partition("\n")[0]
    return f"the GPU has failed ({type(error).__name__}: {said}): computed on the CPU, which takes longer"
