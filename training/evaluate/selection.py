"""What an evaluation is asked for: its settings, and the slices and bundles that they select."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pass_recon.bundles import bundle_folder, read_card
from pass_recon.common.settings import checked, to_dict
from pass_recon.types import InputError
from training.data.case_file import SUFFIX, CaseFile, SliceRecord
from training.data.manifest import read_manifest

if TYPE_CHECKING:
    from typing_extensions import Self

MapSource = Literal["true", "estimated"]
Split = Literal["train", "validation", "test", "all"]


@checked
@dataclass(frozen=True)
class EvaluationSettings:
    """Everything that a user can choose.

    Attributes
    ----------
    bundles
        Names or folders.
    data
        Prepared datasets, reported one by one.
    output
        Folder of the results; is added to.
    noise
        Standard deviations of the noise of a complex sample of one coil, as fractions of the volume's peak. Measured
        cases keep their own noise and are evaluated once.
    methods
        Names of `training.evaluate.methods.METHODS`; none for all.
    split
        Which patients, or ``all``.
    patients
        At most so many of each dataset, anatomy and contrast; 0 for all.
    slices
        Of each case.
    maps
        The ``true`` coil maps, or those ``estimated`` from the ACS as at a scanner.
    tuning
        Dataset on which λ of L1-wavelet is tuned; by default the validation split of ``data``.
    tuning_slices
        How many slices, each of another patient where there are enough.
    published
        Bundle of the published weights; empty for none.
    lesion_free
        The same patients without lesions: cases of the same names.
    faint
        Paint faint blobs and report their recovery and d′, which doubles the time.
    workers, threads
        Processes, and torch threads of each; 0 for as many as the cores give.
    scheduler
        Address of a Dask scheduler whose workers do the work instead.
    device
        Where the networks run.
    iterations
        Of L1-wavelet.
    resamples, seed
        Of the bootstrap.
    command
        The command line, for the record.
    progress
        Show bars where standard error is a terminal.
    """

    bundles: tuple[str, ...]
    data: tuple[Path, ...]
    output: Path
    noise: tuple[float, ...] = (0.005, 0.015)
    methods: tuple[str, ...] = ()
    split: Split = "test"
    patients: int = 0
    slices: int = 3
    maps: MapSource = "true"
    tuning: Path | None = None
    tuning_slices: int = 4
    published: str = ""
    lesion_free: Path | None = None
    faint: bool = False
    workers: int = 0
    threads: int = 0
    scheduler: str = ""
    device: str = "cpu"
    iterations: int = 100
    resamples: int = 2000
    seed: int = 0
    command: str = ""
    progress: bool = True

    def __post_init__(self) -> None:
        if not self.bundles or not self.data:
            raise InputError("an evaluation needs at least one bundle and one dataset")
        if not self.noise or not all(math.isfinite(value) and value >= 0 for value in self.noise):
            raise InputError(f"noise levels must be 0 or positive, got {list(self.noise)}")
        if len(set(self.noise)) < len(self.noise):
            raise InputError(f"a noise level is asked for twice: {list(self.noise)}")
        for name, least in (("slices", 1), ("patients", 0), ("workers", 0), ("threads", 0), ("tuning_slices", 1),
                            ("iterations", 1), ("resamples", 1)):  # fmt: skip
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def quick(self) -> Self:
        """The same for a first look: 2 patients, one slice of each case, one noise level, less of what takes long."""
        return replace(
            self, noise=self.noise[:1], patients=min(self.patients or 2, 2), slices=1, tuning_slices=1, iterations=30
        )

    def described(self) -> dict[str, Any]:
        """What belongs in the results, as JSON takes it."""
        return {name: value for name, value in to_dict(self).items() if name not in ("command", "progress", "output")}


# What of a card decides how its bundle computes; the rest only describes it.
_COMPUTES = ("configuration", "files", "acceleration", "acs_fraction")


@dataclass(frozen=True)
class EvaluatedBundle:
    """A bundle to be evaluated, before its weights are read.

    Attributes
    ----------
    label
        What it is called in the results.
    folder
        Where it lies.
    card
        Its card.
    """

    label: str
    folder: str
    card: Mapping[str, Any]

    @property
    def examination(self) -> str:
        """Anatomy and contrast, such as ``brain-t1``."""
        return f"{self.card['anatomy']}-{self.card['contrast']}"

    @property
    def acceleration(self) -> float:
        """The nominal R."""
        return float(self.card["acceleration"])

    @property
    def identity(self) -> str:
        """A word that changes when a weight or a setting does."""
        return digest({name: self.card[name] for name in _COMPUTES})

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file."""
        return {name: entry["sha256"] for name, entry in self.card["files"].items()}


