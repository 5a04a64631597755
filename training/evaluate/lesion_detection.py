"""Lesion by lesion: how many are found at how many false boxes an image, and whether they get their right name.

The free-response operating characteristic (FROC; Chakraborty, Med Phys 1989). Each threshold of `find_boxes` gives a
point: the share of lesions that some box hits, and the boxes an image that hit nothing. A box hits a lesion if its
centre lies inside the lesion's box, grown by a few pixels, or their intersection is at least a fifth of their union.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from pass_recon.anomaly import NetAD, describe, find_boxes
from pass_recon.anomaly.netad import AnomalyResult
from pass_recon.bundles import load_bundle
from pass_recon.types import Box, InputError
from training.data.case_file import SUFFIX, CaseFile
from training.data.dataset import SliceDataset
from training.evaluate.measures import Record
from training.evaluate.selection import evaluated_bundles
from training.evaluate.statistics import Interval, as_plain, bounds, cluster_weights, per_cluster

THRESHOLDS = tuple(round(float(t), 3) for t in np.concatenate([np.arange(0.02, 0.2, 0.02), np.arange(0.2, 0.96, 0.05)]))
"""Of the map, at which boxes are found."""
FALSE_BOXES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""False boxes an image at which the curve is read."""
REPORTED = 0.1
"""Those at which lesions are counted as found in tables, and named."""
_GROWN, _OVERLAP = 2, 0.2


def hits(box: Box, lesion: Box) -> bool:
    """Whether a box found counts as this lesion."""
    row, column = box.readout + box.readout_size / 2, box.phase + box.phase_size / 2
    centred = (
        lesion.readout - _GROWN <= row <= lesion.readout + lesion.readout_size + _GROWN
        and lesion.phase - _GROWN <= column <= lesion.phase + lesion.phase_size + _GROWN
    )
    return centred or intersection_over_union(box, lesion) >= _OVERLAP


def intersection_over_union(one: Box, other: Box) -> float:
    """Of two boxes, by area."""
    rows = _shared(one.readout, one.readout_size, other.readout, other.readout_size)
    columns = _shared(one.phase, one.phase_size, other.phase, other.phase_size)
    both = rows * columns
    return both / (one.readout_size * one.phase_size + other.readout_size * other.phase_size - both)


def _shared(first: int, size: int, other: int, other_size: int) -> int:
    return max(0, min(first + size, other + other_size) - max(first, other))


