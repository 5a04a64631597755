"""How far a few annotated slices of one real patient carry: adapters from one patient, tried on the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pass_recon.types import InputError
from training.data.dataset import SliceDataset
from training.data.images import ImageSlice, ImageSource, stacked
from training.evaluate.detectors import look
from training.evaluate.statistics import score_auc
from training.stages.netad import AdapterObjective, NetADSettings, build_detectors, remember_normal, training_batch

_LEAST_PIXELS = 4


def few_shot_transfer(settings: NetADSettings, data: str | Path, device: str = "cpu") -> dict[str, dict[str, float]]:
    """Adapters and memory from one patient, areas under the curve on every other patient of the dataset.

    Parameters
    ----------
    settings
        Of `train netad`: its backbone, examinations, steps, batch, learning rate, memory.
    data
        A prepared dataset of a few patients with known lesions; its own split counts for nothing.
    device
        Where to compute.

    Returns
    -------
        By ``"<examination> <training patient> -> <other>"`` the ``image_auc`` over slices (abnormal: 4 lesion pixels or
        more) and the ``pixel_auc``.

    Raises
    ------
    InputError
        If there are fewer than two patients of an examination.
    """
    by_examination: dict[tuple[str, str], list[str]] = {}
    for name, case in sorted(SliceDataset(data).cases.items()):
        if not settings.examinations or f"{case['anatomy']}-{case['contrast']}" in settings.examinations:
            by_examination.setdefault((case["anatomy"], case["contrast"]), []).append(name)
    found: dict[str, dict[str, float]] = {}
    for (anatomy, contrast), names in by_examination.items():
        if len(names) < 2:
            raise InputError(f"{data} has one patient of {anatomy}-{contrast}: nobody is left to try the detector on")
        sources = {
            name: ImageSource(SliceDataset(data, anatomy=anatomy, contrast=contrast, cases=[name]), settings.size)
            for name in names
        }
        for name, source in sources.items():
            netad = fitted(settings, source, device)
            for other in names:
                if other != name:
                    found[f"{anatomy}-{contrast} {name} -> {other}"] = tried(netad, sources[other], device)
    return found


def fitted(settings: NetADSettings, source: ImageSource, device: str) -> Any:
    """A detector whose adapters and memory know one patient."""
    torch.manual_seed(settings.seed)
    netads = build_detectors(settings, [source.examination])
    netad = netads[source.examination].to(device)
    objective = AdapterObjective(netads, settings.image_weight)
    optimiser = torch.optim.AdamW(objective.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, total_steps=settings.steps)
    for step in range(settings.steps):
        batch = training_batch([source], settings, step)
        # The patient was read whole: what has no lesion is normal, whatever the study's labels leave open.
        batch = replace(batch, reviewed=torch.ones_like(batch.reviewed), label=_labels(batch))
        objective([batch.to(torch.device(device))])["loss"].backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
    remember_normal(netad, [source], settings)
    return netad


def tried(netad: Any, source: ImageSource, device: str) -> dict[str, float]:
    """Areas under the curve by image and by pixel on clean slices."""
    batch = stacked([source[number] for number in range(len(source))]).to(torch.device(device))
    seen = look(netad, batch, "clean", calibrated=False)
    return {
        "image_auc": score_auc(seen.score, _labels(batch) == 1),
        "pixel_auc": score_auc(seen.anomaly_map, batch.mask),
        "slices": float(len(source)),
    }


def _labels(batch: ImageSlice) -> torch.Tensor:
    return (batch.mask.flatten(1).sum(1) >= _LEAST_PIXELS).long()
