"""The patient's lines: a network looks at the ACS image and its anomaly map and corrects the population's logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from pass_recon.config import SamplerConfig
from pass_recon.networks import as_channels, build, root_mean_square, single_precision, zero
from pass_recon.physics.fourier import fft1c
from pass_recon.sampling.population import PopulationLogits, resample_lines
from pass_recon.types import InputError

FREQUENCIES = 10


def positional_encoding(positions: Tensor) -> Tensor:
    """``2πp`` and its sine and cosine at 1 to 10 times: positions ``(n,)`` in −1 to 1 to ``(21, n)``.

    Order: the angle, ten sines, ten cosines.
    """
    angle = 2 * math.pi * positions
    multiples = torch.arange(1, FREQUENCIES + 1, device=positions.device)[:, None] * angle
    return torch.cat((angle[None], multiples.sin(), multiples.cos()))


class PublishedNetwork(nn.Module):
    """The published AS network: ACS image and coordinates to line logits. It does not look at the anomaly map.

    Its last layer gives logits for ``lines`` lines, whatever the image. Scans with another number of lines interpolate
    them at the same relative place in k-space, which its authors never tried; image sizes are free.

    Parameters
    ----------
    lines
        Number of lines of the last layer, 320 as published.
    """

    def __init__(self, lines: int = 320) -> None:
        super().__init__()
        self.position = nn.Linear(2 * (1 + 2 * FREQUENCIES), 1)
        self.image = nn.Sequential(*_leaky_block(2, 64, 8), *_leaky_block(64, 64, 8), *_leaky_block(64, 2, 2))
        self.features = nn.Sequential(*_leaky_block(3, 64, 8), *_leaky_block(64, 64, 8), *_leaky_block(64, 128, 8)[:2])
        self.lines = nn.Linear(128, lines)

    def forward(self, acs_image: Tensor, anomaly_map: Tensor, population: Tensor) -> Tensor:
        """ACS image ``(b, ro, pe)`` complex, peak about 1; the other two are not used. Returns ``(b, pe)``."""
        plane = self._position_plane(acs_image).expand(len(acs_image), 1, -1, -1)
        planes = torch.cat((self.image(as_channels(acs_image)), plane), dim=1)
        logits = self.lines(self.features(planes).mean((-2, -1)))
        return resample_lines(logits, acs_image.shape[-1])

    def _position_plane(self, image: Tensor) -> Tensor:
        """Linear map of the 42 features of (row, column), ``(ro, pe)``; it is a sum of one part for each of them."""
        rows, columns = (positional_encoding(torch.linspace(-1, 1, n, device=image.device)) for n in image.shape[-2:])
        # Each feature comes as a pair: of the row, of the column.
        weight = self.position.weight.reshape(-1, 2)
        return (weight[:, 0] @ rows)[:, None] + weight[:, 1] @ columns + self.position.bias


class LineNetwork(nn.Module):
    """Ours: an image part that sees what is where, and a line part that decides for each line by its surroundings.

    Along k-space each line knows its place, the population's logit, and how much energy the ACS image, the image
    inside the anomaly map, and the map itself have there: multiplied by the map, the image has energy far outside the
    ACS, and where it has is what an anomaly of this place and shape needs. Any image size and any number of lines.
    Intensities do not matter. At first it gives zeros: the population's plan.

    Parameters
    ----------
    channels
        Features of the image part.
    hidden
        Features of the line part.
    layers
        Convolutions of the line part.
    limit
        No correction is larger: a patient moves lines that the population nearly chose or nearly left out, and
        training cannot run away to where no line can be moved any more.
    """

    def __init__(self, channels: int = 24, hidden: int = 48, layers: int = 4, limit: float = 1.0) -> None:
        super().__init__()
        if min(channels, hidden, layers) < 1 or limit <= 0:
            raise ValueError("channels, hidden and layers must be at least 1, and limit positive")
        self.limit = limit
        self.image = nn.Sequential(
            nn.Conv2d(5, channels, 5, stride=4, padding=2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(2 * channels, 2 * channels, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
        )
        self.enter = nn.Conv1d(1 + 2 * FREQUENCIES + 4, hidden, 1)
        self.mix = nn.ModuleList(nn.Conv1d(hidden, hidden, 7, padding=3) for _ in range(layers))
        self.steer = nn.ModuleList(nn.Linear(2 * channels, 2 * hidden) for _ in range(layers))
        self.leave = nn.Conv1d(hidden, 1, 1)
        zero(self.leave)

    def forward(self, acs_image: Tensor, anomaly_map: Tensor, population: Tensor) -> Tensor:
        """Corrections ``(b, pe)`` to the population's logits.

        Parameters
        ----------
        acs_image
            ``(b, ro, pe)`` complex, low resolution on the full grid.
        anomaly_map
            ``(b, ro, pe)`` in 0 to 1.
        population
            ``(pe,)`` logits.
        """
        image = acs_image / root_mean_square(acs_image)
        overview = self._overview(image, anomaly_map)
        features = self.enter(self._line_features(image, anomaly_map, population))
        for mix, steer in zip(self.mix, self.steer, strict=True):
            gain, offset = steer(overview)[..., None].chunk(2, dim=1)
            features = features + functional.leaky_relu(mix(features) * (1 + gain) + offset, 0.1)
        return self.limit * torch.tanh(self.leave(features)[:, 0].float() / self.limit)

    def _overview(self, image: Tensor, anomaly_map: Tensor) -> Tensor:
        """What is in the image, ``(b, 2 * channels)``."""
        rows, columns = (torch.linspace(-1, 1, n, device=image.device) for n in image.shape[-2:])
        place = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(len(image), -1, -1, -1)
        planes = torch.cat((as_channels(image), anomaly_map[:, None].to(image.real.dtype), place), dim=1)
        overview: Tensor = self.image(planes).mean((-2, -1))
        return overview

    def _line_features(self, image: Tensor, anomaly_map: Tensor, population: Tensor) -> Tensor:
        """What is known of every line, ``(b, features, pe)``."""
        batch, pe = len(image), image.shape[-1]
        position = (torch.arange(pe, device=image.device) - pe // 2) * (2 / pe)
        spread = (population - population.mean()) / population.std().clamp(min=1e-6)
        shared = torch.cat((positional_encoding(position), spread[None])).expand(batch, -1, -1)
        with single_precision(image):
            guide = anomaly_map.to(image.real.dtype)
            energies = [_line_energy(part) for part in (image, image * guide, guide)]
        return torch.cat((shared, torch.stack(energies, dim=1)), dim=1)


def _line_energy(image: Tensor) -> Tensor:
    """Share of the energy of an image ``(b, ro, pe)`` on each line, ``(b, pe)``, on a logarithmic scale around 0."""
    energy = torch.view_as_real(fft1c(image, -1)).square().sum((-3, -1))
    share = energy / energy.mean(-1, keepdim=True).clamp(min=1e-20)
    # A floor of 60 dB: what lies below is rounding or noise.
    return (share + 1e-6).log() / 7


def _leaky_block(channels_in: int, channels_out: int, groups: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.GroupNorm(groups, channels_out),
        nn.LeakyReLU(0.01),
    ]


PERSONAL_NETWORKS: dict[str, Callable[..., nn.Module]] = {"published": PublishedNetwork, "line_network": LineNetwork}


class LineSampler(nn.Module):
    """Line logits of a patient: the population's plus the correction of the AS network.

    With ``config.centred`` the correction is counted from the mean of patients, which is then the population's plan:
    what all patients need alike is no merit of a personal plan, and a fallback is the better for it.

    ``sampler.population(pe)`` is what stage 1 trains. ``sampler(acs_image, anomaly_map)`` is what stage 2 trains: its
    gradient reaches the AS network and neither the population's logits nor the map.

    Parameters
    ----------
    config
        Number of lines and the AS network, by its name in ``PERSONAL_NETWORKS``.

    Raises
    ------
    InputError
        If the configuration names no known network.
    """

    def __init__(self, config: SamplerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SamplerConfig()
        self.common: Tensor
        self.population = PopulationLogits(config.lines, config.acs_fraction)
        self.personal = build("AS network", PERSONAL_NETWORKS, config.personal) if config.personal else None
        if config.centred:
            self.register_buffer("common", torch.zeros(config.lines))

    def forward(self, acs_image: Tensor, anomaly_map: Tensor | None = None) -> Tensor:
        """Logits of every line; ``lines.select_lines`` makes a plan of them.

        Parameters
        ----------
        acs_image
            ``(b, ro, pe)`` complex: the coil-combined image of the ACS alone, zero-filled to the full grid.
        anomaly_map
            ``(b, ro, pe)`` in 0 to 1; None stands for zeros. The published network ignores it.

        Returns
        -------
        Tensor
            ``(b, pe)`` float32.

        Raises
        ------
        InputError
            If shapes do not go together.
        """
        if acs_image.ndim != 3 or not acs_image.is_complex():
            raise InputError(
                f"the ACS image must be complex (b, ro, pe), got {acs_image.dtype} {tuple(acs_image.shape)}"
            )
        if anomaly_map is None:
            anomaly_map = torch.zeros_like(acs_image.real)
        if anomaly_map.shape != acs_image.shape:
            raise InputError(
                f"the anomaly map has shape {tuple(anomaly_map.shape)}, the ACS image {tuple(acs_image.shape)}"
            )
        pe = acs_image.shape[-1]
        if self.personal is None:
            return self.population(pe).detach().expand(len(acs_image), -1)
        base = self._base(pe)
        correction: Tensor = self.personal(acs_image, anomaly_map.detach(), base)
        return correction.float() + base

    @torch.no_grad()
    def centre(self, logits: Tensor) -> None:
        """Let the population be the mean of patients, whose own logits stay what they are.

        Parameters
        ----------
        logits
            ``(patients, lines)``, what ``sampler(…)`` gave for scans with as many lines as were learned.
        """
        base = self._base(self.config.lines)
        self.common.copy_(logits.mean(0) - base)
        self.population.logits.copy_(base + self.common)

    def _base(self, pe: int) -> Tensor:
        """What the AS network corrects ``(pe,)``: the population before it took over what is common to all patients."""
        if not self.config.centred:
            return self.population(pe).detach()
        return resample_lines((self.population.logits - self.common).detach(), pe, self.population.acs)
