"""Single samples that do not go with their neighbours along the readout: found, and replaced by what these predict."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

# A sample is predicted from the two before and the two after it, of all coils: everywhere in k-space the same weights
# (the readout is sampled densely, and an object with coils around it does not fill the field of view at random).
_TAPS = (-2, -1, 1, 2)
_FIT_LINES = 32
_FIT_HALF_WIDTH = 24
_RIDGE = 1e-4
# Only samples above this many times the mean of their neighbours are looked at, and all close to the centre.
_SUSPICIOUS = 3.0
_NEAR = 8
_WINDOW = 6
# Of some hundred ordinary slices, 1 to 32 coils, the largest residual was 13 times the median of those around it.
_OUTLIER = 18.0
_ROUNDS = 12
_COILS_AT_THE_CENTRE = 4


def find_spikes(samples: Tensor, lines: Tensor, centre: int) -> tuple[Tensor, Tensor]:
    """Spikes among the acquired samples.

    Parameters
    ----------
    samples
        ``(coils, ro, lines)`` complex, the acquired lines.
    lines
        ``(lines,)`` their indices.
    centre
        Index of the line in the centre of k-space.

    Returns
    -------
    tuple
        ``(coils, ro, lines)`` bool, where a spike is, and the samples with what their neighbours predict in its place
        (the very same tensor if there is none).
    """
    spikes = torch.zeros(samples.shape, dtype=torch.bool, device=samples.device)
    sampled = (samples != 0).any(0).any(1).nonzero().flatten()
    if 0 < len(sampled) < samples.shape[1] and int(sampled[-1] - sampled[0]) + 1 == len(sampled):
        inner = slice(int(sampled[0]), int(sampled[-1]) + 1)  # the zeros around a short readout are no neighbours
        spikes[:, inner], mended = find_spikes(samples[:, inner], lines, centre)
        if not bool(spikes.any()):
            return spikes, samples
        clean = samples.clone()
        clean[:, inner] = mended
        return spikes, clean
    candidates = _candidates(samples, lines, centre)
    if not len(candidates) or samples.shape[1] < 8 * _WINDOW:
        return spikes, samples
    clean = samples
    for _ in range(_ROUNDS):
        weights = _fit(clean, spikes, lines, centre)
        fresh = candidates[~spikes[tuple(candidates.T)]]
        found = fresh[_outliers(clean, spikes, weights, fresh)]
        if not len(found):
            break
        spikes[tuple(found.T)] = True
        # Neighbours of a spike are predicted from it: with the largest gone they may turn out to be sound.
        clean = torch.where(spikes, 0, samples)
    if not bool(spikes.any()):
        return spikes, samples
    places = spikes.nonzero()
    weights = _fit(clean, spikes, lines, centre)
    clean[tuple(places.T)] = _predictions(clean, weights, places)
    return spikes, clean


def _candidates(samples: Tensor, lines: Tensor, centre: int) -> Tensor:
    """``(candidates, 3)`` coil, readout and place among the lines."""
    magnitude = samples.abs()
    along = magnitude.movedim(1, -1)
    width = 2 * _WINDOW + 1
    around = avg_pool1d(along, width, stride=1, padding=_WINDOW, count_include_pad=False).movedim(-1, 1)
    others = (width * around - magnitude) / (width - 1)
    suspicious = magnitude > _SUSPICIOUS * others
    ro = samples.shape[1]
    near = ((torch.arange(ro, device=samples.device) - ro // 2).abs() <= _NEAR)[:, None] & (
        (lines - centre).abs() <= _NEAR
    )
    # An object that fills the field of view has peaks there that a few coils do not tell from spikes.
    suspicious = suspicious & ~near if samples.shape[0] < _COILS_AT_THE_CENTRE else suspicious | near
    return suspicious.nonzero()


def _neighbours(samples: Tensor, places: Tensor) -> Tensor:
    """``(places, taps · coils)`` of all coils around each place; readouts go round."""
    ro = samples.shape[1]
    columns = [samples[:, (places[:, 1] + tap) % ro, places[:, 2]].T for tap in _TAPS]
    return torch.cat(columns, 1)


def _fit(samples: Tensor, spikes: Tensor, lines: Tensor, centre: int) -> Tensor:
    """``(taps · coils, coils)`` weights by least squares over the centre, without what a spike takes part in."""
    ro = samples.shape[1]
    half = min(_FIT_HALF_WIDTH, ro // 2 - max(_TAPS))
    nearest = (lines - centre).abs().argsort()[:_FIT_LINES]
    rows = torch.arange(ro // 2 - half, ro // 2 + half, device=samples.device)
    part, bad = samples[..., nearest], spikes[..., nearest].any(0)
    sources = torch.cat([part[:, rows + tap] for tap in _TAPS]).flatten(1)
    usable = ~torch.stack([bad[rows + tap] for tap in (0, *_TAPS)]).any(0).flatten()
    sources, targets = sources[:, usable], part[:, rows].flatten(1)[:, usable]
    gram = sources @ sources.mH
    ridge = _RIDGE * gram.diagonal().real.mean().clamp(min=1e-30)
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram), device=gram.device), sources @ targets.mH).conj()


def _predictions(samples: Tensor, weights: Tensor, places: Tensor) -> Tensor:
    """``(places,)`` what the neighbours say of the sample of one coil at each place."""
    return (_neighbours(samples, places) * weights.T[places[:, 0]]).sum(1)


def _outliers(samples: Tensor, spikes: Tensor, weights: Tensor, places: Tensor) -> Tensor:
    """``(places,)`` bool: residuals that tower over those around, the tallest of each neighbourhood only."""
    ro = samples.shape[1]
    # Residuals are nowhere below the noise: most candidates need no look at what is around them.
    edge = max(1, ro // 16)
    noise = torch.cat((samples[:, :edge], samples[:, -edge:]), 1).abs().flatten(1).median(1).values
    alone = (samples[tuple(places.T)] - _predictions(samples, weights, places)).abs()
    worth = alone > _OUTLIER / 2 * noise[places[:, 0]]
    outliers = torch.zeros_like(worth)
    places = places[worth]
    if not len(places):
        return outliers
    steps = torch.arange(-_WINDOW, _WINDOW + 1, device=samples.device)
    around = places[:, None].repeat(1, len(steps), 1)
    around[..., 1] = (around[..., 1] + steps) % ro
    flat = around.flatten(0, 1)
    values = samples[tuple(flat.T)]
    residual = (values - _predictions(samples, weights, flat)).abs().unflatten(0, (-1, len(steps)))
    residual = residual.masked_fill(spikes[tuple(flat.T)].unflatten(0, residual.shape), 0.0)
    own = residual[:, _WINDOW]
    tallest = own >= residual[:, _WINDOW - 2 : _WINDOW + 3].amax(1)
    floor = 1e-7 * float(values.abs().max())
    outliers[worth] = tallest & (own > _OUTLIER * residual.median(1).values.clamp(min=floor))
    return outliers
