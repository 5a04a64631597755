"""BART, an independent implementation, through the files it reads and writes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


def require_bart() -> str:
    """Path of the program; skips the test where there is none."""
    program = shutil.which("bart")
    if program is None:
        pytest.skip("no bart on PATH")
    return program


def write_cfl(path: Path, array: NDArray[np.complex64]) -> None:
    """Write ``path``.cfl and ``path``.hdr: complex64, first axis fastest."""
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape)) + "\n")
    array.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


def read_cfl(path: Path) -> NDArray[np.complex64]:
    """Read what BART wrote, without trailing axes of size 1."""
    shape = [int(n) for n in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    while shape[-1] == 1:
        shape.pop()
    return np.fromfile(path.with_suffix(".cfl"), dtype=np.complex64).reshape(shape, order="F")


def ecalib(kspace: NDArray[np.complex64], folder: Path, *options: str) -> tuple[NDArray, NDArray]:
    """ESPIRiT of ``(coils, ro, pe)``: maps ``(sets, coils, ro, pe)`` and eigenvalues ``(sets, ro, pe)``."""
    program = require_bart()
    write_cfl(folder / "kspace", np.moveaxis(kspace, 0, -1)[:, :, None, :])
    command = [program, "ecalib", *options, "kspace", "maps", "eigenvalues"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300, env=one_thread)
    ro, pe = kspace.shape[1:]
    maps = read_cfl(folder / "maps").reshape((ro, pe, 1, len(kspace), -1), order="F")
    values = read_cfl(folder / "eigenvalues").reshape((ro, pe, 1, 1, -1), order="F")
    return maps[:, :, 0].transpose(3, 2, 0, 1), values[:, :, 0, 0].transpose(2, 0, 1).real
