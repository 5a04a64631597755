"""Scans of all kinds drawn afresh for every batch: lines, coils, phase, noise, and maps as the scanner would have them.

A reconstructor that has seen one scan knows one scan. Here every sample gets its own lines (a bundle's own at any
budget, evenly spaced with an ACS as vendors scan, random, variable density, partial Fourier), its own array and noise,
and most get coil maps that were estimated from their noisy ACS.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pass_recon.phantom.coils import loop_array, loop_sensitivities, normalise_maps
from pass_recon.phantom.draws import Draws, mixed_seed
from pass_recon.phantom.shapes import SliceGrid
from pass_recon.physics.coils import compress_coils
from pass_recon.physics.fourier import fft1c, fft2c, ifft1c
from pass_recon.preparation import MAXIMUM_CALIBRATION_WIDTH, MINIMUM_CALIBRATION_WIDTH, acs_maps
from pass_recon.reconstruction.classical import zero_filled
from pass_recon.reconstruction.condition import scan_features
from pass_recon.sampling.budget import acs_count, acs_fraction, line_budget
from pass_recon.sampling.lines import acs_mask, select_lines, variable_density_lines
from pass_recon.sampling.population import PopulationLogits
from training.data.painted_blobs import Blobs, draw_blobs

_FIELD = 40  # points an axis at which simulated sensitivities are kept: they are smooth
_EXTENT_MM = 260.0


@dataclass(frozen=True)
class MixtureSettings:
    """How often what is drawn.

    Attributes
    ----------
    noise
        Range of σ of a coil image's pixel, as a fraction of the peak, evenly on a logarithmic scale.
    estimated
        Share of samples whose maps come from their ACS.
    twins
        Share of the slices that are scanned a second time with blobs.
    blobs
        In each of them.
    own, equispaced, scattered, variable, partial
        How often lines are: a bundle's own; evenly spaced, R from 2 to 8, with an ACS; random; of variable density;
        evenly spaced or of variable density with 6/8 or 7/8 of k-space.
    coils
        Numbers of coils, each as likely as it is often.
    channels
        Numbers of channels that batches come in: fewer coils get silent ones, more are compressed to virtual ones.
    rows
        Readout rows of a crop, which is exact since the readout is fully sampled.
    """

    noise: tuple[float, float] = (0.002, 0.03)
    estimated: float = 0.65
    twins: float = 0.5
    blobs: int = 8
    own: float = 0.46
    equispaced: float = 0.31
    scattered: float = 0.07
    variable: float = 0.08
    partial: float = 0.08
    coils: tuple[int, ...] = (1, 2, 4, 4, 5, 6, 6, 8, 8, 8, 8, 10, 10, 12, 12, 12, 16, 16, 16)
    channels: tuple[int, ...] = (6, 10)
    rows: int = 128


class ScanBatch(NamedTuple):
    """Samples as a reconstructor gets them, and what it should give.

    The last ``len(blobs.change)`` samples are the first ones again with blobs painted in.

    Attributes
    ----------
    kspace, coil_maps
        ``(b, coils, ro, pe)`` complex64.
    lines
        ``(b, pe)`` bool.
    target
        ``(b, ro, pe)`` complex64: the magnitude of the truth, with the phase that the maps give it.
    lesions
        ``(b, ro, pe)`` bool.
    features
        ``(b, 6)`` `scan_features` of the whole scan.
    blobs
        None where nothing was painted.
    """

    kspace: Tensor
    coil_maps: Tensor
    lines: Tensor
    target: Tensor
    lesions: Tensor
    features: Tensor
    blobs: Blobs | None

    def of_samples(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What each sample has one of."""
        return self.kspace, self.coil_maps, self.lines, self.target, self.lesions, self.features

    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order."""
        return [*self.of_samples(), *(self.blobs or ())]

    def parts(self, count: int) -> list[ScanBatch]:
        """So many batches of equal size, in each of which the last samples are twins of the first."""
        twins = 0 if self.blobs is None else len(self.blobs.change)
        alone = len(self.target) - 2 * twins
        index = torch.arange(len(self.target), device=self.target.device)
        groups = [
            torch.cat(parts)
            for parts in zip(
                index[:twins].tensor_split(count),
                index[twins : twins + alone].tensor_split(count),
                index[twins + alone :].tensor_split(count),
                strict=True,
            )
        ]
        painted = (
            [None] * count
            if self.blobs is None
            else [Blobs(*each) for each in zip(*(x.tensor_split(count) for x in self.blobs), strict=True)]
        )
        return [
            ScanBatch._make((*(tensor[group] for tensor in self.of_samples()), blobs))
            for group, blobs in zip(groups, painted, strict=True)
        ]


class LineMixture:
    """Draws line masks.

    Parameters
    ----------
    populations
        Logits ``PopulationLogits`` of each kind by acceleration; of budgets between, the nearest counts.
    settings
        How often what is drawn.
    """

    def __init__(self, populations: Mapping[str, Mapping[float, PopulationLogits]], settings: MixtureSettings) -> None:
        self.populations, self.settings = populations, settings
        self._known: dict[tuple[str, float, int], Tensor] = {}

    def draw_acceleration(self, chance: random.Random) -> float:
        """R of a batch's own lines: half of the time one that bundles are named by, else any from 2 to 10."""
        value = chance.random()
        if value < 0.25:
            return 4.0
        if value < 0.5:
            return 8.0
        return math.exp(chance.uniform(math.log(2.0), math.log(10.0)))

    def draw(self, kind: str, pe: int, acceleration: float, chance: random.Random) -> Tensor:
        """One mask ``(pe,)``, with an ACS at least as wide as `calibration` of this acceleration."""
        settings = self.settings
        names = ("own", "equispaced", "scattered", "variable", "partial")
        name = chance.choices(names, [getattr(settings, each) for each in names])[0]
        if name == "own":
            return self.own(kind, pe, acceleration, chance)
        if name == "equispaced":
            return equispaced(
                pe, chance.choice((2, 2, 3, 3, 4, 4, 5, 6, 6, 8)), self._acs(pe, acceleration, chance), chance
            )
        if name == "partial":
            acs = self._acs(pe, acceleration, chance)
            if chance.random() < 0.6:
                lines = equispaced(pe, chance.choice((1, 2, 2, 3, 4)), acs, chance)
            else:
                lines = self._variable(pe, acs, chance)
            return partial_fourier(lines, chance.choice((6, 7)), flip=chance.random() < 0.5) | acs
        acs = self._acs(pe, acceleration, chance)
        return self._scattered(pe, acs, chance) if name == "scattered" else self._variable(pe, acs, chance)

    def own(self, kind: str, pe: int, acceleration: float, chance: random.Random | None = None) -> Tensor:
        """The plan of a bundle's population at any acceleration; with ``chance``, often with a few other lines."""
        logits = self.logits(kind, pe, acceleration)
        if chance is not None and chance.random() < 0.4:
            generator = torch.Generator().manual_seed(chance.getrandbits(62))
            logits = logits + chance.uniform(0.05, 0.5) * torch.randn(pe, generator=generator)
        acs = acs_mask(pe, acs_count(pe, acs_fraction(acceleration)))
        return select_lines(logits, acs, max(line_budget(pe, acceleration), int(acs.sum())))

    def logits(self, kind: str, pe: int, acceleration: float) -> Tensor:
        """``(pe,)`` on the CPU, of the acceleration that was learned nearest to this one."""
        learned = self.populations[kind]
        nearest = min(learned, key=lambda known: abs(math.log(known / acceleration)))
        key = (kind, nearest, pe)
        if key not in self._known:
            self._known[key] = learned[nearest](pe).detach().cpu()
        return self._known[key]

    def _acs(self, pe: int, acceleration: float, chance: random.Random) -> Tensor:
        width = calibration(pe, acceleration)
        if width >= MAXIMUM_CALIBRATION_WIDTH:
            width = chance.randint(MAXIMUM_CALIBRATION_WIDTH, 32)
        return acs_mask(pe, min(width, pe))

    def _scattered(self, pe: int, acs: Tensor, chance: random.Random) -> Tensor:
        generator = torch.Generator().manual_seed(chance.getrandbits(62))
        budget = max(round(pe / chance.uniform(2.0, 8.0)), int(acs.sum()))
        return select_lines(torch.rand(pe, generator=generator), acs, budget)

    def _variable(self, pe: int, acs: Tensor, chance: random.Random) -> Tensor:
        acceleration = chance.uniform(2.0, min(10.0, pe / (int(acs.sum()) + 1)))
        if chance.random() < 0.4:
            return variable_density_lines(pe, acceleration, acs)
        radius = (torch.arange(pe) - pe // 2).abs() / (pe / 2)
        generator = torch.Generator().manual_seed(chance.getrandbits(62))
        density = (1 - radius).clamp(min=0) ** chance.uniform(1.0, 4.0) + 0.05
        gumbel = -torch.log(-torch.log(torch.rand(pe, generator=generator).clamp(1e-9, 1 - 1e-9)))
        return select_lines(density.log() + gumbel, acs, line_budget(pe, acceleration))


def calibration(pe: int, acceleration: float) -> int:
    """Lines of the ACS from which maps are made, at this acceleration."""
    return max(MINIMUM_CALIBRATION_WIDTH, min(MAXIMUM_CALIBRATION_WIDTH, acs_count(pe, acs_fraction(acceleration))))


def equispaced(pe: int, every: int, acs: Tensor, chance: random.Random) -> Tensor:
    """``(pe,)``: every so-manyth line from a random first one, and the ACS, as vendors scan."""
    return (torch.arange(pe) % every == chance.randrange(every)) | acs


def partial_fourier(lines: Tensor, eighths: int, *, flip: bool) -> Tensor:
    """``(pe,)``: what is left of the lines when only so many eighths of k-space are scanned, from either end."""
    pe = len(lines)
    place = torch.arange(pe)
    kept = place < round(pe * eighths / 8)
    return lines & (kept.flip(0) if flip else kept)


class CoilMixture:
    """Sensitivities of many simulated arrays, computed once; each use gives them another place and zoom.

    Parameters
    ----------
    counts
        Numbers of coils that are wanted.
    arrays
        Arrays of each.
    seed
        Of all.
    device
        Where they are kept.
    """

    def __init__(self, counts: Sequence[int], arrays: int, seed: int, device: torch.device) -> None:
        axis = (torch.arange(_FIELD, device=device) - (_FIELD - 1) / 2) * (1.3 * _EXTENT_MM / (_FIELD - 1))
        self._fields = {
            count: self._some(count, arrays, mixed_seed(seed, "coils", count), axis) for count in set(counts)
        }

    @staticmethod
    def _some(count: int, arrays: int, seed: int, axis: Tensor) -> Tensor:
        seeds = [mixed_seed(seed, number) for number in range(arrays)]
        draws = Draws(seeds, "arrays", axis.device)
        patient = torch.arange(arrays, device=axis.device)
        levels = draws.uniform(-45.0, 45.0)
        grid = SliceGrid(axis, axis, levels, patient, float(axis[1] - axis[0]), 0.0)
        near = Draws(seeds, "radii", axis.device)
        wires = loop_array(Draws(seeds, "coils", axis.device), count, (1.0, 1.0), 70.0)
        # loop_array takes one size for all patients: loops for a unit circle are stretched to each one's own ellipse.
        radii = torch.stack((near.uniform(85.0, 140.0), near.uniform(80.0, 130.0)), -1)
        stretch = torch.cat((radii, radii.mean(-1, keepdim=True)), -1)[:, None, None, :]
        flat = torch.tensor([1.0, 1.0, 0.0], device=axis.device)
        level = wires[..., 2:].mean(-2, keepdim=True)
        upright = wires - level * (1 - flat)
        wires = upright * stretch + level * (1 - flat)
        cables = torch.polar(torch.ones(arrays, count, device=axis.device), draws.uniform(0.0, 2 * math.pi, count))
        return torch.view_as_real(loop_sensitivities(wires, grid, cables)).movedim(-1, 2).flatten(1, 2)

    def draw(self, batch: int, coils: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        """``(batch, coils, ro, pe)`` complex64 with Σ|S|² = 1 everywhere."""
        fields = self._fields[coils]
        device = fields.device
        which = torch.randint(len(fields), (batch,), generator=generator, device=device)
        zoom = 0.55 + 0.4 * torch.rand(batch, generator=generator, device=device)
        shift = (1 - zoom)[:, None] * (torch.rand(batch, 2, generator=generator, device=device) - 0.5)
        flip = 1 - 2 * torch.randint(2, (batch, 2), generator=generator, device=device).float()
        ratio = min(shape) / torch.tensor(shape[::-1], device=device)
        theta = torch.zeros(batch, 2, 3, device=device)
        theta[:, 0, 0], theta[:, 1, 1] = (
            zoom * flip[:, 0] / ratio[0] * ratio.min(),
            zoom * flip[:, 1] / ratio[1] * ratio.min(),
        )
        theta[:, :, 2] = shift
        points = functional.affine_grid(theta, [batch, 1, *shape], align_corners=True)
        sampled = functional.grid_sample(
            fields[which], points, mode="bicubic", padding_mode="border", align_corners=True
        )
        parts = sampled.unflatten(1, (coils, 2)).movedim(2, -1).contiguous()
        return normalise_maps(torch.view_as_complex(parts))[0]


class ScanMixture:
    """Magnitudes to scans.

    Parameters
    ----------
    lines, coils
        Where lines and maps come from.
    settings
        How often what is drawn.
    device
        Where all is computed.
    """

    def __init__(self, lines: LineMixture, coils: CoilMixture, settings: MixtureSettings, device: torch.device) -> None:
        self.lines, self.coils, self.settings, self.device = lines, coils, settings, device

    def scan(
        self,
        magnitude: Tensor,
        lesions: Tensor,
        kinds: Sequence[str],
        coils: int,
        chance: random.Random,
        generator: torch.Generator,
    ) -> ScanBatch:
        """Scan each slice once, and the first of them again with blobs in them.

        Parameters
        ----------
        magnitude, lesions
            ``(slices, ro, pe)`` of peak about 1, and bool.
        kinds
            Of each slice, for its own lines.
        coils
            Of all.
        chance, generator
            Randomness, the second on the device.
        """
        settings = self.settings
        slices, ro, pe = magnitude.shape
        acceleration = self.lines.draw_acceleration(chance)
        width = calibration(pe, acceleration)
        lines = torch.stack([self.lines.draw(kind, pe, acceleration, chance) for kind in kinds]).to(self.device)
        twins = round(settings.twins * slices)
        blobs = draw_blobs(magnitude[:twins], settings.blobs, generator) if twins else None
        phase = torch.polar(torch.ones_like(magnitude), random_phase(slices, (ro, pe), generator))
        image = magnitude * phase
        maps = self.coils.draw(slices, coils, (ro, pe), generator)
        low, high = (math.log(value) for value in settings.noise)
        sigma = torch.exp(low + (high - low) * torch.rand(slices, generator=generator, device=self.device))
        white = torch.randn(slices, coils, ro, pe, dtype=torch.complex64, generator=generator, device=self.device)
        noise = sigma[:, None, None, None] * white
        again = magnitude[:0] if blobs is None else magnitude[:twins] + blobs.change
        image = torch.cat((image, again * phase[:twins]))
        maps, noise = (torch.cat((x, x[:twins])) for x in (maps, noise))
        lines, lesions = (torch.cat((x, x[:twins])) for x in (lines, lesions))
        kspace = fft2c(maps * image[:, None]) + noise
        kspace, maps = self._on_channels(kspace, maps, slices, twins)
        known = maps if coils > 1 else maps.abs().to(maps.dtype)
        estimated = max(twins, round(settings.estimated * slices)) if coils > 1 else 0
        if estimated:
            found = acs_maps(kspace[:estimated] * acs_mask(pe, width).to(self.device), width)
            known = torch.cat((found, known[estimated:slices], found[:twins]))
        # Maps leave the phase of the image open: the right one is what they make of the noiseless coil images.
        seen = (known.conj() * maps).sum(1) * image
        target = torch.polar(image.abs(), seen.angle())
        acquired = kspace * lines[:, None, None]
        features = scan_features(acquired[:, :coils], lines, zero_filled(acquired, known, lines))
        first = chance.randrange(ro - settings.rows + 1) if ro > settings.rows else 0
        rows = slice(first, first + settings.rows)
        crop = fft1c(ifft1c(kspace, -2)[..., rows, :], -2) if ro > settings.rows else kspace
        painted = None if blobs is None else Blobs(blobs.change[:, rows], blobs.number[:, rows], blobs.radius)
        return ScanBatch(crop, known[..., rows, :], lines, target[:, rows], lesions[:, rows], features, painted)

    def _on_channels(self, kspace: Tensor, maps: Tensor, slices: int, twins: int) -> tuple[Tensor, Tensor]:
        """K-space and maps of the nearest number of channels; twins are compressed as their slices are."""
        coils = kspace.shape[1]
        channels = next(
            (count for count in sorted(self.settings.channels) if count >= coils), max(self.settings.channels)
        )
        if coils > channels:
            _, matrix = compress_coils(kspace[:slices], channels)
            matrix = torch.cat((matrix, matrix[:twins]))
            return tuple((matrix @ x.flatten(-2)).unflatten(-1, x.shape[-2:]) for x in (kspace, maps))
        silent = (0, 0, 0, 0, 0, channels - coils)
        return functional.pad(kspace, silent), functional.pad(maps, silent)


def random_phase(batch: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """``(batch, ro, pe)`` radians: smooth, from nearly none to several turns."""
    device = generator.device
    fields = []
    for points in (3, 8):
        coarse = torch.randn(batch, 1, points, points, generator=generator, device=device)
        fields.append(functional.interpolate(coarse, shape, mode="bicubic", align_corners=True)[:, 0])
    first, second = torch.rand(2, batch, 1, 1, generator=generator, device=device)
    return 2.0 * first * fields[0] + 0.5 * second**2 * fields[1]
