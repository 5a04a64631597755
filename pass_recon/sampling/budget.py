"""How many lines, and which of them are the ACS: the counting that gadgets need before any tensor exists.

Apart from ``lines`` so that a gadget which only sorts lines starts without importing torch.
"""

from __future__ import annotations

import math

from pass_recon.types import InputError

# What a bundle that ranks all lines serves besides its own acceleration.
LEAST_ACCELERATION, MOST_ACCELERATION = 2.0, 10.0
# Score of a first image from which on a slice is worth more lines: of healthy simulated patients at 8× none has it in
# FLAIR, one in 16 in T1w and in knees (docs/results.md).
SUSPICIOUS = 0.5


def acs_fraction(acceleration: float) -> float:
    """Fraction of lines that form the autocalibration signal (ACS): 0.08 at 4×, 0.04 at 8×, as in the PASS paper."""
    return 0.32 / acceleration


def acs_count(pe: int, fraction: float) -> int:
    """Number of ACS lines, round(fraction · pe), at least one."""
    return max(1, math.floor(fraction * pe + 0.5))


def line_budget(pe: int, acceleration: float) -> int:
    """Number of lines that a scan of ``pe`` lines may take at this acceleration, round(pe / R), ACS included.

    Raises
    ------
    InputError
        If the acceleration is below 1 or leaves no line.
    """
    if not 1 <= acceleration <= pe:
        raise InputError(f"acceleration must lie between 1 and the number of lines ({pe}), got {acceleration:g}")
    return math.floor(pe / acceleration + 0.5)


def acs_range(pe: int, count: int) -> range:
    """Indices of the ``count`` ACS lines around the centre of k-space, line ``pe // 2``."""
    first = pe // 2 - count // 2
    return range(first, first + count)
