"""Coils that are dead, far too loud, or hear nothing but noise, and scans in which all of them hear nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from pass_recon.physics.fourier import power
from pass_recon.types import QualityFinding

# Of ordinary slices, unwhitened with gains that differ by a factor of e² among them, the loudest coil was up to 11
# times as loud as the median and the quietest 0.08 times; peaks stood at least 15 times above the ends of the readouts,
# where those of noise alone stand 2.3 times above them.
_DEAD = 1e-3
_WILD = 30.0
_WILD_WITH_NOISE = 10.0
_LEAST_PEAK = 3.0
_EDGE = 16


def check_coils(samples: Tensor) -> tuple[Tensor, list[QualityFinding]]:
    """Which coils to use.

    Parameters
    ----------
    samples
        ``(coils, ro, lines)`` complex, the acquired lines.

    Returns
    -------
    tuple
        ``(coils,)`` bool and the findings. All coils are used where all of them hear nothing, which is one finding,
        ``empty``.
    """
    squares = power(samples)
    loudness = squares.mean((1, 2)).sqrt()
    alive = loudness > 0
    if not bool(alive.any()):
        return torch.ones_like(alive), [QualityFinding("empty", "the scan holds nothing but zeros")]
    peaks = _peak_over_edge(squares)
    hears = alive & (peaks > _LEAST_PEAK)
    if not bool(hears.any()):
        sentence = f"no coil hears anything: the highest peak is {float(peaks.max()):.1f} times the noise"
        return torch.ones_like(alive), [QualityFinding("empty", sentence)]
    typical = squares.flatten(1).median(1).values.sqrt()
    noise = _edge_power(squares).sqrt()
    dead, wild = ~alive, torch.zeros_like(alive)
    for coil in alive.nonzero().flatten().tolist():
        others = hears.clone()
        others[coil] = False
        if not bool(others.any()):
            continue
        relative = [float(of[coil] / of[others].median().clamp(min=1e-30)) for of in (loudness, typical, noise)]
        dead[coil] = relative[0] < _DEAD
        louder = relative[0] > _WILD and relative[1] > _WILD_WITH_NOISE
        wild[coil] = louder or min(relative) > _WILD_WITH_NOISE
    if bool((wild & hears).sum() == hears.sum()):
        wild[:] = False
    # Beside a wild coil all others are a thousand times too quiet; it is measured against them, not they against it.
    if bool(wild.any()):
        dead &= ~hears
    noisy = alive & ~hears & ~dead & ~wild
    median = float(loudness[alive & ~wild].median())
    findings = [
        QualityFinding(
            word, f"{_named(which)} {what}, left out (RMS {_values(loudness[which] / median)} of the median)"
        )
        for word, which, what in (
            ("dead_coil", dead, "without signal"),
            ("wild_coil", wild, "far louder than the others"),
            ("noise_coil", noisy, "with noise alone"),
        )
        if bool(which.any())
    ]
    return ~(dead | wild | noisy), findings


def _peak_over_edge(squares: Tensor) -> Tensor:
    """``(coils,)``: highest RMS of three samples along the readout over the RMS at its quieter end."""
    three = torch.nn.functional.avg_pool1d(squares.movedim(-1, 1), 3, stride=1)
    floor = _edge_power(squares)
    # The floor is each coil's own: beside one a million times as loud, all others would hear nothing.
    floor = torch.maximum(floor, (1e-12 * squares.amax((1, 2))).clamp(min=1e-30))
    return (three.amax((1, 2)) / floor).sqrt()


def _edge_power(squares: Tensor) -> Tensor:
    """``(coils,)`` mean power at the quieter end of the readout; of an asymmetric echo, where its samples begin."""
    sampled = squares.amax((0, 2)).nonzero().flatten()
    inner = squares[:, int(sampled[0]) : int(sampled[-1]) + 1]
    edge = max(1, inner.shape[1] // _EDGE)
    return torch.minimum(inner[:, :edge].mean((1, 2)), inner[:, -edge:].mean((1, 2)))


def _named(which: Tensor) -> str:
    numbers = which.nonzero().flatten().tolist()
    return f"coil{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _values(values: Tensor) -> str:
    return ", ".join(f"{value:.2g}" for value in values.tolist())
