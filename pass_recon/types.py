"""What travels between the stages: plans, reconstructions, findings, and the errors a user can act on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

PlanSource = Literal["personal", "population", "acquired"]


def printable(text: str) -> str:
    """What somebody else wrote, without what steers a terminal: escape codes, and ends of lines in the log."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


class PassError(Exception):
    """Anything this package refuses to do, with a sentence that names the fact and the value."""


class InputError(PassError):
    """The data or the settings given are at fault; trying again without changing them will not help."""


class BundleError(PassError):
    """A bundle is missing, unreadable, tampered with, or not what was asked for."""


@dataclass(frozen=True)
class Box:
    """A finding: an axis-aligned box in image pixels, half-open like a slice.

    Attributes
    ----------
    readout, phase
        First pixel along readout and phase encoding (the last two image axes).
    readout_size, phase_size
        Extent in pixels.
    score
        Probability of an anomaly inside, 0 to 1.
    label
        The most probable diagnosis, empty if there is none.
    """

    readout: int
    phase: int
    readout_size: int
    phase_size: int
    score: float = 1.0
    label: str = ""


@dataclass(frozen=True)
class QualityFinding:
    """Something wrong with finite data, or with the image made of it.

    Attributes
    ----------
    word
        What it is, for programs: one of ``pass_recon.quality.WORDS``.
    sentence
        The same for people, with the coils, lines and values concerned.
    """

    word: str
    sentence: str


@dataclass(frozen=True)
class SamplingPlan:
    """The phase-encoding lines to acquire for one slice of one patient.

    Attributes
    ----------
    lines
        ``(pe,)`` bool on the CPU: True where a line is to be acquired, autocalibration (ACS) lines included.
    order
        Indices of ``lines`` in the order of acquisition, the ACS lines first.
    acceleration
        The nominal acceleration R; ``lines`` holds round(pe / R) lines unless ``source`` is ``"acquired"``.
    source
        ``"personal"`` (chosen for this patient), ``"population"`` (the fallback), ``"acquired"`` (what had come).
    score
        Image-level anomaly probability of the ACS image; None where no detector ran.
    anomaly_map
        ``(ro, pe)`` float32 in 0 to 1 from the ACS image; None where no detector ran.
    bundle
        Name of the bundle that chose the lines, ``"classical"`` where there is none.
    fallback
        Why the personal plan is missing; None if nothing failed.
    seconds
        Time spent, by stage.
    quality
        What is wrong with the ACS; empty if nothing is.
    """

    lines: Tensor
    order: tuple[int, ...]
    acceleration: float
    source: PlanSource
    score: float | None = None
    anomaly_map: Tensor | None = None
    bundle: str = "classical"
    fallback: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    quality: tuple[QualityFinding, ...] = ()

    @property
    def reliable(self) -> bool:
        """Whether score and map come from data that nothing is wrong with."""
        return not self.quality

    def __post_init__(self) -> None:
        import torch  # here, so that whoever only raises these errors starts without it

        if self.lines.dtype != torch.bool or self.lines.ndim != 1:
            raise InputError(
                f"plan lines must be bool of shape (pe,), got {self.lines.dtype} {tuple(self.lines.shape)}"
            )
        if sorted(self.order) != self.lines.nonzero().flatten().tolist():
            raise InputError("the order of acquisition must name each planned line exactly once")


@dataclass(frozen=True)
class Reconstruction:
    """What came out of the k-space of one slice, or of a batch of slices with one leading axis.

    Attributes
    ----------
    image
        ``([slices,] ro, pe)`` complex64 on the CPU, in the units of the k-space (the intensity scale is divided out).
    anomaly_map
        ``([slices,] ro, pe)`` float32 in 0 to 1; None where no detector ran.
    boxes
        Findings, one tuple a slice.
    score
        Image-level anomaly probability, one a slice; empty where no detector ran.
    bundle
        Name of the bundle, ``"classical"`` where there is none.
    fallback
        Why the image is not the one asked for; None if nothing failed.
    seconds
        Time spent, by stage.
    intermediates
        Results on the way, by name, when they were asked for.
    quality
        What is wrong with the data or the image, one tuple a slice, empty where nothing is.
    """

    image: Tensor
    anomaly_map: Tensor | None = None
    boxes: tuple[tuple[Box, ...], ...] = ()
    score: tuple[float, ...] = ()
    bundle: str = "classical"
    fallback: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    intermediates: dict[str, Tensor] = field(default_factory=dict)
    quality: tuple[tuple[QualityFinding, ...], ...] = ()

    @property
    def reliable(self) -> tuple[bool, ...]:
        """Whether scores, map and boxes come from data and an image that nothing is wrong with, one a slice."""
        return tuple(not findings for findings in self.quality)
