"""Which boxes of a detector hit which lesions.

A box hits a lesion if its centre lies inside the lesion's box, grown by a few pixels, or their intersection is at least
a fifth of their union.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage
from torch import Tensor

from pass_recon.anomaly import NetAD, describe, find_boxes
from pass_recon.anomaly.netad import AnomalyResult
from pass_recon.types import Box

THRESHOLDS = tuple(round(float(t), 3) for t in np.concatenate([np.arange(0.02, 0.2, 0.02), np.arange(0.2, 0.96, 0.05)]))
"""Of the map, at which boxes are found."""
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
