"""Whole scans: through the embedded server and the resident process, as they grow, and many at once."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from gadgets.converters.patient_file import write_patient
from gadgets.mrd.scan_file import ScanFile
from gadgets.offline import FileJob, archived
from gadgets.properties import Properties
from gadgets.scanner.client import ScanReport, ScanSettings, run_scan
from pass_recon.common.parallel import in_parallel
from pass_recon.phantom import simulate_patient
from pass_recon_cli.local_server import LocalProcess, write_configuration
from tests.benchmarks.slices import equispaced_lines, grappa
from tests.benchmarks.timing import Benchmark, Measured
from tests.gadgets.scans import write_scan

BUNDLE, RESIDENT, STAGES = "brain-flair-4x", "pass_recon_resident.xml", "pass_recon.xml"
COILS, MATRIX, VENDOR_COILS, VENDOR_MATRIX, ACS = 16, (320, 320), 12, (320, 320), 24
FEW, MANY = 2, 16
# A line of each of six slices in turn, as in an interleaved scan.
INTERLEAVED, REPETITION_MS = 6, 10.0
_MEBIBYTE = 1024.0


def benchmarks() -> Iterator[Benchmark | Measured]:
    """Servers are started for them, and ended."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _servers(folder) as servers:
            yield _against_grappa(servers)
            yield from _plans(servers)
            yield from _memory(servers)
            yield _cold(servers)
        yield _growth(folder)
        yield _workers(folder)


@dataclass(frozen=True)
class Servers:
    """The embedded server and a resident process, running."""

    folder: Path
    port: int
    resident: int

    def scan(self, path: Path, config: str = RESIDENT, **settings: object) -> ScanReport:
        """Send a file."""
        chosen = ScanSettings(address="127.0.0.1", port=self.port, config=config, group="run", **settings)  # type: ignore[arg-type]
        with ScanFile(path) as source:
            report = run_scan(source, self.folder / "images.h5", chosen)
        assert report.images, report.errors
        assert not report.errors, report.errors
        return report


@contextmanager
def _servers(folder: Path) -> Iterator[Servers]:
    with ExitStack() as stack:
        serve = stack.enter_context(
            LocalProcess("serve", "--port", "0", "--configs", str(folder), log=folder / "server.log")
        )
        resident = stack.enter_context(
            LocalProcess("resident", "--port", "0", "--bundle", BUNDLE, log=folder / "resident.log")
        )
        write_configuration(RESIDENT, folder, {"bundle": BUNDLE, "guard": "off"}, resident.port())
        write_configuration(STAGES, folder, {"bundle": BUNDLE, "guard": "off"})
        yield Servers(folder, serve.port(), resident.pid)


def _patient(path: Path, slices: int, seed: int = 0) -> Path:
    write_patient(
        path,
        simulate_patient(anatomy="brain", contrast="flair", coils=COILS, slices=slices, shape=MATRIX, seed=seed),
    )
    return path


def _against_grappa(servers: Servers) -> Benchmark:
    """A vendor's scan of three slices, twice oversampled along readout."""
    patient = simulate_patient(
        anatomy="brain", contrast="flair", coils=VENDOR_COILS, slices=3, shape=VENDOR_MATRIX, noise=0.005
    )
    lines = equispaced_lines(VENDOR_MATRIX[1], 4, ACS)
    kspace = patient.kspace * lines
    path = write_scan(servers.folder / "vendor.h5", kspace.numpy(), oversampling=2)
    return Benchmark(
        f"scan of 3 slices {2 * VENDOR_MATRIX[0]}x{VENDOR_MATRIX[1]}, {VENDOR_COILS} coils, R = 4, resident",
        lambda: servers.scan(path),
        lambda: grappa(kspace, ACS),
        "pygrappa of its slices alone",
        repeats=3,
    )


