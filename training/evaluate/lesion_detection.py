"""Lesion by lesion: how many are found at how many false boxes an image, and whether they get their right name.

The free-response operating characteristic (FROC; Chakraborty, Med Phys 1989). Each threshold of `find_boxes` gives a
point: the share of lesions that some box hits, and the boxes an image that hit nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pass_recon.bundles import load_bundle
from pass_recon.types import InputError
from training.data.case_file import SUFFIX, CaseFile
from training.data.dataset import SliceDataset
from training.evaluate.lesion_matching import THRESHOLDS, match_lesions
from training.evaluate.measures import Record
from training.evaluate.selection import evaluated_bundles
from training.evaluate.statistics import Interval, as_plain, bounds, cluster_weights, per_cluster

FALSE_BOXES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""False boxes an image at which the curve is read."""
REPORTED = 0.1
"""Those at which lesions are counted as found in tables, and named."""


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
