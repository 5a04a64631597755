"""What an evaluation is asked for."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pass_recon.types import InputError

MapSource = Literal["true", "estimated"]
_SPLITS = ("train", "validation", "test", "all")


@dataclass(frozen=True)
class Settings:
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
    twins
        The same patients without lesions: cases of the same names.
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
    split: str = "test"
    patients: int = 0
    slices: int = 3
    maps: MapSource = "true"
    tuning: Path | None = None
    tuning_slices: int = 4
    published: str = ""
    twins: Path | None = None
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
        if self.split not in _SPLITS:
            raise InputError(f"there is no split {self.split!r}, only {', '.join(_SPLITS)}")
        if self.maps not in ("true", "estimated"):
            raise InputError(f"coil maps are true or estimated, got {self.maps!r}")
        for name, least in (("slices", 1), ("patients", 0), ("workers", 0), ("threads", 0), ("tuning_slices", 1),
                            ("iterations", 1), ("resamples", 1)):  # fmt: skip
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def quick(self) -> Settings:
        """The same for a first look: 2 patients, one slice of each case, one noise level, less of what takes long."""
        return replace(
            self, noise=self.noise[:1], patients=min(self.patients or 2, 2), slices=1, tuning_slices=1, iterations=30
        )

    def described(self) -> dict[str, Any]:
        """What belongs in the results, as JSON takes it."""
        values = asdict(self)
        for name in ("command", "progress", "output"):
            del values[name]
        return {
            name: [str(item) if isinstance(item, Path) else item for item in value]
            if isinstance(value, tuple)
            else str(value)
            if isinstance(value, Path)
            else value
            for name, value in values.items()
        }
