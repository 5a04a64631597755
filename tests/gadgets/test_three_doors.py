"""The same situations through the three doors: a file, the embedded server, and gadgets in processes of their own.

Whatever the door, the same images and the same sentences come out, and the exit codes are the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest
from ismrmrd import constants as flags

from gadgets.converters.image_file import read_images
from gadgets.mrd.dataset import dataset
from pass_recon_cli.configurations import packaged_configurations
from pass_recon_cli.local_server import write_configuration
from pass_recon_cli.main import main
from tests.gadgets.acquisitions import PE, header, kspace, lines_of, oversampled
from tests.gadgets.server.test_fire import resident
from tests.gadgets.server.tools import running_server

Lines = list[Any]


def two_slices() -> Lines:
    return [made for n in range(2) for made in lines_of(oversampled(kspace(seed=n)), slice=n)]


def with_a_stray_line() -> Lines:
    lines = two_slices()
    stray = next(lines_of(oversampled(kspace()), [3], mark=False, slice=7))
    return [*lines[:60], stray, *lines[60:]]


def with_a_line_of_nan() -> Lines:
    lines = two_slices()
    lines[10].data[2, 5] = np.nan
    return lines


def with_a_line_of_fewer_coils() -> Lines:
    lines = two_slices()
    lines[9:10] = lines_of(oversampled(kspace())[:3], [9], mark=False)
    return lines


def cut_short() -> Lines:
    return two_slices()[:-9]


def every_other_line() -> Lines:
    return list(lines_of(oversampled(kspace()), range(0, PE, 2)))


def noise_only() -> Lines:
    lines = list(lines_of(oversampled(kspace()), [0], mark=False))
    lines[0].set_flag(flags.ACQ_IS_NOISE_MEASUREMENT)
    return lines


SITUATIONS: dict[str, tuple[Callable[[], Lines], dict[str, Any], int]] = {
    # Name: lines, header, number of magnitude images.
    "two slices": (two_slices, {}, 2),
    "a stray line": (with_a_stray_line, {}, 3),
    "a line of NaN": (with_a_line_of_nan, {}, 2),
    "a line of fewer coils": (with_a_line_of_fewer_coils, {}, 2),
    "cut short": (cut_short, {}, 2),
    "every other line": (every_other_line, {}, 1),
    "fewer slices than told": (
        two_slices,
        {"extra_limits": "<slice><minimum>0</minimum><maximum>4</maximum><center>0</center></slice>"},
        2,
    ),
    "noise only": (noise_only, {}, 0),
    "three dimensions": (two_slices, {"z": 8}, 0),
}
PROCESSES = ("a stray line", "noise only")  # four processes each, which take seconds to start


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The embedded server, with the packaged configurations and one that leads to a resident process of ours."""
    folder = tmp_path_factory.mktemp("configurations")
    with resident() as gadget:
        write_configuration("pass_recon_resident.xml", folder, {}, gadget)
        with running_server(folder, packaged_configurations(), idle_seconds=1.0) as port:
            yield port


def write(path: Path, acquisitions: Lines, head: str) -> Path:
    with ismrmrd.File(str(path), "w") as file:
        file["dataset"].acquisitions = acquisitions
    with dataset(path, "dataset", "a") as file:
        file.write_xml_header(head.encode())
    return path


def outcome(capsys: pytest.CaptureFixture[str], out: Path, *arguments: str) -> tuple[int, set[str], list[Any]]:
    """Exit code, sentences on faults, and magnitude images."""
    code = main([arguments[0], "-q", *arguments[1:], "-o", str(out), "-G", "run"])
    said = set()
    for line in capsys.readouterr().err.splitlines():
        sentence = re.sub(r"^pass-recon( \w+)?: (\[[^]]*\] ERROR: )?", "", line)
        # A server may remove oversampling first, which spreads one NaN over its line.
        sentence = re.sub(r"holds \d+ values", "holds values", sentence)
        if not sentence.startswith("warning") and "not written" not in sentence:
            said.add(sentence)
    images = read_images(out, "run", 1) if out.exists() else []
    return code, said, sorted(images, key=lambda image: image.slice)


def compare(
    file: tuple[int, set[str], list[Any]], other: tuple[int, set[str], list[Any]], *, sentences: bool = True
) -> None:
    assert other[0] == file[0]
    if sentences:
        assert other[1] == file[1]
    assert [image.slice for image in other[2]] == [image.slice for image in file[2]]
    for one, two in zip(other[2], file[2], strict=True):
        np.testing.assert_array_equal(one.data, two.data)
        for name in ("PASS_lines_used", "PASS_bundle", "PASS_bundle_reason", "PASS_scale", "PASS_fallback"):
            assert one.meta.get(name) == two.meta.get(name)


@pytest.mark.parametrize("name", SITUATIONS)
def test_file_and_server_agree(name, server, tmp_path, capsys):
    lines, head, count = SITUATIONS[name]
    scan = str(write(tmp_path / "scan.h5", lines(), header(**head)))
    file = outcome(capsys, tmp_path / "file.h5", "recon", "-f", scan)
    assert len(file[2]) == count
    assert (file[0] == 0) == (name in ("two slices", "fewer slices than told"))
    assert bool(file[1]) == bool(file[0]), "an exit code without a sentence"
    where = ("-a", "127.0.0.1", "-p", str(server), "-c", "pass_recon_resident.xml", "-f", scan)
    # Behind the server a later stage may add that nothing reached it.
    compare(file, outcome(capsys, tmp_path / "server.h5", "scan", *where), sentences=count > 0)


@pytest.mark.parametrize("name", PROCESSES)
def test_gadgets_in_processes_agree(name, server, tmp_path, capsys):
    lines, head, count = SITUATIONS[name]
    scan = str(write(tmp_path / "scan.h5", lines(), header(**head)))
    file = outcome(capsys, tmp_path / "file.h5", "recon", "-f", scan)
    where = ("-a", "127.0.0.1", "-p", str(server), "-c", "pass_recon_plain.xml", "-f", scan)
    processes = outcome(capsys, tmp_path / "processes.h5", "scan", *where)
    compare(file, processes, sentences=count > 0)
    assert file[1] <= processes[1]
