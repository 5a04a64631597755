"""What came back of painted faint blobs, by radius and by contrast, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from training.evaluate.faint import CONTRASTS, RADII
from training.evaluate.measures import Record
from training.evaluate.statistics import Interval, bootstrap


def faint_summary(records: Sequence[Record], method: str, *, resamples: int, seed: int) -> dict[str, Any] | None:
    """Mean recovery and d′ by radius and by contrast; None where no blobs were painted.

    Parameters
    ----------
    records
        Of one dataset, bundle and noise level.
    method
        By name.
    resamples, seed
        Of the bootstrap by patient.
    """
    rows = [(record["patient"], *blob) for record in records for blob in record["methods"][method].get("faint", ())]
    if not rows:
        return None

    def means(which: int, column: int, bins: Sequence[tuple[float, float]]) -> dict[str, Interval | None]:
        found = {}
        for low, high in bins:
            members = [row for row in rows if low <= row[which] < high]
            values, patients = [row[column] for row in members], [row[0] for row in members]
            found[f"{low:g} to {high:g}"] = bootstrap(values, patients, resamples=resamples, seed=seed)
        return found

    return {
        "blobs": len(rows),
        "recovery_by_radius": means(1, 3, RADII),
        "recovery_by_contrast": means(2, 3, CONTRASTS),
        "d_prime_by_radius": means(1, 4, RADII),
    }
