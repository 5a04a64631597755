"""What detectors are worth on held-out slices: areas under curves, calibration error, and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pass_recon.anomaly import NetAD
from pass_recon.anomaly.calibration import expected_calibration_error
from training.data.augmentation import degrade
from training.data.images import ImageSlice

VIEWS = ("clean", "reconstructed", "acs 8%", "acs 4%")
"""How held-out images are looked at; ``reconstructed``: 4×, the lines that were not acquired at 60 %."""


@dataclass(frozen=True)
class Seen:
    """What a detector made of slices: images and maps ``(n, ro, pe)``, scores and labels ``(n,)``."""

    image: Tensor
    mask: Tensor
    label: Tensor
    anomaly_map: Tensor
    score: Tensor

    def quality(self) -> dict[str, float]:
        """Areas under the curve by image and by pixel, and expected calibration error of the score."""
        known = self.label >= 0
        return {
            "image_auc": pixel_auc(self.score[known], self.label[known] == 1),
            "pixel_auc": pixel_auc(self.anomaly_map[known], self.mask[known]),
            "score_ece": expected_calibration_error(self.score[known], self.label[known].double()),
            "map_ece": expected_calibration_error(self.anomaly_map[known], self.mask[known].double()),
        }


def pixel_auc(scores: Tensor, truth: Tensor) -> float:
    """Probability that a positive scores above a negative, ties counted half; NaN where there is none of either."""
    scores, truth = scores.flatten().double(), truth.flatten()
    values, places = scores.unique(return_inverse=True)
    positives = torch.bincount(places[truth], minlength=len(values)).double()
    negatives = torch.bincount(places[~truth], minlength=len(values)).double()
    wins = (positives * (negatives.cumsum(0) - negatives / 2)).sum()
    return float(wins / (positives.sum() * negatives.sum()))


def viewed(image: Tensor, view: str, seed: int = 0) -> Tensor:
    """Images ``(b, ro, pe)`` in one of the VIEWS, with noise of 1 % of the peak (ACS images: what is left of it)."""
    draw = torch.Generator().manual_seed(seed)
    noise = 0.01 * image.abs().amax((1, 2), keepdim=True).cpu() * torch.randn(
        image.shape, dtype=image.dtype, generator=draw
    )  # fmt: skip
    noisy = image + noise.to(image.device)
    if view == "clean":
        return image
    if view == "reconstructed":
        lines = torch.rand(image.shape[-1], generator=draw) < 0.17
        return degrade(noisy, 0.08, torch.where(lines, 1.0, 0.6))
    return degrade(noisy, float(view.removeprefix("acs ").removesuffix("%")) / 100)


@torch.no_grad()
def look(netad: NetAD, batch: ImageSlice, view: str, *, calibrated: bool = True, part: int = 16) -> Seen:
    """Let a detector look at a batch."""
    image = viewed(batch.image, view)
    results = [netad(piece, calibrated=calibrated) for piece in image.split(part)]
    anomaly_map = torch.cat([result.map for result in results])
    return Seen(image, batch.mask, batch.label, anomaly_map, torch.cat([result.score for result in results]))


def write_map_figure(path: Path, rows: Sequence[tuple[str, Seen, int]]) -> None:
    """A PNG with one row a slice: image, truth, map; rows are names, what was seen, and the number of the slice."""
    import matplotlib as mpl

    mpl.use("Agg", force=False)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 2.5 * len(rows)), layout="constrained")
    axes: Any = figure.subplots(len(rows), 3, squeeze=False)
    for line, (name, seen, number) in zip(axes, rows, strict=True):
        for axis, picture, title, top in (
            (line[0], seen.image[number].abs(), name, None),
            (line[1], seen.mask[number], f"label {int(seen.label[number])}", 1.0),
            (line[2], seen.anomaly_map[number], f"map, score {float(seen.score[number]):.2f}", 1.0),
        ):
            colours = "magma" if axis is line[2] else "gray"
            axis.imshow(picture.float().cpu().numpy(), cmap=colours, vmin=0, vmax=top)
            axis.set_title(title, fontsize=8)
            axis.axis("off")
    figure.savefig(path, dpi=80)
