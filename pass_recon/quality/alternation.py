"""Lines of odd number that were read in another way than the even ones: backwards, or shifted, as in echo-planar scans.

What is wrong with them shows as a ghost half a field of view away (Bruder et al., MRM 23:311, 1992). Even and odd lines
go together among themselves; the change that lets each be predicted from the other is looked for, and made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pass_recon.physics.fourier import fft1c, ifft1c
from pass_recon.quality.neighbours import Neighbours, unlike

# Steps of the search, in samples or pixels, and how far it goes.
_COARSE, _FARTHEST = 0.5, 6.0
_FINE = (0.2, 0.06, 0.02)
_LINES = 48
# A change must make what is unexplained this much less.
_BETTER = 0.3


@dataclass(frozen=True)
class Alternation:
    """How lines of odd number differ from the others.

    Attributes
    ----------
    sentence
        For people.
    undo
        Odd lines ``(coils, ro, lines)`` as they should have been.
    """

    sentence: str
    undo: Callable[[Tensor], Tensor]


def find_alternation(kspace: Tensor, line_mask: Tensor) -> Alternation | None:
    """The change to odd lines of ``(coils, ro, pe)`` after which they go with the others; None if there is none.

    Then the weights that predict odd lines from even ones are those that predict even lines from odd ones.
    """
    centre = len(line_mask) // 2
    half = min(_LINES // 2, centre) // 2 * 2  # an even number of lines, so that odd ones stay odd
    window = slice(centre - half, centre + half)
    central = Neighbours(kspace, line_mask).virtual(kspace)[..., window]
    mask = line_mask[window]
    if centre % 2:  # the lines of odd number in the window are those of even number in the scan
        central, mask = central.roll(-1, -1), mask.roll(-1)
        mask = mask & (torch.arange(len(mask), device=mask.device) < len(mask) - 1)
    odd = mask & (torch.arange(len(mask), device=mask.device) % 2 == 1)
    _, shift, name = min((*_best_shift(central, mask, odd, change), name) for name, change in _CHANGES.items())
    change = _CHANGES[name]
    phase = _phase(_changed(central, odd, lambda lines: change(lines, shift)), mask)
    turn = torch.polar(torch.ones(()), phase.cpu()).to(kspace.device)
    if _misfit(_changed(central, odd, lambda lines: change(lines, shift) * turn), mask) > _BETTER * _misfit(
        central, mask
    ):
        return None
    sentence = (
        f"lines of odd number were {name} by {-shift:.2f}, their phase is off by {-float(phase) * 57.29578:.0f}°, as "
        "of echoes read to and fro"
    )
    return Alternation(sentence, lambda lines: change(lines, shift) * turn)


def _shifted_readout(lines: Tensor, samples: float) -> Tensor:
    """K-space ``(coils, ro, lines)`` moved along readout by so many samples."""
    ro = lines.shape[1]
    ramp = torch.exp(2j * torch.pi * samples / ro * (torch.arange(ro, device=lines.device) - ro // 2))
    return fft1c(ifft1c(lines, 1) * ramp[:, None], 1)


def _shifted_image(lines: Tensor, pixels: float) -> Tensor:
    """The image of ``(coils, ro, lines)`` moved along readout by so many pixels."""
    ro = lines.shape[1]
    return lines * torch.exp(-2j * torch.pi * pixels / ro * (torch.arange(ro, device=lines.device) - ro // 2))[:, None]


def _mirrored(lines: Tensor, samples: float) -> Tensor:
    return _shifted_readout(lines.flip(1), samples)


_CHANGES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "shifted (in samples)": _shifted_readout,
    "moved along readout (in pixels)": _shifted_image,
    "read backwards and shifted (in samples)": _mirrored,
}


def _best_shift(
    kspace: Tensor, line_mask: Tensor, odd: Tensor, change: Callable[[Tensor, float], Tensor]
) -> tuple[float, float]:
    def misfit(shift: float) -> float:
        weights = _weights(_changed(kspace, odd, lambda lines: change(lines, shift)), line_mask)
        return 1.0 if weights is None else unlike(*weights)

    best = min((misfit(shift), shift) for shift in _steps(0.0, _FARTHEST, _COARSE))
    for step in _FINE:
        best = min(best, *((misfit(shift), shift) for shift in _steps(best[1], 2 * step, step)))
    return best


def _steps(middle: float, reach: float, step: float) -> Iterator[float]:
    count = round(reach / step)
    return (middle + number * step for number in range(-count, count + 1))


def _changed(kspace: Tensor, lines: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    changed = kspace.clone()
    changed[..., lines] = change(kspace[..., lines])
    return changed


def _misfit(kspace: Tensor, line_mask: Tensor) -> float:
    unexplained = Neighbours(kspace, line_mask, rounds=1).first.unexplained
    return float(unexplained.median()) if len(unexplained) else 0.0


def _weights(kspace: Tensor, line_mask: Tensor) -> tuple[Tensor, Tensor] | None:
    return Neighbours(kspace, line_mask, rounds=1).weights_of_parity()


def _phase(kspace: Tensor, line_mask: Tensor) -> Tensor:
    """Phase to turn odd lines by, between −90° and 90°: 180° would be the same image half a field of view away."""
    weights = _weights(kspace, line_mask)
    return torch.zeros(()) if weights is None else -(weights[1] * weights[0].conj()).sum().angle() / 2
