"""How personal personal plans are: by how many lines they differ."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluate.bootstrap import bootstrap
from training.evaluate.records import Record


def plan_summary(records: list[Record], *, resamples: int, seed: int) -> dict[str, Any] | None:
    """Lines of the personal plan that another plan does not have; only high frequencies can differ.

    Parameters
    ----------
    records
        Of one dataset, bundle and noise level.
    resamples, seed
        Of the bootstrap by patient.

    Returns
    -------
    dict or None
        ``high_frequency_lines``, how many each plan may choose (mean); ``between_patients``, mean over pairs of slices
        of different patients; ``from_population``; ``from_twin``, the same patient without lesions. None without plans.
    """
    planned = [record for record in records if "personal" in record["plans"]]
    if not planned:
        return None
    choices = [len(record["plans"]["personal"]["lines"]) - len(record["acs"]) for record in planned]
    return {
        "high_frequency_lines": float(np.mean(choices)),
        "between_patients": mean_between_patients(planned),
        **{
            f"from_{other}": bootstrap(
                [differing(record["plans"]["personal"]["lines"], record["plans"][other]["lines"]) for record in having],
                [record["patient"] for record in having],
                resamples=resamples,
                seed=seed,
            )
            for other in ("population", "twin")
            if (having := [record for record in planned if other in record["plans"]])
        },
    }


def differing(lines: list[int], others: list[int]) -> int:
    """How many of the lines are not among the others."""
    return len(set(lines) - set(others))


def mean_between_patients(records: list[Record]) -> float | None:
    """Mean number of lines by which the plans of two slices of different patients differ; None without such a pair."""
    groups: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        # Line numbers mean the same only in k-spaces of the same size.
        groups[record["size"][1]].append(record)
    total = pairs = 0.0
    for lines, members in groups.items():
        masks = np.stack([_mask(record["plans"]["personal"]["lines"], lines) for record in members])
        patients = np.array([record["patient"] for record in members])
        apart = patients[:, None] != patients[None, :]
        missing = masks.sum(1)[:, None] - masks @ masks.T
        total, pairs = total + float(missing[apart].sum()), pairs + float(apart.sum())
    return total / pairs if pairs else None


def _mask(lines: list[int], count: int) -> NDArray[np.float64]:
    mask = np.zeros(count)
    mask[lines] = 1.0
    return mask
