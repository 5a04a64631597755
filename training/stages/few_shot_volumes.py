"""Few-shot on real lesions, the paper's protocol: a dozen annotated patients, tried on all the others.

Adapters start from those of a bundle's detector and go on on slices of the few; memory and calibration are theirs too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pass_recon.anomaly import NetAD
from pass_recon.phantom.draws import mixed_seed
from pass_recon.types import InputError
from training.data.images import UNNAMED, ImageSlice, ImageSource, fitted_square, stacked
from training.evaluate.annotated_volumes import (
    AnnotatedVolume,
    annotated_summary,
    detectors_with_volumes,
    look_at,
)
from training.evaluate.measures import Record
from training.stages.netad import (
    AdapterObjective,
    NetADSettings,
    calibrate,
    remember_normal,
    training_batch,
    with_own_adapters,
)


class VolumeSource(ImageSource):
    """Slices of annotated volumes, in memory.

    Parameters
    ----------
    volumes
        Of one contrast.
    size
        Side of the square that every image is brought to, in pixels.
    """

    def __init__(self, volumes: Sequence[AnnotatedVolume], size: int) -> None:
        self.size, self.examination = size, f"brain-{volumes[0].contrast}"
        self.entries = [(volume.patient, number) for volume in volumes for number in range(len(volume.image))]
        labels = torch.cat([volume.label for volume in volumes])
        self.normal, self.abnormal, self.others = (
            (labels == value).nonzero().flatten().tolist() for value in (0, 1, -1)
        )
        slices = [
            ImageSlice(
                image=fitted_square(torch.stack([image, torch.zeros_like(image)]), size, smooth=True),
                classes=fitted_square(UNNAMED * mask[None].float(), size, smooth=False),
                label=label,
                reviewed=torch.tensor(True),
                caption=("",),
                examination=(self.examination,),
            )
            for volume in volumes
            for image, mask, label in zip(volume.image, volume.mask, volume.label, strict=True)
        ]
        self._memory = dict(enumerate(slices))


def chosen_few(volumes: Sequence[AnnotatedVolume], count: int, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the patients to learn from and of the others; those to learn from have a lesion.

    Raises
    ------
    InputError
        If there are too few.
    """
    sick = [number for number, volume in enumerate(volumes) if bool((volume.label == 1).any())]
    if len(sick) <= count:
        raise InputError(f"{count} annotated patients are to be learned from, {len(sick)} have lesions: nobody is left")
    draw = torch.Generator().manual_seed(mixed_seed(seed, "few volumes"))
    few = sorted(sick[int(place)] for place in torch.randperm(len(sick), generator=draw)[:count])
    return few, [number for number in range(len(volumes)) if number not in few]


def few_shot(netad: NetAD, volumes: Sequence[AnnotatedVolume], settings: NetADSettings, device: str = "cpu") -> NetAD:
    """A detector whose adapters, memory and calibration know these patients; the one given stays as it is."""
    torch.manual_seed(settings.seed)
    learner = with_own_adapters(netad).to(device)
    source = VolumeSource(volumes, settings.size)
    objective = AdapterObjective({source.examination: learner}, settings.image_weight)
    optimiser = torch.optim.AdamW(objective.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, total_steps=settings.steps)
    for step in range(settings.steps):
        batch = training_batch([source], settings, step).to(torch.device(device))
        # Moving an image may take its lesion out of it.
        batch = replace(batch, label=torch.where(batch.mask.flatten(1).any(1), batch.label, 0))
        objective([batch])["loss"].backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
    remember_normal(learner, [source], settings)
    calibrate(learner, stacked([source[number] for number in range(len(source))]))
    return learner


def few_shot_trial(
    netad: NetAD,
    volumes: Sequence[AnnotatedVolume],
    settings: NetADSettings,
    *,
    cases: int = 12,
    device: str = "cpu",
    resamples: int = 2000,
) -> dict[str, Any]:
    """Learn from ``cases`` patients, and measure before and after on the others.

    Returns
    -------
        ``before`` and ``after`` as `annotated_summary` gives them, ``learned_from``: the patients.
    """
    few, others = chosen_few(volumes, cases, settings.seed)
    learner = few_shot(netad, [volumes[number] for number in few], settings, device)
    held_out = [volumes[number] for number in others]

    def summary(detector: NetAD) -> dict[str, Any]:
        records: list[Record] = look_at(detector, held_out, device)
        return annotated_summary(records, resamples=resamples, seed=settings.seed)

    learned_from = [volumes[number].patient for number in few]
    return {"before": summary(netad), "after": summary(learner), "learned_from": learned_from}


def evaluate_few_shot(
    bundles: Sequence[str], folder: Path, settings: NetADSettings, *, cases: int = 12, device: str = "cpu"
) -> dict[str, dict[str, Any]]:
    """`few_shot_trial` of each bundle's detector, by its name; errors as `evaluate_volumes`."""
    return {
        label: few_shot_trial(netad, volumes, settings, cases=cases, device=device)
        for label, netad, volumes in detectors_with_volumes(bundles, folder, device)
    }
