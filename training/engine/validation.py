"""What a validation of a reconstructor shows: its slices as a figure, their quality as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pass_recon.metrics import Quality, qualities
from pass_recon.report.figures import SliceView, write_scan_figure
from pass_recon.sampling.budget import acs_range
from pass_recon.sampling.lines import calibration_width
from training.data.dataset import Slices


@dataclass(frozen=True)
class ReconstructedSlice:
    """A validation slice and what became of it.

    Attributes
    ----------
    name
        Of the bundle, such as ``brain-t1-4x``.
    item
        The whole slice.
    image
        ``(ro, pe)`` complex.
    lines
        ``(pe,)`` bool.
    """

    name: str
    item: Slices
    image: Tensor
    lines: Tensor

    @cached_property
    def quality(self) -> Quality:
        """Of the whole image."""
        return qualities(self.image.numpy(), self.item.image.numpy())[0]

    def view(self) -> SliceView:
        """A row of the figure."""
        seen = self.item.anomaly_map
        return SliceView(
            name=self.name,
            truth=self.item.image.abs().numpy(),
            image=self.image.abs().numpy(),
            lines=self.lines.numpy(),
            acs=acs_range(len(self.lines), max(1, calibration_width(self.lines))),
            quality=f"{self.quality.psnr:.2f} dB, SSIM {self.quality.ssim:.3f}",
            plan=f"{int(self.lines.sum())} of {len(self.lines)} lines",
            lesions=self.item.boxes,
            anomaly_map=None if seen is None else seen.float().numpy(),
        )


def mean_quality(seen: Sequence[ReconstructedSlice]) -> dict[str, float]:
    """Mean PSNR in dB, SSIM and NMSE of all slices, and the PSNR of each bundle's."""
    names = sorted({item.name for item in seen})
    own = {name: [item.quality.psnr for item in seen if item.name == name] for name in names}
    return {
        **{
            measure: finite_mean(getattr(item.quality, measure) for item in seen)
            for measure in ("psnr", "ssim", "nmse")
        },
        **{name: finite_mean(values) for name, values in own.items()},
    }


def finite_mean(values: Iterable[float]) -> float:
    """Of those that are finite; NaN if none is."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def write_validation_figure(path: Path, seen: Sequence[ReconstructedSlice], title: str) -> None:
    """A PNG with one row a slice."""
    with torch.no_grad():
        write_scan_figure(path, [item.view() for item in seen], title=title, notice="validation, not for clinical use")