def lesion_boxes(mask: Tensor, *, least: int = 4) -> tuple[Box, ...]:
    """A box around each connected lesion (diagonals count) of ``(ro, pe)`` bool that has at least so many pixels."""
    spots, _ = ndimage.label(mask.numpy(), structure=np.ones((3, 3)))
    sizes = np.bincount(spots.ravel())
    return tuple(
        Box(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
        for number, (rows, columns) in enumerate(ndimage.find_objects(spots), start=1)
        if sizes[number] >= least
    )


def match_lesions(
    netad: NetAD, result: AnomalyResult, lesions: Sequence[Sequence[Box]], *, pixel_mm: tuple[float, float]
) -> list[dict[str, Any]]:
    """What a detector finds of the lesions of each image of a batch, at every one of the THRESHOLDS.

    Parameters
    ----------
    netad
        The detector, for the names.
    result
        ``netad(image)``.
    lesions
        True boxes of each image; labels, where there are any, in fastMRI+'s words.
    pixel_mm
        Size of a pixel.

    Returns
    -------
        For each image: ``lesions``, how many; ``found`` and ``false``, numbers at each threshold; ``names``, for each
        threshold the place of the right name among the diagnoses of each named lesion found, from 0.
    """
    records: list[dict[str, Any]] = [
        {"lesions": len(those), "found": [], "false": [], "names": []} for those in lesions
    ]
    for threshold in THRESHOLDS:
        if any(box.label for those in lesions for box in those):
            findings = describe(netad, result, pixel_mm=pixel_mm, threshold=threshold)
            boxes = [finding.boxes for finding in findings]
            rankings = [[[name for name, _ in ranking] for ranking in finding.rankings] for finding in findings]
        else:
            boxes = [find_boxes(each, pixel_mm=pixel_mm, threshold=threshold) for each in result.map]
            rankings = [[] for _ in boxes]
        for record, those, seen, named in zip(records, lesions, boxes, rankings, strict=True):
            matched = [next((n for n, box in enumerate(seen) if hits(box, lesion)), None) for lesion in those]
            record["found"].append(sum(number is not None for number in matched))
            record["false"].append(sum(not any(hits(box, lesion) for lesion in those) for box in seen))
            record["names"].append([
                named[number].index(lesion.label)
                for lesion, number in zip(those, matched, strict=True)
                if number is not None and lesion.label and lesion.label in named[number]
            ])  # fmt: skip
    return records


def free_response(records: Sequence[Record], *, resamples: int = 2000, seed: int = 0) -> dict[str, Any] | None:
    """The curve of all images, read at FALSE_BOXES, and the names at REPORTED; None where there is no lesion.

    Parameters
    ----------
    records
        With ``patient`` and, under ``by_lesion``, what `match_lesions` gave.
    resamples, seed
        Of the bootstrap by patient.

    Returns
    -------
        ``lesions``, ``images``, ``curve`` (pairs of false boxes an image and share found, by rising threshold),
        ``found`` by false boxes an image, and ``threshold``, ``named_first``, ``named_among_three`` at REPORTED.
    """
    those = [record["by_lesion"] for record in records]
    patients = [record["patient"] for record in records]
    lesions = np.array([item["lesions"] for item in those], dtype=float)
    if not lesions.sum():
        return None
    found, false = (np.array([item[name] for item in those], dtype=float) for name in ("found", "false"))
    weights = cluster_weights(len(set(patients)), resamples, seed)
    sums = [per_cluster(values, patients) for values in (found, false, lesions, np.ones_like(lesions))]
    everyone = np.ones((1, len(weights[0])))

    def shares(drawn: NDArray, most: float) -> NDArray[np.float64]:
        hit, wrong, total, images = (drawn @ values for values in sums)
        # A resample may have drawn nobody with a lesion: no number, which `bounds` leaves out.
        with np.errstate(invalid="ignore", divide="ignore"):
            return share_at(hit / total[:, None], wrong / images[:, None], most)

    at = {
        f"{most:g}": Interval(
            float(shares(everyone, most)[0]), *bounds(shares(weights, most)), int(lesions.sum()), len(set(patients))
        )
        for most in FALSE_BOXES
    }
    rates = false.mean(0)
    chosen = chosen_threshold(found.sum(0), rates, REPORTED)
    places = [item["names"][chosen] for item in those]
    plain: dict[str, Any] = as_plain({
        "lesions": int(lesions.sum()),
        "images": len(records),
        "curve": [[float(rate), float(share)] for rate, share in zip(rates, found.sum(0) / lesions.sum(), strict=True)],
        "found": at,
        "threshold": THRESHOLDS[chosen],
        "named_first": _named(places, patients, 1, weights),
        "named_among_three": _named(places, patients, 3, weights),
    })  # fmt: skip
    return plain


def share_at(share: NDArray, rate: NDArray, most: float) -> NDArray[np.float64]:
    """The largest share found ``(...)`` among the thresholds ``(..., t)`` with at most so many false boxes."""
    best: NDArray[np.float64] = np.where(rate <= most, share, 0.0 * share).max(-1)
    return best


def chosen_threshold(found: NDArray, rate: NDArray, most: float) -> int:
    """Number of the threshold that finds most with at most so many false boxes; of equals the last."""
    allowed = np.where(rate <= most, found, -1.0)
    return int(len(allowed) - 1 - np.argmax(allowed[::-1]))


def _named(places: Sequence[Sequence[int]], patients: Sequence[str], among: int, weights: NDArray) -> Interval | None:
    """Share of the named lesions found whose right name is among the first; None where none has a name."""
    right = per_cluster(np.array([sum(place < among for place in each) for each in places], dtype=float), patients)
    all_found = per_cluster(np.array([len(each) for each in places], dtype=float), patients)
    if not all_found.sum():
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = bounds((weights @ right) / (weights @ all_found))
    return Interval(float(right.sum() / all_found.sum()), low, high, int(all_found.sum()), len(right))


def free_response_table(found: dict[str, dict[str, Any] | None]) -> str:
    """Markdown, one line an entry that has lesions."""
    rates = [f"{most:g}" for most in FALSE_BOXES]
    head = ["", "lesions", *(f"found at {rate} false boxes" for rate in rates), "named first", "among three"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, summary in found.items():
        if summary is None:
            continue
        cells = [str(summary["lesions"]), *(_told(summary["found"][rate]) for rate in rates)]
        cells += [_told(summary[key]) for key in ("named_first", "named_among_three")]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def _told(interval: dict[str, Any] | None) -> str:
    if interval is None:
        return "–"
    ends = "" if interval["low"] is None else f" ({100 * interval['low']:.0f}–{100 * interval['high']:.0f})"
    return f"{100 * interval['mean']:.0f} %{ends}"


@torch.no_grad()
def evaluate_lesions(
    bundles: Sequence[str],
    data: Path,
    *,
    device: str = "cpu",
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, dict[str, Any] | None]:
    """`free_response` of each bundle's detector on the clean test slices of its examination.

    Parameters
    ----------
    bundles
        Names or folders.
    data
        A prepared dataset.
    device
        Where to compute.
    resamples, seed
        Of the intervals over patients.
    progress
        Show a bar.

    Raises
    ------
    InputError
        If a bundle has no detector, or there are no test slices of its examination.
    """
    found: dict[str, dict[str, Any] | None] = {}
    for evaluated in evaluated_bundles(bundles):
        netad = load_bundle(evaluated.folder, device=device).netad
        if netad is None:
            raise InputError(f"bundle {evaluated.label} has no detector")
        anatomy, contrast = evaluated.examination.split("-")
        slices = SliceDataset(data, "test", anatomy=anatomy, contrast=contrast)
        records: list[Record] = []
        for name, index in tqdm(slices.entries, desc=evaluated.examination, disable=not progress):
            with CaseFile(slices.folder / (name + SUFFIX)) as case:
                image, boxes, pixel_mm = case.image(index), case.records[index].boxes, case.info.pixel_mm
            (by_lesion,) = match_lesions(netad, netad(image[None].to(device)), [boxes], pixel_mm=pixel_mm)
            records.append({"patient": slices.cases[name]["patient_id"], "by_lesion": by_lesion})
        found[evaluated.label] = free_response(records, resamples=resamples, seed=seed)
    return found
