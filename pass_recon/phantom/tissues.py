"""From tissue to signal: relaxation times, the sequences' equations, and the canvas on which tissues are painted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pass_recon.phantom.draws import Draws
from pass_recon.phantom.shapes import SliceGrid


@dataclass(frozen=True)
class Relaxation:
    """Times in ms at about 2 T (this stands for data of 1.5 T and 3 T), proton density relative to water."""

    t1: float
    t2: float
    density: float


# T2 of fat is the long apparent one of fast spin echoes (J-coupling is broken up).
TISSUES: dict[str, Relaxation] = {
    "air": Relaxation(1000.0, 50.0, 0.0),
    "bone": Relaxation(900.0, 12.0, 0.12),
    "marrow": Relaxation(380.0, 75.0, 0.75),
    "fat": Relaxation(300.0, 95.0, 0.95),
    "skin": Relaxation(800.0, 35.0, 0.60),
    "muscle": Relaxation(1050.0, 36.0, 0.80),
    "fluid": Relaxation(4000.0, 1800.0, 1.0),
    "grey": Relaxation(1220.0, 104.0, 0.85),
    "white": Relaxation(700.0, 80.0, 0.72),
    "nucleus": Relaxation(1020.0, 88.0, 0.81),
    "pallidum": Relaxation(860.0, 70.0, 0.75),
    "cerebellum": Relaxation(1050.0, 96.0, 0.84),
    "vessel": Relaxation(1600.0, 30.0, 0.15),
    "blood": Relaxation(1500.0, 150.0, 0.9),
    "mucosa": Relaxation(1100.0, 110.0, 0.85),
    "gliosis": Relaxation(1300.0, 190.0, 0.90),
    "oedema": Relaxation(1350.0, 175.0, 0.92),
    "tumour": Relaxation(1650.0, 150.0, 0.90),
    "necrosis": Relaxation(2600.0, 500.0, 0.97),
    "cartilage": Relaxation(1150.0, 48.0, 0.86),
    "meniscus": Relaxation(900.0, 12.0, 0.35),
    "ligament": Relaxation(850.0, 12.0, 0.30),
    "tear": Relaxation(1500.0, 75.0, 0.85),
    "effusion": Relaxation(2800.0, 500.0, 1.0),
    "marrow_oedema": Relaxation(1300.0, 70.0, 0.70),
    "fracture": Relaxation(1000.0, 20.0, 0.30),
}
_INDEX = {name: index for index, name in enumerate(TISSUES)}


def spin_echo(t1: Tensor, t2: Tensor, density: Tensor, *, repetition: Tensor, echo: Tensor) -> Tensor:
    """Signal ρ (1 − exp(−TR/T1)) exp(−TE/T2); times in ms."""
    return density * (1.0 - torch.exp(-repetition / t1)) * torch.exp(-echo / t2)


def inversion_recovery(
    t1: Tensor, t2: Tensor, density: Tensor, *, repetition: Tensor, inversion: Tensor, echo: Tensor
) -> Tensor:
    """Magnitude signal ρ |1 − 2 exp(−TI/T1) + exp(−TR/T1)| exp(−TE/T2); times in ms."""
    recovered = 1.0 - 2.0 * torch.exp(-inversion / t1) + torch.exp(-repetition / t1)
    return density * recovered.abs() * torch.exp(-echo / t2)


def tissue_signals(draws: Draws, contrast: str) -> Tensor:
    """``(patients, tissues)`` signal of each tissue, with the protocol and the tissues varying between patients.

    ``"t1"`` is a short-TR spin echo, ``"flair"`` an inversion recovery that nulls fluid, mostly with fat suppressed,
    ``"pd"`` a long-TR, short-TE fast spin echo.
    """
    table = torch.tensor([[t.t1, t.t2, t.density] for t in TISSUES.values()], device=draws.device)
    # The patient as a whole varies more than one of its tissues against the others.
    spread = 1.0 + draws.normal(0.0, 0.03, 1, 3) + draws.normal(0.0, 0.01, len(TISSUES), 3)
    t1, t2, density = (table * spread).unbind(-1)
    repetition, echo = draws.uniform(0.0, 1.0, 1), draws.uniform(0.0, 1.0, 1)
    suppressed = draws.uniform(0.0, 1.0, 1) < 0.75
    if contrast == "t1":
        return spin_echo(t1, t2, density, repetition=420.0 + 230.0 * repetition, echo=8.0 + 7.0 * echo)
    if contrast == "pd":
        return spin_echo(t1, t2, density, repetition=2200.0 + 1000.0 * repetition, echo=24.0 + 12.0 * echo)
    repetition, echo = 8500.0 + 1500.0 * repetition, 95.0 + 45.0 * echo
    # The inversion time that nulls the fluid of this patient.
    fluid = t1[:, _INDEX["fluid"], None]
    inversion = -fluid * torch.log((1.0 + torch.exp(-repetition / fluid)) / 2.0)
    signal = inversion_recovery(t1, t2, density, repetition=repetition, inversion=inversion * 0.985, echo=echo)
    fatty = torch.zeros(len(TISSUES), device=draws.device)
    fatty[[_INDEX["fat"], _INDEX["marrow"]]] = 1.0
    kept = torch.where(suppressed, draws.uniform(0.06, 0.2, 1), draws.uniform(0.8, 1.1, 1))
    return signal * (1.0 - fatty * (1.0 - kept))


def signal_of(signals: Tensor, tissue: str) -> Tensor:
    """``(patients,)`` signal of one tissue out of :func:`tissue_signals`."""
    return signals[:, _INDEX[tissue]]


class Canvas:
    """The signal of a batch of slices, painted tissue over tissue, and the distances that lesions are placed by.

    Attributes
    ----------
    signal
        ``(batch, ro, pe)``.
    landmarks
        Signed distances in mm by name, positive inside, ``(batch, ro, pe)``.
    """

    def __init__(self, signals: Tensor, grid: SliceGrid) -> None:
        self._signals = signals[grid.patient]
        self.grid = grid
        self.signal = torch.zeros(grid.shape, device=grid.device)
        self.landmarks: dict[str, Tensor] = {}

    def paint(self, tissue: str, cover: Tensor, shade: float | Tensor = 1.0, slices: Tensor | None = None) -> None:
        """Cover what was there by a tissue, by the given fraction.

        Parameters
        ----------
        tissue
            A name of :data:`TISSUES`.
        cover
            ``(batch, ro, pe)`` from 0 to 1.
        shade
            Multiplies the tissue's signal.
        slices
            Indices of the slices that ``cover`` is about; None for all.
        """
        value = self._signals[:, _INDEX[tissue], None, None]
        if slices is None:
            self.signal = torch.lerp(self.signal, value * shade, cover)
        else:
            self.signal[slices] = torch.lerp(self.signal[slices], value[slices] * shade, cover)
