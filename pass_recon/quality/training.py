"""Scans unlike those that the networks were trained on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pass_recon.types import QualityFinding


@dataclass(frozen=True)
class TrainedFor:
    """What the networks have seen.

    Attributes
    ----------
    sizes
        Smallest and largest matrix, along either axis, with some room on both sides.
    acceleration
        The largest, likewise.
    gap
        Longest stretch without a line between two lines, as a fraction of all.
    asymmetry
        How far the lines must reach on the shorter side of the centre, relative to the longer side.
    """

    sizes: tuple[int, int] = (100, 480)
    acceleration: float = 12.0
    gap: float = 0.3
    asymmetry: float = 0.1


def check_matrix(shape: tuple[int, int], trained: TrainedFor) -> list[QualityFinding]:
    """``unusual_matrix``, for ``shape`` (ro, pe)."""
    low, high = trained.sizes
    if low <= min(shape) and max(shape) <= high:
        return []
    sentence = f"a matrix of {shape[0]} × {shape[1]} is far from the {low} to {high} that the networks know"
    return [QualityFinding("unusual_matrix", sentence)]


def check_lines(line_mask: Tensor, trained: TrainedFor) -> list[QualityFinding]:
    """``unusual_lines``, for the lines ``(pe,)`` of a whole scan."""
    lines = line_mask.nonzero().flatten().cpu()
    pe, count = len(line_mask), len(lines)
    if count < 2:
        return []
    reasons = []
    if pe / count > trained.acceleration:
        reasons.append(f"{count} of {pe} lines are an acceleration of {pe / count:.1f}")
    gap = int(lines.diff().max())
    if gap > trained.gap * pe:
        reasons.append(f"there is a gap of {gap} lines")
    below, above = pe // 2 - int(lines[0]), int(lines[-1]) - pe // 2
    if min(below, above) < trained.asymmetry * max(below, above):
        reasons.append(f"they reach {below} below the centre and {above} above it")
    sentence = f"lines unlike those the networks know: {'; '.join(reasons)}"
    return [QualityFinding("unusual_lines", sentence)] if reasons else []
