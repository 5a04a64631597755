"""Datasets, prepared once for all tests: from a folder of fastMRI files, and of simulated patients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import pytest

from pass_recon_cli.main import main
from tests.threads import one_thread as one_thread
from tests.training.data.fastmri_files import KNEE, Volume, write_annotations
from tests.training.small import (
    EXAMINATIONS,
    reconstruction_settings,
    sampling_settings,
    simulate,
)
from training.data.dataset import collate, open_slices
from training.data.manifest import read_manifest
from training.stages.reconstruction import train_reconstruction
from training.stages.sampling import (
    train_sampling,
)

ANNOTATED = Volume(slices=2)
NORMAL = Volume(name="file_brain_AXFLAIR_201_0000002", acquisition="AXFLAIR", patient_id="patient-b", coils=6, slices=1)
SAME_PATIENT = replace(ANNOTATED, name="file_brain_AXT1_200_0000003", slices=1, blob_slice=0)
MANY_COILS = Volume(name="file_brain_AXT1_200_0000004", patient_id="patient-c", coils=20, slices=1, blob_slice=0)
OTHER_ACQUISITION = Volume(name="file_brain_AXT2_200_0000005", acquisition="AXT2", coils=4, slices=1)
VOLUMES = (ANNOTATED, NORMAL, SAME_PATIENT, MANY_COILS, KNEE, OTHER_ACQUISITION)


@dataclass(frozen=True)
class Prepared:
    """Where the fastMRI files, their annotations and the dataset are, and what the command said."""

    source: Path
    annotations: Path
    file_list: Path
    dataset: Path
    said: str

    @property
    def manifest(self) -> dict:
        """The dataset's manifest."""
        return read_manifest(self.dataset)

    def case(self, name: str) -> dict:
        """The manifest's entry of a case."""
        return next(case for case in self.manifest["cases"] if case["name"] == name)


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated patients, small enough to train on."""
    return simulate(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def fastmri(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six volumes, one truncated, one without header, one that is no HDF5 at all."""
    folder = tmp_path_factory.mktemp("fastmri")
    for volume in VOLUMES:
        volume.write(folder / ("knee" if volume is KNEE else "brain"))
    whole = (folder / "brain" / f"{NORMAL.name}.h5").read_bytes()
    (folder / "file_brain_AXT1_200_0000006.h5").write_bytes(whole[: len(whole) // 2])
    headless = replace(NORMAL, name="file_brain_AXT1_200_0000007", coils=4).write(folder)
    with h5py.File(headless, "a") as file:
        del file["ismrmrd_header"]
    (folder / "file_brain_AXT1_200_0000008.h5").write_bytes(b"not a volume")
    return folder


@pytest.fixture(scope="session")
def prepared(fastmri: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The dataset, prepared in this process by the command."""
    folder = tmp_path_factory.mktemp("prepared")
    statement = f"{MANY_COILS.name},0,Yes,,,,,Global label: Small vessel chronic white matter ischemic change"
    artefact = ANNOTATED.row(label="Possible artifact", slice_index=0)
    rows = [ANNOTATED.row(), artefact, KNEE.row(label="Meniscus Tear"), statement]
    names = [ANNOTATED.name, NORMAL.name, MANY_COILS.name, KNEE.name]
    table, reviewed = write_annotations(folder, rows, names)
    dataset = folder / "dataset"
    arguments = [
        "train",
        "prepare",
        "--fastmri",
        str(fastmri),
        "-o",
        str(dataset),
        "--workers",
        "1",
    ]
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("pass_recon_cli.train_prepare._say", lambda line: said.append(line + "\n"))
        assert main([*arguments, "--annotations", str(table), "--file-list", str(reviewed)]) == 0
    return Prepared(fastmri, table, reviewed, dataset, "".join(said))


@pytest.fixture(scope="package")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train_reconstruction(reconstruction_settings(), [data], folder / "reconstruction", "cpu")
    train_sampling(sampling_settings(folder / "reconstruction"), [data], folder / "sampling", "cpu")
    return folder


@pytest.fixture(scope="package")
def batch(data):
    slices = collate([source[0] for source in open_slices([data], "train", EXAMINATIONS)])
    return replace(slices, anomaly_map=slices.anomaly_mask.float())
