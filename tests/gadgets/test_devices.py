"""A GPU that is lost, or has no memory left, in the middle of a scan: the CPU goes on, and it is said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from ismrmrd import Image

from gadgets import devices, pipelines
from gadgets.acs_buffer import buffer_lines
from gadgets.mask_feedback import feed_back
from gadgets.mrd import ScanContext
from gadgets.pass_reconstruction import reconstruct
from gadgets.properties import Properties
from gadgets.protocol.connection import Failure
from pass_recon.bundles import Bundle
from pass_recon.pipeline import Pipeline
from tests.gadgets.acquisitions import header, kspace, lines_of

BUNDLE = "brain-flair-4x"
LOST = "CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA"
ACCELERATOR_ERROR = getattr(torch, "AcceleratorError", RuntimeError)  # from torch 2.8 on; it was a RuntimeError before


class OnGpu(Pipeline):
    """A pipeline that says that it is on a GPU, which fails from the given call on, for so many calls."""

    def __init__(self, error: Exception, first: int, last: int) -> None:
        super().__init__(BUNDLE)
        self.device = torch.device("cuda")
        self.error, self.failing, self.calls = error, range(first, last + 1), []

    def _computes(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(call.__name__)
        if len(self.calls) in self.failing:
            raise self.error
        self.device = torch.device("cpu")
        try:
            return call(*args, **kwargs)
        finally:
            self.device = torch.device("cuda")

    def plan(self, *args: Any, **kwargs: Any) -> Any:
        return self._computes(super().plan, *args, **kwargs)

    def reconstruct(self, *args: Any, **kwargs: Any) -> Any:
        return self._computes(super().reconstruct, *args, **kwargs)


@pytest.fixture(autouse=True)
def _devices_anew() -> Iterator[None]:
    devices._lost.clear()
    yield
    devices._lost.clear()


def outcome(pipeline: Pipeline, slices: int = 3) -> tuple[list[np.ndarray], list[str], list[str]]:
    """Pixels of all images and plans, what makes them no images of the networks, and what is said."""
    context = ScanContext(header(), Properties(bundle=BUNDLE, mode="closed_loop", plan_deadline_ms=60_000.0))
    lines = (line for number in range(slices) for line in lines_of(kspace(seed=number), slice=number))
    made = list(reconstruct(feed_back(buffer_lines(lines, context), context, pipeline), context, pipeline))
    images = [one for one in made if isinstance(one, Image)]
    assert all(one.severity == "warning" for one in made if isinstance(one, Failure))
    fallbacks = [str(image.meta["PASS_fallback"]) for image in images if "PASS_fallback" in image.meta]
    return [image.data for image in images], fallbacks, [one.message for one in made if isinstance(one, Failure)]


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has …"), 6),
        (ACCELERATOR_ERROR(LOST), 2),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), 2),
    ],
    ids=["out of memory", "lost", "cuDNN"],
)
def test_the_networks_go_on_on_the_cpu(error: Exception, calls: int) -> None:
    expected, no_fallbacks, said = outcome(Pipeline(BUNDLE))
    assert not no_fallbacks
    assert not said
    gpu = OnGpu(error, 2, 2)
    images, fallbacks, said = outcome(gpu)
    assert not fallbacks
    assert len(images) == len(expected) == 12  # for each slice the plan, what was acquired, an image and a map
    for one, other in zip(images, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())
    sentence = str(error).partition("\n")[0]
    assert said == [
        f"the GPU has failed ({type(error).__name__}: {sentence}): computed on the CPU, which takes longer"
    ] * (7 - calls)
    assert len(gpu.calls) == calls  # memory may be free again, a lost device is not asked twice


def test_an_error_that_is_none_of_a_gpu_is_still_a_fallback() -> None:
    _, fallbacks, said = outcome_of_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert fallbacks
    assert "mat1 and mat2" in said[0]


def outcome_of_error(error: Exception) -> tuple[list[Any], list[str], list[str]]:
    context = ScanContext(header(), Properties(bundle=BUNDLE, mode="prospective"))
    pipeline = OnGpu(error, 1, 9)
    pipeline.classical = Pipeline("classical").classical  # type: ignore[method-assign]
    lines = lines_of(kspace())
    made = list(reconstruct(feed_back(buffer_lines(lines, context), context, pipeline), context, pipeline))
    images = [one for one in made if isinstance(one, Image)]
    fallbacks = [str(image.meta["PASS_fallback"]) for image in images if "PASS_fallback" in image.meta]
    return images, fallbacks, [one.message for one in made if isinstance(one, Failure)]


def test_networks_that_do_not_fit_on_the_gpu_are_loaded_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    to = Bundle.to

    def full(bundle: Bundle, device: torch.device) -> Bundle:
        if torch.device(device).type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return to(bundle, device)

    monkeypatch.setattr(Bundle, "to", full)
    monkeypatch.setattr(pipelines, "device_of", lambda name: "cuda" if name == "auto" else name)
    monkeypatch.setattr("pass_recon.pipeline.in_bfloat16", lambda precision, device: False)
    context = ScanContext(header(), Properties(bundle=BUNDLE))
    pipeline = pipelines.pipeline_for(context)
    assert pipeline.device.type == "cpu"
    assert pipeline.remark.startswith("the GPU has failed (OutOfMemoryError: CUDA out of memory.)")
    assert not pipelines.on_cpu(pipeline, context).remark


def test_a_bundle_of_ones_own_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    monkeypatch.setattr(pipelines, "_load", lambda properties, _: asked.append(properties.bundle) or Pipeline())
    own = Pipeline(BUNDLE)
    for named, loaded in (("/bundles/mine", "/bundles/mine"), ("auto", BUNDLE), ("brain-flair-8x", BUNDLE)):
        pipelines.on_cpu(own, ScanContext(header(), Properties(bundle=named)))
        assert asked.pop() == loaded