def _plans(servers: Servers) -> Iterator[Measured]:
    """From the last ACS line to the plan, while slices before are being reconstructed."""
    alone, together = _patient(servers.folder / "one.h5", 1), _patient(servers.folder / "six.h5", INTERLEAVED)
    by_itself = [_waited(servers, alone)[0] for _ in range(5)]
    waited = sorted(one for _ in range(5) for one in _waited(servers, together))
    for name, value in (("p50", statistics.median(waited)), ("worst", waited[-1])):
        yield Measured(
            f"plan through server and resident, {INTERLEAVED} interleaved slices, {name} of {len(waited)}",
            value,
            statistics.median(by_itself),
            "one slice by itself, median",
            waited[-1] / waited[0],
        )


def _cold(servers: Servers) -> Measured:
    """From the connection to the first plan of a chain whose four processes the server starts for the scan."""
    path = servers.folder / "one.h5"
    reports = [servers.scan(path, STAGES, closed_loop=True) for _ in range(3)]
    waited = sorted(1e3 * one.answered for report in reports for one in report.slices if one.answered is not None)
    started = time.perf_counter()
    _memory_of_torch()
    peer = 1e3 * (time.perf_counter() - started)
    return Measured(
        "first plan of pass_recon.xml, its processes started", waited[0], peer, "import torch", waited[-1] / waited[0]
    )


def _waited(servers: Servers, path: Path) -> list[float]:
    report = servers.scan(path, closed_loop=True, repetition_time=REPETITION_MS / 1000)
    return [1e3 * one.seconds_to_plan for one in report.slices]


def _memory(servers: Servers) -> Iterator[Measured]:
    """Of the resident process; the peer is what a process takes that has imported torch and nothing else."""
    torch_alone = _memory_of_torch()
    after_few = _peak(servers.resident)
    yield Measured(
        "memory of the resident process after those scans", after_few, torch_alone, "torch alone", unit="MiB"
    )
    long = _patient(servers.folder / "long.h5", MANY)
    servers.scan(long)
    yield Measured(
        f"the same after a scan of {MANY} slices", _peak(servers.resident), after_few, "before it", unit="MiB"
    )


def _peak(pid: int) -> float:
    """The most memory that a process has taken, in MiB."""
    return _peak_in(Path(f"/proc/{pid}/status").read_text())


def _peak_in(status: str) -> float:
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / _MEBIBYTE


def _memory_of_torch() -> float:
    code = "import torch, pathlib; print(pathlib.Path('/proc/self/status').read_text())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return _peak_in(done.stdout)


def _growth(folder: Path) -> Measured:
    """Milliseconds a slice of a long scan and of a short one."""

    def per_slice(slices: int) -> float:
        path = _patient(folder / f"of_{slices}.h5", slices)
        started = time.perf_counter()
        outcome = archived(FileJob(path, folder / "images.h5", Properties(bundle=BUNDLE, guard="off"), out_group="run"))
        assert not outcome.failed, outcome.messages
        return 1e3 * (time.perf_counter() - started) / slices

    per_slice(FEW)
    few, many = per_slice(FEW), per_slice(MANY)
    return Measured(f"recon of a file, a slice of {MANY}", many, few, f"a slice of {FEW}")


def _workers(folder: Path) -> Benchmark:
    files = [_patient(folder / f"archived_{seed}.h5", 2, seed) for seed in range(8)]
    properties = Properties(bundle=BUNDLE, guard="off")

    def reconstruct(workers: int) -> None:
        jobs = [FileJob(file, folder / f"out_{file.name}", properties, out_group="run") for file in files]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as processes that share the cores have
        outcomes = list(in_parallel(archived, jobs, lambda job, reason: None, workers=workers, progress=False))
        torch.set_num_threads(threads)
        assert all(outcome is not None and not outcome.failed for outcome in outcomes)

    return Benchmark(
        f"archive of {len(files)} files in two processes, started for it",
        lambda: reconstruct(2),
        lambda: reconstruct(1),
        "one process",
        repeats=1,
    )