@dataclass(frozen=True)
class SliceEntry:
    """One slice to be evaluated.

    Attributes
    ----------
    dataset, folder
        Name of the dataset in the results, and where it lies.
    case, index
        Which slice of which case.
    patient
        Slices of one patient are resampled together.
    fingerprint
        Changes when the case was prepared differently.
    measured
        Whether the case has its own noise.
    lesions
        Number of boxes.
    pixel_mm
        Along readout and phase encoding; 0 where unknown.
    """

    dataset: str
    folder: str
    case: str
    index: int
    patient: str
    fingerprint: str
    measured: bool
    lesions: int
    pixel_mm: tuple[float, float] = (0.0, 0.0)


def digest(value: Any) -> str:
    """A word made from anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def evaluated_bundles(names: Sequence[str]) -> list[EvaluatedBundle]:
    """The bundles of these names or folders.

    Raises
    ------
    BundleError
        If one is missing or its card is damaged.
    InputError
        If one is given twice.
    """
    folders = [bundle_folder(name).resolve() for name in names]
    if len(set(folders)) < len(folders):
        raise InputError(f"a bundle is given twice: {', '.join(names)}")
    cards = [read_card(folder) for folder in folders]
    titles = [card["name"] for card in cards]
    # Variants of a bundle carry one name: then only what the user typed tells them apart.
    labels = [name if titles.count(title) > 1 else title for name, title in zip(names, titles, strict=True)]
    return [
        EvaluatedBundle(label, str(folder), card) for label, folder, card in zip(labels, folders, cards, strict=True)
    ]


def dataset_labels(folders: Sequence[Path]) -> dict[Path, str]:
    """The name of each dataset in the results.

    Raises
    ------
    InputError
        If two are called the same.
    """
    labels = {folder: folder.resolve().name for folder in folders}
    if len(set(labels.values())) < len(folders):
        raise InputError(f"two datasets have the same name: {', '.join(map(str, folders))}")
    return labels


def slice_entries(
    folder: Path,
    label: str,
    examination: str,
    *,
    split: str = "all",
    patients: int = 0,
    slices: int,
    without: Sequence[str] = (),
) -> list[SliceEntry]:
    """The slices of a dataset that are of one examination.

    Parameters
    ----------
    folder, label
        The dataset, and its name in the results.
    examination
        Anatomy and contrast.
    split
        Only these patients.
    patients
        Only the first so many of them; 0 for all.
    slices
        So many of each case, see `choose_slices`.
    without
        Patients to leave out.

    Raises
    ------
    InputError
        If the folder is no prepared dataset or a case is damaged.
    """
    cases = [
        case
        for case in read_manifest(folder)["cases"]
        if f"{case['anatomy']}-{case['contrast']}" == examination
        and split in ("all", case["split"])
        and case["patient_id"] not in without
    ]
    names = list(dict.fromkeys(case["patient_id"] for case in cases))
    wanted = set(names[:patients] if patients else names)
    found = []
    for case in cases:
        if case["patient_id"] not in wanted:
            continue
        with CaseFile(folder / (case["name"] + SUFFIX)) as file:
            found += [
                SliceEntry(
                    dataset=label,
                    folder=str(folder.resolve()),
                    case=case["name"],
                    index=index,
                    patient=case["patient_id"],
                    fingerprint=file.info.fingerprint,
                    measured=file.info.measured,
                    lesions=len(file.records[index].boxes),
                    pixel_mm=file.info.pixel_mm,
                )
                for index in choose_slices(file.records, slices)
            ]
    return found


def choose_slices(records: Sequence[SliceRecord], count: int) -> list[int]:
    """Up to ``count`` slices: those with lesions, evenly spread if they are more, then those nearest the middle."""
    with_lesions = [index for index, record in enumerate(records) if record.boxes]
    if len(with_lesions) >= count:
        step = len(with_lesions) / count
        return [with_lesions[int((number + 0.5) * step)] for number in range(count)]
    middle = (len(records) - 1) / 2
    others = sorted(set(range(len(records))) - set(with_lesions), key=lambda index: (abs(index - middle), index))
    return sorted(with_lesions + others[: count - len(with_lesions)])
