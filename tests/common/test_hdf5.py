"""HDF5 files that lead elsewhere, or ask for more memory than they can fill; and disks without room."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pass_recon.common.hdf5 import make_room, open_hdf5
from pass_recon.types import InputError


def _external_link(file: h5py.File, secret: Path) -> None:
    file["deep/er/scan"] = h5py.ExternalLink(str(secret), "/")


def _external_data(file: h5py.File, secret: Path) -> None:
    file.create_dataset("a/xml", (1,), dtype="S10", external=[(str(secret), 0, 10)])


def _virtual(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((4,), np.float32)
    layout[:] = h5py.VirtualSource(str(secret), "it", (4,))
    file.create_virtual_dataset("a/data", layout)


def _large_chunk(file: h5py.File, secret: Path) -> None:
    file.create_dataset("data", (1,), np.uint8, maxshape=(None,), chunks=(1 << 30,), compression="gzip")


def _large_text(file: h5py.File, secret: Path) -> None:
    file.create_dataset("xml", (1,), dtype="S1000000000")


def _never_written(file: h5py.File, secret: Path) -> None:
    file.create_dataset("data", (1 << 40,), np.complex64)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_external_link, "'deep/er/scan' is a link to another file"),
        (_external_data, "the data of 'a/xml' lie in another file"),
        (_virtual, "the data of 'a/data' lie in another file"),
        (_large_chunk, "'data' can only be read in pieces of 1073741824 bytes"),
        (_large_text, "'xml' can only be read in pieces of 1000000000 bytes"),
        (_never_written, "'data' declares 8796093022208 bytes and holds 0"),
    ],
)
def test_what_is_refused_before_it_is_read(
    tmp_path: Path, make: Callable[[h5py.File, Path], None], sentence: str
) -> None:
    secret = tmp_path / "secret"
    with h5py.File(secret, "w") as file:
        file["it"] = np.ones(4, np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file, secret)
    with pytest.raises(InputError, match=r"a\.h5 is refused") as refused:
        open_hdf5(tmp_path / "a.h5", "a scan")
    assert sentence in str(refused.value)


def test_links_within_a_file_are_fine(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["it"] = np.ones(4)
        file["soft"], file["loop"], file["hard"] = h5py.SoftLink("/it"), h5py.SoftLink("/loop"), file["it"]
        file["group/itself"] = file
    with open_hdf5(tmp_path / "a.h5", "a scan") as file:
        assert file["soft"][0] == 1


def test_room_that_is_not_used_is_given_back(tmp_path: Path) -> None:
    for _ in range(2):  # a file that is there keeps what it holds
        make_room(tmp_path / "a.h5", 10 << 20)
        assert (tmp_path / "a.h5").stat().st_size > 10 << 20
        with h5py.File(tmp_path / "a.h5", "a") as file:
            file.require_dataset("it", (4,), np.float32)[:] = 1
        assert (tmp_path / "a.h5").stat().st_size < 10_000


def test_a_full_disk_is_one_sentence_and_no_crash(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pass_recon_cli.main", "simulate", "-o", str(tmp_path / "p.h5"), "--slices", "1"]
    command += ["--matrix", "48", "64", "--coils", "2"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.returncode == 1
    assert done.stderr == f"pass-recon: no room for 509 kB in {tmp_path}: File too large\n"
    assert not list(tmp_path.iterdir())
