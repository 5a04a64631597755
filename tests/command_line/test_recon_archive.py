"""`pass-recon recon` on the files of an archive: here, in several processes, and on a Dask cluster."""

from __future__ import annotations

import json
from contextlib import ExitStack

import numpy as np
import pytest
from distributed import LocalCluster

from gadgets.converters.image_file import read_images
from pass_recon_cli.main import main
from tests.gadgets.scans import patient_file


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    for seed in (1, 2):
        patient_file(folder / f"patient_{seed}.h5", seed=seed)
    return folder


def pixels(path):
    return np.stack([image.data.astype(float) for image in read_images(path, "run", 1)])


@pytest.mark.parametrize("how", ["here", "cluster", pytest.param("processes", marks=pytest.mark.slow)])
def test_each_file_has_the_images_that_it_has_alone(archive, tmp_path, how):
    files = sorted(map(str, archive.glob("*.h5")))
    options = ["-G", "run", "-q", "--bundle", "classical"]
    assert main(["recon", "-f", files[0], "-o", str(tmp_path / "alone.h5"), *options]) == 0
    with ExitStack() as stack:
        if how == "cluster":
            cluster = LocalCluster(
                n_workers=2,
                threads_per_worker=1,
                processes=False,
                protocol="tcp://",
                dashboard_address="127.0.0.1:0",
            )
            options += ["--dask", stack.enter_context(cluster).scheduler_address]
        options += ["--workers", "2"] if how == "processes" else []
        assert main(["recon", *files, "-o", str(tmp_path / "images"), *options]) == 0
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["patient_1.h5", "patient_2.h5"]
    first, second = (pixels(tmp_path / "images" / f"patient_{seed}.h5") for seed in (1, 2))
    np.testing.assert_allclose(first, pixels(tmp_path / "alone.h5"), rtol=1e-4, atol=2)  # steps of the file's integers
    assert not np.allclose(first, second, rtol=0.1)


def test_a_rotten_file_costs_no_other_its_images(archive, tmp_path, capsys):
    rotten = tmp_path / "rotten.h5"
    rotten.write_text("no HDF5")
    files = [str(rotten), str(archive / "patient_1.h5")]
    assert main(["recon", *files, "-o", str(tmp_path / "images"), "--bundle", "classical", "--json"]) == 1
    told = {entry["source"].rpartition("/")[2]: entry for entry in json.loads(capsys.readouterr().out)}
    assert told["patient_1.h5"]["images"] > 0
    assert told["rotten.h5"]["file"] is None
    assert "not HDF5" in told["rotten.h5"]["messages"][0]["message"]
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["patient_1.h5"]


def test_files_of_one_name_are_refused_before_anything_is_made(archive, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    files = [str(archive / "patient_1.h5"), str(tmp_path / "other" / "patient_1.h5")]
    assert main(["recon", *files, "-o", str(tmp_path / "images")]) == 1
    assert "their names must differ" in capsys.readouterr().err
    assert not (tmp_path / "images").exists()


def test_an_archive_does_not_overwrite_itself(archive, capsys):
    assert main(["recon", str(archive / "patient_1.h5"), "-o", str(archive)]) == 1
    assert "would take its place" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["-f", "a.h5", "b.h5"], ["-f", "a.h5", "--dask", "tcp://127.0.0.1:1"]])
def test_what_does_not_go_together_is_said(arguments, capsys):
    assert main(["recon", *arguments]) == 1
    assert "archive" in capsys.readouterr().err


def test_one_file_does_not_overwrite_itself(archive, capsys):
    path = str(archive / "patient_1.h5")
    assert main(["recon", "-f", path, "-o", path]) == 1
    assert "must go to another file" in capsys.readouterr().err


def test_a_file_is_no_folder_for_images(archive, tmp_path, capsys):
    (tmp_path / "images").write_text("")
    assert main(["recon", str(archive / "patient_1.h5"), "-o", str(tmp_path / "images")]) == 1
    assert "names a folder" in capsys.readouterr().err
