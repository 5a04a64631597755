"""The patient's lines: a network looks at the ACS image and its anomaly map and corrects the population's logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from pass_recon.config import SamplerConfig
from pass_recon.networks import as_channels, build, root_mean_square, single_precision
from pass_recon.physics.fourier import fft1c
from pass_recon.sampling.population import PopulationLogits, resample_lines
from pass_recon.types import InputError

FREQUENCIES = 10
BANDS = 4


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
    """Ours: a line's correction is linear in a few quantities of the patient, with coefficients smooth along k-space.

    Along the readout, which is measured in full, it sees how far out this patient's signal reaches before noise takes
    over: noisy scans are served by other lines than quiet ones. Multiplied by the anomaly map the image has energy far
    outside the ACS, and where it has is what an anomaly of this place and shape needs: that and the share of the
    anomaly count in each line. Without an anomaly, neither does.

    It is this small for a reason: what the ACS tells about the worth of lines is little, and deep networks spent their
    freedom on what all patients have in common. Any image size and any number of lines. Intensities do not matter. At
    first it gives zeros: the population's plan.

    Parameters
    ----------
    knots
        Places from one end of k-space to the other between which coefficients are interpolated.
    limit
        No correction is larger: a patient moves lines that the population nearly chose or nearly left out, and
        training cannot run away to where no line can be moved any more.
    """

    def __init__(self, knots: int = 13, limit: float = 1.0) -> None:
        super().__init__()
        if knots < 2 or limit <= 0:
            raise ValueError("knots must be at least 2, and limit positive")
        self.limit = limit
        self.coefficients = nn.Parameter(torch.zeros(BANDS - 1 + 2, knots))

    def forward(self, acs_image: Tensor, anomaly_map: Tensor, population: Tensor) -> Tensor:
        """Corrections ``(b, pe)`` to the population's logits.

        Parameters
        ----------
        acs_image
            ``(b, ro, pe)`` complex, low resolution on the full grid.
        anomaly_map
            ``(b, ro, pe)`` in 0 to 1.
        population
            Not used: what all patients need is in it already.
        """
        with single_precision(acs_image):
            image = acs_image / root_mean_square(acs_image)
            inside = image * anomaly_map.to(image.real.dtype)
            share = root_mean_square(inside)[..., 0]
            everywhere = torch.cat((_readout_spectrum(image), share), dim=1)
            along = share * _line_energy(inside)
            quantities = torch.cat((everywhere[..., None].expand(-1, -1, image.shape[-1]), along[:, None]), dim=1)
            coefficients = functional.interpolate(
                self.coefficients[None], image.shape[-1], mode="linear", align_corners=True
            )
            asked = (quantities * coefficients).sum(1)
            return self.limit * torch.tanh(asked / self.limit)


def _line_energy(image: Tensor) -> Tensor:
    """Share of the energy of an image ``(b, ro, pe)`` on each line, ``(b, pe)``: its logarithm, with a mean of 0."""
    level = _logarithm(_energy_share(image, -1))
    return level - level.mean(-1, keepdim=True)


def _readout_spectrum(image: Tensor) -> Tensor:
    """Energy of an image ``(b, ro, pe)`` at readout frequencies, ``(b, BANDS - 1)``, on a logarithmic scale around 0.

    In bands of equal width from the second to the outermost; nearly all energy is in the first.
    """
    share = _energy_share(image, -2)
    middle = image.shape[-2] // 2
    halves = share[:, middle:], share[:, : middle + 1].flip(-1)
    bands = torch.stack([functional.adaptive_avg_pool1d(half, BANDS) for half in halves]).mean(0)
    # The decay of a typical image, so that what is left tells patients and noise apart.
    typical = 1.6 + 1.8 * torch.arange(1, BANDS, device=image.device)
    return _logarithm(bands[:, 1:]) + typical


def _energy_share(image: Tensor, axis: int) -> Tensor:
    """Energy of an image ``(b, ro, pe)`` at each frequency along axis −1 or −2, as a multiple of their mean."""
    other = -2 if axis == -1 else -1
    energy = torch.view_as_real(fft1c(image, axis)).square().sum(-1).sum(other)
    return energy / energy.mean(-1, keepdim=True).clamp(min=1e-20)


def _logarithm(share: Tensor) -> Tensor:
    """With a floor of 60 dB: what lies below is rounding or noise."""
    return (share + 1e-6).log()


def _leaky_block(channels_in: int, channels_out: int, groups: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.GroupNorm(groups, channels_out),
        nn.LeakyReLU(0.01),
    ]


PERSONAL_NETWORKS: dict[str, Callable[..., nn.Module]] = {"published": PublishedNetwork, "line_network": LineNetwork}


class LineSampler(nn.Module):
    """Line logits of a patient: the population's plus the correction of the AS network.

    With ``config.centred`` the correction is counted from the mean of patients, which can then be the population's plan
    (`centre`): what all patients need alike is no merit of a personal plan.

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
        self.ranking: Tensor
        self.population = PopulationLogits(config.lines, config.acs_fraction)
        self.personal = build("AS network", PERSONAL_NETWORKS, config.personal) if config.personal else None
        if config.centred:
            self.register_buffer("common", torch.zeros(config.lines))
        if config.ranked:
            self.register_buffer("ranking", torch.zeros(config.lines))

    def ranked(self, pe: int) -> Tensor:
        """``(pe,)``, higher is earlier: one order of lines, of which the plan of every acceleration holds the first.

        Raises
        ------
        InputError
            If the bundle has none.
        """
        if not self.config.ranked:
            raise InputError("this sampler knows the lines of one acceleration only")
        return resample_lines(self.ranking, pe)

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

    @torch.no_grad()
    def return_to_own_lines(self) -> None:
        """Undo `centre`: the population's plan is that of its own logits again."""
        self.population.logits.sub_(self.common)
        self.common.zero_()

    def _base(self, pe: int) -> Tensor:
        """What the AS network corrects ``(pe,)``: the population before it took over what is common to all patients."""
        if not self.config.centred:
            return self.population(pe).detach()
        return resample_lines((self.population.logits - self.common).detach(), pe, self.population.acs)
