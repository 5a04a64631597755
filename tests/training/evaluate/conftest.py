"""Simulated patients, the same without lesions, and a bundle of random weights, made once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pass_recon.anomaly import NetAD
from pass_recon.bundles import save_bundle
from tests.networks import TINY_BACKBONE, tiny_bundle
from training.data.dataset import SliceDataset, Slices
from training.data.jobs import run_jobs
from training.data.manifest import SplitSettings, write_manifest
from training.data.simulated import PatientJob, PatientSettings
from training.evaluate.selection import EvaluatedBundle, EvaluationSettings, evaluated_bundles

PATIENTS = PatientSettings(shape=(64, 72), coils=4, slices=3, lesions=3, healthy=0.3, seed=5)


@dataclass(frozen=True)
class Ground:
    """Where everything lies."""

    data: Path
    lesion_free: Path
    bundle: Path
    without_detector: Path

    def settings(self, output: Path, **changes: object) -> EvaluationSettings:
        """An evaluation that takes little time."""
        usual = EvaluationSettings(
            bundles=(str(self.bundle),),
            data=(self.data,),
            output=output,
            noise=(0.01,),
            slices=2,
            tuning_slices=1,
            iterations=5,
            resamples=200,
            workers=1,
            threads=1,
            progress=False,
        )
        return replace(usual, **changes)


@pytest.fixture(scope="package")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("evaluate")
    for name, lesions in (("data", 3), ("lesion_free", 0)):
        settings = replace(PATIENTS, lesions=lesions)
        run_jobs([PatientJob(number, settings) for number in range(6)], folder / name, workers=1, progress=False)
        write_manifest(folder / name, SplitSettings((0.0, 0.3, 0.7), seed=1))
    bundle = tiny_bundle(NetAD.build(TINY_BACKBONE, anatomy="brain"))
    save_bundle(bundle, folder / "tiny")
    save_bundle(replace(bundle, netad=None), folder / "blind")
    return Ground(folder / "data", folder / "lesion_free", folder / "tiny", folder / "blind")


@pytest.fixture(scope="package")
def bundle(ground: Ground) -> EvaluatedBundle:
    return evaluated_bundles([str(ground.bundle)])[0]


@pytest.fixture(scope="package")
def slices(ground: Ground) -> Slices:
    """One slice with a lesion."""
    dataset = SliceDataset(ground.data)
    return next(item for item in (dataset[number] for number in range(len(dataset))) if item.boxes)
