"""What the detectors of bundles are worth on images alone: no coils, no reconstruction, so many patients in minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pass_recon.anomaly import NetAD
from pass_recon.anomaly.calibration import expected_calibration_error
from pass_recon.bundles import load_bundle
from pass_recon.types import InputError
from training.data.augmentation import degrade
from training.data.dataset import Split
from training.data.images import ImageSlice, ImageSource, open_images, stacked
from training.data.manifest import read_manifest
from training.evaluate.measures import Record, pixel_histograms
from training.evaluate.selection import evaluated_bundles
from training.evaluate.statistics import as_plain, detection_summary, score_auc

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
            "image_auc": score_auc(self.score[known], self.label[known] == 1),
            "pixel_auc": score_auc(self.anomaly_map[known], self.mask[known]),
            "score_ece": expected_calibration_error(self.score[known], self.label[known].double()),
            "map_ece": expected_calibration_error(self.anomaly_map[known], self.mask[known].double()),
        }


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


BASELINE = "lesion frequency"
"""A map that is the same for everybody: how often training patients had a lesion there."""
_SPLIT: Split = "test"
_PART = 16


def evaluate_detectors(
    bundles: Sequence[str],
    data: Path,
    *,
    training: Path | None = None,
    size: int = 320,
    device: str = "cpu",
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Figures of each bundle's detector on the test slices of its examination, in every one of the VIEWS.

    Parameters
    ----------
    bundles
        Names or folders.
    data
        A prepared dataset.
    training
        The dataset whose training slices the baseline comes from; without it there is none.
    size
        Side of the squares that images are brought to.
    device
        Where to compute.
    resamples, seed
        Of the intervals over patients.
    progress
        Show a bar.

    Returns
    -------
        By the bundle's name and view what `detection_summary` gives.

    Raises
    ------
    InputError
        If a bundle has no detector, or there are no test slices of its examination, or all of them are unlabelled.
    """
    found: dict[str, dict[str, Any]] = {}
    for bundle in evaluated_bundles(bundles):
        netad = load_bundle(bundle.folder, device=device).netad
        if netad is None:
            raise InputError(f"bundle {bundle.label} has no detector")
        examination = bundle.examination
        (source,) = open_images([data], _SPLIT, [examination], size)
        baseline = None if training is None else lesion_frequency(open_images([training], "train", [examination], size))
        by_case = {case["name"]: case["patient_id"] for case in read_manifest(data)["cases"]}
        patients = [by_case[name] for name, _ in source.entries]
        records = _records(netad, source, patients, baseline, device, progress)
        if all(record["label"] < 0 for record in records):
            raise InputError(f"of none of the {examination} slices in {data} is it known whether there is a lesion")
        summaries = {
            view: detection_summary(records, view, resamples=resamples, seed=seed) for view in records[0]["detection"]
        }
        found[bundle.label] = as_plain(summaries)
    return found


def lesion_frequency(sources: Sequence[ImageSource]) -> Tensor:
    """``(ro, pe)``: share of the slices with a lesion there."""
    masks = [source[number].mask for source in sources for number in range(len(source))]
    return torch.stack(masks).float().mean(0)


def _records(
    netad: NetAD,
    source: ImageSource,
    patients: Sequence[str],
    baseline: Tensor | None,
    device: str,
    progress: bool,
) -> list[Record]:
    records: list[Record] = []
    parts = range(0, len(source), _PART)
    for start in tqdm(parts, desc=source.examination, unit="part", disable=not progress):
        numbers = range(start, min(start + _PART, len(source)))
        batch = stacked([source[number] for number in numbers]).to(torch.device(device))
        seen = {view: look(netad, batch, view) for view in VIEWS}
        for place, number in enumerate(numbers):
            detection = {
                view: _detected(batch, place, float(each.score[place]), each.anomaly_map[place])
                for view, each in seen.items()
            }
            if baseline is not None:
                detection[BASELINE] = _detected(batch, place, 0.5, baseline.to(device))
            label = int(batch.label[place])
            records.append({"patient": patients[number], "label": label, "detection": detection})
    return records


def _detected(batch: ImageSlice, place: int, score: float, anomaly_map: Tensor) -> Mapping[str, Any]:
    return {"score": score, "pixels": pixel_histograms(anomaly_map, batch.mask[place])}
