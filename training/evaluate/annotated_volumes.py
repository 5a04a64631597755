"""Detectors on real volumes whose lesions somebody drew: the yardstick that no simulation can flatter.

A folder holds ``<patient>_<contrast>.nii.gz`` and, of the same patient, ``<patient>_lesions.nii.gz``. Slices go through
the detector as they lie in the file, turned to the project's orientation: no skull stripping, no scaling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pass_recon.anomaly import NetAD
from pass_recon.bundles import load_bundle
from pass_recon.types import InputError
from training.data.nifti import VolumeSettings, find_volumes, on_grid, parse_name, read_volume
from training.evaluate.lesion_detection import free_response
from training.evaluate.lesion_matching import lesion_boxes, match_lesions
from training.evaluate.measures import Record, pixel_histograms
from training.evaluate.selection import evaluated_bundles
from training.evaluate.statistics import as_plain, bootstrap, detection_summary

LEAST_PIXELS = 4
"""Fewer lesion pixels than these leave a slice unjudged: neither sick nor an example of a normal one."""
_PART = 16


@dataclass(frozen=True)
class AnnotatedVolume:
    """One patient in one contrast.

    Attributes
    ----------
    patient, contrast
        From the name of the file.
    image
        ``(slices, ro, pe)`` float32 magnitude, peak 1; empty slices are left out.
    mask
        ``(slices, ro, pe)`` bool, lesions.
    pixel_mm
        Size of a pixel.
    """

    patient: str
    contrast: str
    image: Tensor
    mask: Tensor
    pixel_mm: float

    @property
    def label(self) -> Tensor:
        """``(slices,)`` 1 abnormal, 0 normal, −1 with fewer lesion pixels than could be seen."""
        pixels = self.mask.flatten(1).sum(1)
        return torch.where(pixels >= LEAST_PIXELS, 1, torch.where(pixels == 0, 0, -1))


def read_annotated(folder: Path, contrast: str, *, side: int = 256) -> list[AnnotatedVolume]:
    """All volumes of a contrast below a folder that have a lesion mask, by name.

    Parameters
    ----------
    folder
        Of NIfTI files.
    contrast
        ``t1``, ``flair`` …
    side
        Pixels of the square that slices are brought to; fields of view of 200 to 260 mm keep their pixels.

    Raises
    ------
    InputError
        If there is none, or a mask does not fit its volume.
    """
    found = []
    for job in find_volumes(folder, VolumeSettings()):
        patient, of = parse_name(job.path.name.split(".")[0])
        if of != contrast or job.mask is None:
            continue
        volume, mask = read_volume(job.path, "brain"), read_volume(job.mask, "brain")
        if mask.values.shape != volume.values.shape:
            raise InputError(f"{job.path.name} is {tuple(volume.values.shape)}, its mask {tuple(mask.values.shape)}")
        scan = on_grid(volume, mask, (side, side))
        assert scan.mask is not None
        found.append(AnnotatedVolume(patient, contrast, scan.magnitude, scan.mask, scan.pixel_mm))
    if not found:
        raise InputError(f"{folder} holds no {contrast} volume with a lesion mask beside it (<patient>_lesions.nii.gz)")
    return found


def look_at(netad: NetAD, volumes: Sequence[AnnotatedVolume], device: str = "cpu") -> list[Record]:
    """What a detector says about every slice, as records of `detection_summary`."""
    records: list[Record] = []
    for volume in volumes:
        for part in torch.arange(len(volume.image)).split(_PART):
            seen = netad(volume.image[part].to(device))
            truth = [lesion_boxes(volume.mask[number], least=LEAST_PIXELS) for number in part.tolist()]
            by_lesion = match_lesions(netad, seen, truth, pixel_mm=(volume.pixel_mm, volume.pixel_mm))
            for place, number in enumerate(part.tolist()):
                pixels = pixel_histograms(seen.map[place].cpu(), volume.mask[number])
                records.append(
                    {
                        "patient": volume.patient,
                        "slice": number,
                        "label": int(volume.label[number]),
                        "detection": {"clean": {"score": float(seen.score[place]), "pixels": pixels}},
                        "by_lesion": by_lesion[place],
                    }
                )
    return records


def annotated_summary(records: Sequence[Record], *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """`detection_summary`, the mean score of sick and of lesion-free slices, and `free_response` under ``lesions``."""
    summary = dict(detection_summary(list(records), "clean", resamples=resamples, seed=seed) or {})
    for name, label in (("score_of_normal", 0), ("score_of_abnormal", 1)):
        those = [record for record in records if record["label"] == label]
        scores = np.array([record["detection"]["clean"]["score"] for record in those])
        summary[name] = bootstrap(scores, [record["patient"] for record in those], resamples=resamples, seed=seed)
    summary["lesions"] = free_response(records, resamples=resamples, seed=seed)
    plain: dict[str, Any] = as_plain(summary)
    return plain


def detectors_with_volumes(
    bundles: Sequence[str], folder: Path, device: str = "cpu"
) -> Iterator[tuple[str, NetAD, list[AnnotatedVolume]]]:
    """Name and detector of each bundle, and the volumes of its contrast.

    Raises
    ------
    InputError
        If a bundle has no detector or is not of the brain, or there are no volumes of its contrast.
    """
    for evaluated in evaluated_bundles(bundles):
        netad = load_bundle(evaluated.folder, device=device).netad
        anatomy, contrast = evaluated.examination.split("-")
        if netad is None or anatomy != "brain":
            raise InputError(f"bundle {evaluated.label} has no detector of lesions in brains")
        yield evaluated.label, netad, read_annotated(folder, contrast)


def evaluate_volumes(bundles: Sequence[str], folder: Path, *, device: str = "cpu") -> dict[str, dict[str, Any]]:
    """`annotated_summary` of each bundle's detector, by its name; errors as `detectors_with_volumes`."""
    return {
        label: annotated_summary(look_at(netad, volumes, device))
        for label, netad, volumes in detectors_with_volumes(bundles, folder, device)
    }


def annotated_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, one line an entry."""
    lines = ["| | slices (patients) | image AUC | pixel AUC | pixel AP | score, lesion-free | score, lesions |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, summary in found.items():
        cells = [f"{summary['slices']} ({summary['patients']})"]
        for key in ("image_auc", "pixel_auc", "pixel_average_precision", "score_of_normal", "score_of_abnormal"):
            cells.append(_told(summary[key]))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _told(interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return "–"
    ends = "" if interval["low"] is None else f" [{interval['low']:.3f}, {interval['high']:.3f}]"
    return f"{interval['mean']:.3f}{ends}"
