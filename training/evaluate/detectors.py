"""What the detectors of bundles are worth on images alone: no coils, no reconstruction, so many patients in minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pass_recon.anomaly import NetAD
from pass_recon.bundles import load_bundle
from pass_recon.types import InputError
from training.data.images import ImageSlice, ImageSource, open_images, stacked
from training.data.manifest import read_manifest
from training.evaluate.detection import detection_summary, pixel_histograms
from training.evaluate.netad_validation import VIEWS, look
from training.evaluate.records import Record
from training.evaluate.selection import contenders
from training.evaluate.summary import as_plain

BASELINE = "lesion frequency"
"""A map that is the same for everybody: how often training patients had a lesion there."""
_SPLIT, _PART = "test", 16


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
    """Figures of each bundle's detector on the test slices of its kind, in every one of the VIEWS.

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
        If a bundle has no detector, or there are no test slices of its kind, or of none is it known whether it is sick.
    """
    found: dict[str, dict[str, Any]] = {}
    for contender in contenders(bundles):
        netad = load_bundle(contender.folder, device=device).netad
        if netad is None:
            raise InputError(f"bundle {contender.label} has no detector")
        kind = "-".join(contender.kind)
        (source,) = open_images([data], _SPLIT, [kind], size)
        baseline = None if training is None else lesion_frequency(open_images([training], "train", [kind], size))
        by_case = {case["name"]: case["patient_id"] for case in read_manifest(data)["cases"]}
        patients = [by_case[name] for name, _ in source.entries]
        records = _records(netad, source, patients, baseline, device, progress)
        if all(record["label"] < 0 for record in records):
            raise InputError(f"of none of the {kind} slices in {data} is it known whether there is a lesion")
        summaries = {
            view: detection_summary(records, view, resamples=resamples, seed=seed) for view in records[0]["detection"]
        }
        found[contender.label] = as_plain(summaries)
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
    for start in tqdm(parts, desc=source.kind, unit="part", disable=not progress):
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
