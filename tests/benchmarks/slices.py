"""A slice of 320 × 320 and 16 coils: coil maps of its ACS against sigpy and BART, and the networks' precision."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sigpy.mri.app

from pass_recon import Pipeline
from pass_recon.phantom import simulate_patient
from pass_recon.preparation import acs_maps
from tests.benchmarks.timing import Benchmark
from tests.physics.bart import ecalib

BUNDLE, COILS, ACS = "brain-flair-8x", 16, 24


def benchmarks() -> Iterator[Benchmark]:
    """BART where it is installed; its time holds the start of a program and files, a tenth of a second."""
    kspace = simulate_patient(anatomy="brain", contrast="flair", coils=COILS, slices=1).kspace
    array = np.ascontiguousarray(kspace[0].numpy())
    name = f"coil maps of {ACS} ACS lines, {COILS} coils"
    peers = {"sigpy EspiritCalib": lambda: sigpy.mri.app.EspiritCalib(array, calib_width=ACS, show_pbar=False).run()}
    if shutil.which("bart"):
        peers["BART ecalib -m1"] = lambda: _bart(array)
    for peer_name, peer in peers.items():
        yield Benchmark(name, lambda: acs_maps(kspace, ACS), peer, peer_name, repeats=2)
    fast, exact = Pipeline(BUNDLE), Pipeline(BUNDLE, precision="float32")
    lines = fast.population_plan(kspace.shape[-1]).lines
    yield Benchmark(
        f"reconstruction with {BUNDLE}, all in",
        lambda: fast.reconstruct(kspace, lines),
        lambda: exact.reconstruct(kspace, lines),
        "the same in float32",
        repeats=3,
    )


def _bart(kspace: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ecalib(kspace, Path(folder), "-r", str(ACS), "-m1")
