"""Where the centre of k-space is, whatever the header says.

Headers give the centre of the full matrix for a partial Fourier scan, round it the wrong way, or leave it at 0. The
data know better: the lines through the centre hold most of the signal, and Siemens' converter writes the step of the
centre to ``idx.user[5]`` of every line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

# How far the strongest line may lie from a centre that the lines name themselves, as a share of all lines and at least
# in lines: the phase of an object moves it a little.
_SHARE, _LINES = 0.03, 2
# The signal near the centre, as a share of the strongest, below which the centre is elsewhere.
_WEAK = 0.5
# The same for a line that the header puts at the centre, against its own signal.
_BESIDE = 0.65
# How far the strongest lines must stand out of all lines before they tell anything: noise has no centre.
_OUTSTANDING = 1.5
# Fewer lines than this tell nothing.
_FEWEST = 8


def centre_of(strengths: Mapping[int, float], told: int, pe: int, named: int | None = None) -> int:
    """The encoding step through the centre of k-space.

    Parameters
    ----------
    strengths
        Square root of the energy of each line that came, by encoding step. In this the few samples around the centre
        stand out as they do not in a sum of magnitudes, to which noise and edges add all along the line.
    told
        What the header says.
    pe
        Lines of the full grid.
    named
        What the lines say themselves.

    Returns
    -------
    ``told``, unless the data contradict it plainly; then ``named``, if the data agree with that, or the step of the
    strongest line.
    """
    steps = np.array(sorted(strengths))
    if len(steps) < _FEWEST:
        return told
    raw = np.array([strengths[step] for step in steps], dtype=np.float64)
    if _smoothed(raw).max() <= _OUTSTANDING * float(np.median(raw)):
        return told
    raw = np.sqrt(np.square(raw) - np.square(raw.min()))  # the weakest line holds little else than noise, as all do
    smooth = _smoothed(raw)
    inner = steps[1:-1]
    reach = max(_LINES, math.ceil(_SHARE * min(pe, int(steps[-1] - steps[0]) + 1)))

    def near(step: int, reach: int) -> float:
        return float(smooth[np.abs(inner - step) <= reach].max(initial=0.0))

    strongest = float(smooth.max())
    agrees = named is not None and near(named, reach) >= _WEAK * strongest
    # The median is as strong one line beside the centre: rounding a header's centre is no contradiction, more is.
    to_the_line = told in strengths and told != named
    if near(told, 0 if to_the_line else reach) >= (_BESIDE if to_the_line else _WEAK) * strongest:
        # Both are possible. The lines know it to the step, where the header may have rounded it.
        closer = agrees and named is not None and strengths.get(named, 0.0) >= strengths.get(told, 0.0)
        return named if closer and named is not None else told
    if agrees and named is not None:
        return named
    place = int(smooth.argmax())
    at_the_edge = place in (0, len(smooth) - 1)  # then the centre may not have come yet
    return told if at_the_edge else _strongest(steps, raw, place + 1)


def _smoothed(raw: np.ndarray) -> np.ndarray:
    """Of three neighbours the middle one, without the ends: a spike makes no centre."""
    middle: np.ndarray = np.median(np.stack([raw[:-2], raw[1:-1], raw[2:]]), axis=0)
    return middle


def _strongest(steps: np.ndarray, raw: np.ndarray, place: int) -> int:
    """The strongest of three neighbouring lines, leaving out one that is much stronger than the others."""
    around = range(place - 1, place + 2)
    middle = float(np.median(raw[list(around)]))
    return int(steps[max((number for number in around if raw[number] <= 3 * middle), key=lambda number: raw[number])])
