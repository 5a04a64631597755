"""Pipelines that do what a test wants, with the interface of `pass_recon.pipeline.Pipeline`."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import torch

from pass_recon.pipeline import Pipeline
from pass_recon.types import Box, QualityFinding, Reconstruction, SamplingPlan

NAME = "pretended-4x"
BOX = Box(4, 10, 6, 8, score=0.75, label="glioma")


class Detecting(Pipeline):
    """Personal plans that differ from slice to slice, a map and a finding; classical images.

    Parameters
    ----------
    fail
        Names of the calls that raise.
    hold
        Plans wait for this event.
    quality
        What is wrong with everything.
    """

    def __init__(
        self,
        *,
        fail: tuple[str, ...] = (),
        hold: threading.Event | None = None,
        quality: tuple[QualityFinding, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.quality = quality
        self.pixels_mm: list[tuple[float, float]] = []  # shared by copies, as the gadgets make them
        self.guards: list[str] = []
        self.name = NAME
        self.fail, self.hold = fail, hold
        self.planned: list[tuple[int, ...]] = []

    def plan(self, acs: Any, acs_lines: Any, shape: tuple[int, int], **_: Any) -> SamplingPlan:
        """The ACS and the highest lines."""
        self._maybe_fail("plan")
        if self.hold is not None:
            self.hold.wait(20)
        self.planned.append(tuple(torch.as_tensor(acs).shape))
        pe = shape[1]
        lines = self.acs(pe)
        lines[pe - (round(pe / self.acceleration) - int(lines.sum())) :] = True
        order = tuple(lines.nonzero().flatten().flip(0).tolist())
        told: dict[str, Any] = {"score": 0.5, "bundle": self.name, "quality": self.quality}
        return SamplingPlan(lines, order, self.acceleration, "personal", **told)

    def reconstruct(self, kspace: Any, line_mask: Any, **kwargs: Any) -> Reconstruction:
        """CG-SENSE with a map beside it."""
        self._maybe_fail("reconstruct")
        self.pixels_mm.append(kwargs.pop("pixel_mm"))
        self.guards.append(self.guard)
        result = super().classical(kspace, line_mask, **kwargs)
        if "nan" in self.fail:
            result.image[3, 4] = torch.nan
        ramp = torch.linspace(0, 1, result.image.numel()).reshape(result.image.shape)
        known = {"boxes": ((BOX,),), "score": (0.9,), "bundle": self.name, "quality": (self.quality,)}
        return replace(result, anomaly_map=ramp, **known)

    def classical(self, kspace: Any, line_mask: Any, **kwargs: Any) -> Reconstruction:
        """As it is, unless it is to fail."""
        self._maybe_fail("classical")
        return super().classical(kspace, line_mask, **kwargs)

    def _maybe_fail(self, call: str) -> None:
        if call in self.fail:
            raise RuntimeError(f"out of memory in {call}\nand a second line that nobody needs")
