"""Preparing in one process, in four, on a Dask cluster, and after being killed: always the same data."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from distributed import LocalCluster

from pass_recon.common.parallel import in_parallel
from pass_recon.types import InputError
from pass_recon_cli.main import main
from training.data.case_file import CaseFile
from training.data.jobs import do, run_jobs, space_for
from training.data.manifest import read_manifest
from training.data.simulated import PatientJob, PatientSettings

SMALL = PatientSettings(shape=(64, 64), coils=4, slices=2, seed=3)
ARGUMENTS = [
    "train",
    "prepare",
    "--simulated",
    "6",
    "--matrix",
    "64",
    "64",
    "--coils",
    "4",
    "--slices",
    "2",
    "--seed",
    "3",
]


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of what each file holds. HDF5 may arrange the same content differently, so it is read, not its bytes."""
    return {
        path.name: _content(path) if path.suffix == ".h5" else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


def _content(path: Path) -> str:
    digest = hashlib.sha256()

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        digest.update(name.encode())
        for key in sorted(item.attrs):
            digest.update(f"{key}={item.attrs[key]!r}".encode())
        if isinstance(item, h5py.Dataset):
            value = np.asarray(item[()])
            digest.update(f"{value.dtype} {value.shape}".encode())
            digest.update(repr(value.tolist()).encode() if value.dtype.hasobject else value.tobytes())

    with h5py.File(path) as file:
        add("/", file)
        file.visititems(add)
    return digest.hexdigest()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "dataset"
    assert main([*ARGUMENTS, "-o", str(folder), "--workers", "1"]) == 0
    return folder


def test_the_disk_it_will_take_is_told_and_checked_before(reference, tmp_path, monkeypatch, capsys):
    job = PatientJob(0, SMALL)
    assert run_jobs([job], tmp_path / "one", workers=1, progress=False)[0].fate == "written"
    written = (tmp_path / "one" / f"{job.name}.h5").stat().st_size
    assert written == pytest.approx(job.size(), rel=0.25)
    assert space_for([job], tmp_path / "one").needed == 0
    monkeypatch.setattr("training.data.jobs.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    assert main([*ARGUMENTS, "-o", str(tmp_path / "full"), "--workers", "1"]) == 1
    assert "0.001 MB are free" in capsys.readouterr().out
    assert not (tmp_path / "full").exists()


def test_four_workers_write_the_same_data(reference, tmp_path):
    assert main([*ARGUMENTS, "-o", str(tmp_path / "dataset"), "--workers", "4"]) == 0
    assert digests(tmp_path / "dataset") == digests(reference)
    assert len(digests(reference)) == 7


def test_a_dask_cluster_writes_the_same_data(reference, tmp_path):
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0"
    ) as cluster:
        assert cluster.scheduler_address.startswith("tcp://")
        assert main([*ARGUMENTS, "-o", str(tmp_path / "dataset"), "--scheduler", cluster.scheduler_address]) == 0
    assert digests(tmp_path / "dataset") == digests(reference)


def test_processes_take_a_core_each_and_keep_their_memory(monkeypatch):
    names = ["OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    seen = in_parallel(variable, names, lambda name, reason: (name, reason), workers=2, progress=False)
    assert dict(seen) == {"OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": None}


def variable(name: str) -> tuple[str, str | None]:
    """Of the environment of the process that does this."""
    return name, os.environ.get(name)


def test_a_cluster_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("pass_recon.common.parallel._ANSWER_SECONDS", 1.0)
    with pytest.raises(InputError, match=r"tcp://127\.0\.0\.1:1"):
        run_jobs([PatientJob(0, SMALL)], tmp_path, scheduler="tcp://127.0.0.1:1")


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_killed_it_takes_up_where_it_stopped(reference, tmp_path, workers):
    folder = tmp_path / "dataset"
    command = [sys.executable, "-m", "pass_recon_cli.main", *ARGUMENTS, "-o", str(folder), "--workers", workers]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.h5")):
        assert process.poll() is None, "it was done before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # A worker whose master died ends by itself.
    time.sleep(1.0 if workers == "2" else 0.0)
    done = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.h5")}
    assert done
    if workers == "1":
        assert len(done) < 6
    assert not (folder / "manifest.json").exists()
    assert main([*ARGUMENTS, "-o", str(folder), "--workers", "1"]) == 0
    assert digests(folder) == digests(reference)  # and so nothing half-written is left
    assert all((folder / name).stat().st_mtime_ns == when for name, when in done.items())


def test_what_changed_is_made_again(tmp_path):
    job = PatientJob(0, SMALL)
    assert do(job, str(tmp_path)).fate == "written"
    assert do(job, str(tmp_path)).fate == "kept"
    other = PatientJob(0, PatientSettings(shape=(64, 64), coils=5, slices=2, seed=3))
    assert do(other, str(tmp_path)).fate == "written"
    path = tmp_path / f"{job.name}.h5"
    with CaseFile(path) as case:
        assert case.shape.coils == 5
    path.write_bytes(path.read_bytes()[:2000])
    assert do(other, str(tmp_path)).fate == "written"


@dataclass(frozen=True)
class Stubborn:
    """A job that kills the worker it runs on."""

    name: str = "stubborn"

    def fingerprint(self) -> str:
        return "always"

    def write(self, path: Path, fingerprint: str) -> None:
        os._exit(3)


@pytest.mark.slow
def test_a_case_that_kills_its_workers_does_not_end_the_others_work(tmp_path):
    outcomes = run_jobs([Stubborn(), *(PatientJob(number, SMALL) for number in range(3))], tmp_path, workers=2)
    assert outcomes[0].fate == "skipped"
    # Kept, if the worker died before it could say that it had written the case.
    assert all(outcome.fate in ("written", "kept") for outcome in outcomes[1:])
    assert len(list(tmp_path.glob("*.h5"))) == 3
    assert "KilledWorker" in outcomes[0].reason


def test_two_sources_of_one_name_are_refused(tmp_path):
    with pytest.raises(InputError, match="same name"):
        run_jobs([PatientJob(1, SMALL), PatientJob(1, SMALL)], tmp_path, workers=1)


def test_simulated_patients_are_sick_and_healthy_and_differ(reference):
    cases = read_manifest(reference)["cases"]
    assert len({case["patient_id"] for case in cases}) == 6
    assert {bool(case["boxes"]) for case in cases} == {True, False}
    for case in cases:
        with CaseFile(reference / f"{case['name']}.h5") as file:
            for index, record in enumerate(file.records):
                assert record.label == int(bool(record.boxes))
                mask = file.lesion_mask(index)
                assert bool(mask.any()) == bool(record.boxes)
