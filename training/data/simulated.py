"""Simulated patients as cases, so that nothing has to be downloaded before a first training run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pass_recon.phantom.draws import mixed_seed
from training.data.case_file import (
    ABNORMAL,
    NORMAL,
    CaseInfo,
    CaseShape,
    SliceArrays,
    SliceRecord,
    writing_case,
)
from training.data.jobs import fingerprint_of

if TYPE_CHECKING:
    from pass_recon.phantom import SimulatedPatient


@dataclass(frozen=True)
class PatientSettings:
    """What all simulated patients have in common.

    Attributes
    ----------
    anatomy, contrast
        As `pass_recon.phantom.simulate_patient` knows them.
    shape
        ``(ro, pe)``.
    coils, slices
        Numbers of them.
    lesions
        Most lesions a patient has; the sick have 1 to that many.
    healthy
        Fraction of the patients without any.
    noise
        Noise of a complex sample of one coil, as a fraction of the peak, suggested for reading.
    seed
        Another seed, other patients.
    """

    anatomy: str = "brain"
    contrast: str = "flair"
    shape: tuple[int, int] = (320, 320)
    coils: int = 12
    slices: int = 8
    lesions: int = 4
    healthy: float = 0.3
    noise: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class PatientJob:
    """One simulated patient to be prepared; patients of another number are other people."""

    number: int
    settings: PatientSettings

    @property
    def name(self) -> str:
        """Tells anatomy, contrast, seed and number."""
        settings = self.settings
        return f"simulated_{settings.anatomy}_{settings.contrast}_{settings.seed}_{self.number:05d}"

    @property
    def seed(self) -> int:
        """Seed of this patient: the same person in every contrast."""
        # Small enough for every generator and file format, sparse enough that no two patients meet.
        return mixed_seed(self.settings.seed, self.number, self.settings.anatomy) % 2**31

    @property
    def lesions(self) -> int:
        """How many lesions this patient has."""
        dice = mixed_seed(self.seed, "lesions") % 1_000_000
        if self.settings.lesions == 0 or dice < self.settings.healthy * 1_000_000:
            return 0
        return 1 + mixed_seed(self.seed, "how many lesions") % self.settings.lesions

    def size(self) -> int:
        """From the settings."""
        settings = self.settings
        return CaseShape(settings.slices, settings.coils, *settings.shape).stored_bytes(measured=False)

    def fingerprint(self) -> str:
        """Of the settings and the version of the simulation."""
        from pass_recon import __version__

        return fingerprint_of(None, self.number, self.settings, __version__)

    def write(self, path: Path, fingerprint: str) -> None:
        """Simulate and write."""
        from pass_recon.phantom import simulate_patient

        settings = self.settings
        patient = simulate_patient(
            anatomy=settings.anatomy,
            contrast=settings.contrast,
            lesions=self.lesions,
            coils=settings.coils,
            slices=settings.slices,
            shape=settings.shape,
            noise=0.0,
            seed=self.seed,
        )
        with writing_case(path, CaseShape(settings.slices, settings.coils, *settings.shape), measured=False,
                          lesion_masks=True) as case:  # fmt: skip
            for index, (arrays, record) in enumerate(_slices(patient)):
                case.put(index, arrays, record)
            case.finish(
                CaseInfo(
                    name=self.name,
                    source="simulated",
                    origin=f"seed {self.seed}",
                    patient_id=f"simulated_{settings.anatomy}_{self.seed}",
                    anatomy=settings.anatomy,
                    contrast=settings.contrast,
                    pixel_mm=patient.pixel_mm,
                    slice_mm=patient.slice_mm,
                    noise=settings.noise,
                    reviewed=True,
                    line_range=(0, settings.shape[1]),
                    fingerprint=fingerprint,
                )
            )


def _slices(patient: SimulatedPatient) -> Iterator[tuple[SliceArrays, SliceRecord]]:
    for index, boxes in enumerate(patient.boxes):
        mask = patient.lesion_masks[index]
        label = ABNORMAL if boxes or bool(mask.any()) else NORMAL
        record = SliceRecord(boxes=boxes, label=label, caption=patient.captions[index], origin_slice=index)
        yield SliceArrays(patient.image[index], patient.coil_maps[index], lesion_mask=mask), record
