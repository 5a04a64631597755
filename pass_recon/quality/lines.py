"""Lines that cannot be right by themselves: zeros, and lines that are far too loud."""

from __future__ import annotations

import torch
from torch import Tensor

from pass_recon.physics.fourier import power
from pass_recon.sampling.lines import calibration_lines
from pass_recon.types import QualityFinding

_ZEROS = 0.1
# Energy over that of the loudest of four neighbours: outside the ACS of ordinary scans, of R = 2 to 8, equispaced or
# not, it was at most 1.6. The peak in the centre, where lines are missing around it, may be a hundred times as high.
_LOUD = 100.0
_LOUD_OUTSIDE = 5.0
_OUTER = 16


def zero_lines(samples: Tensor) -> Tensor:
    """``(coils, lines)`` bool: lines ``(coils, ro, lines)`` with far more zeros than others of the coil have."""
    zero = samples == 0
    sampled = (~zero).any(0).any(1)
    fraction = zero[:, sampled].float().mean(1)
    return fraction > fraction.median(1, keepdim=True).values.clamp(max=0.5) + _ZEROS


def loud_lines(samples: Tensor, lines: Tensor, line_mask: Tensor) -> Tensor:
    """``(lines,)`` bool: lines far louder than the two acquired lines on either side.

    Parameters
    ----------
    samples
        ``(coils, ro, lines)``.
    lines
        ``(lines,)`` their indices.
    line_mask
        ``(pe,)`` bool: all that were acquired.
    """
    energy = power(samples).sum((0, 1))
    if len(energy) < 8:
        return torch.zeros_like(energy, dtype=torch.bool)
    padded = torch.nn.functional.pad(energy[None], (2, 2), mode="reflect")[0]
    around = torch.stack([padded[:-4], padded[1:-3], padded[3:-1], padded[4:]]).amax(0)
    pe = len(line_mask)
    outer = ((lines - pe // 2).abs() > pe / _OUTER) & ~calibration_lines(line_mask).to(lines.device)[lines]
    # Of lines far apart the one through the peak may be louder than its neighbours by any factor.
    beside = torch.stack([line_mask.roll(step) for step in (-2, -1, 1, 2)]).any(0).to(lines.device)[lines]
    return (energy > torch.where(outer, _LOUD_OUTSIDE, _LOUD) * around) & (outer | beside)


def lines_finding(word: str, lines: list[int], what: str) -> QualityFinding:
    """``line(s) 3, 4 …``."""
    shown = ", ".join(map(str, sorted(lines)[:12])) + (f" and {len(lines) - 12} more" if len(lines) > 12 else "")
    return QualityFinding(word, f"line{'s' if len(lines) > 1 else ''} {shown} {what}")
