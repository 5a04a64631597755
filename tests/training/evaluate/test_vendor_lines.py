"""Vendors' lines: which they are, measured k-space from a file, and the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pass_recon.bundles import load_bundle
from pass_recon.pipeline import Pipeline
from pass_recon.types import InputError
from pass_recon_cli.main import main
from training.evaluate.measures import read_slice
from training.evaluate.selection import slice_entries
from training.evaluate.vendor_lines import read_cfl, vendor_lines


def test_lines_are_every_rth_through_the_centre_and_the_acs():
    lines = vendor_lines(90, 4, 10)
    assert lines[45]
    assert lines[40:50].all()
    outside = torch.cat([lines[:40], lines[50:]]).nonzero().flatten()
    assert len(outside) == 20
    assert int(lines.sum()) == 30
    with pytest.raises(InputError, match=r"whole R, got 2\.5"):
        vendor_lines(90, 2.5, 10)


@pytest.fixture
def kspace(ground):
    (entry, *_) = slice_entries(ground.data, "data", "brain-flair", slices=1)
    return read_slice(entry).kspace(noise=0.001, fixed=True).numpy()


def write_cfl(stem, kspace):
    coils, ro, pe = kspace.shape
    stem.with_suffix(".hdr").write_text(f"# Dimensions\n1 {ro} {pe} {coils} 1\n")
    kspace.transpose(1, 2, 0).ravel(order="F").astype(np.complex64).tofile(stem.with_suffix(".cfl"))
    return stem.with_suffix(".cfl")


def test_measured_kspace_is_read_in_its_order(kspace, tmp_path):
    np.testing.assert_array_equal(read_cfl(write_cfl(tmp_path / "slice", kspace)), kspace)
    (tmp_path / "slice.hdr").write_text("# Dimensions\n1 64 72 5\n")
    with pytest.raises(InputError, match="must hold 1 × readout"):
        read_cfl(tmp_path / "slice.cfl")
    with pytest.raises(InputError, match="no k-space in BART's form"):
        read_cfl(tmp_path / "none.cfl")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_command_on_measured_kspace(ground, kspace, tmp_path):
    bundle = ground.bundle
    path = write_cfl(tmp_path / "slice", kspace)
    command = ["evaluate", str(bundle), "--vendor-lines", "4", "--acs", "16", "-o", str(tmp_path / "out")]
    assert main([*command, "--cfl", str(path)]) == 0
    results = json.loads((tmp_path / "out" / "vendor_lines.json").read_text())
    vendors, own = results["rows"]
    assert (vendors["lines"], own["lines"], own["count"]) == ("equispaced", "own", 18)
    assert own["psnr"].get("grappa") is None
    assert vendors["psnr"]["cg-sense"]["mean"] > 25
    # The same by hand: against CG-SENSE of all lines, scaled.
    pipeline, everything = Pipeline(load_bundle(bundle), acceleration=4), torch.ones(72, dtype=torch.bool)
    truth, image = (
        pipeline.classical(kspace, lines).image.abs().double().numpy()
        for lines in (everything, vendor_lines(72, 4, 16))
    )
    image *= (image * truth).sum() / (image**2).sum()
    expected = 20 * np.log10(truth.max() / np.sqrt(np.mean((image - truth) ** 2)))
    assert vendors["psnr"]["cg-sense"]["mean"] == pytest.approx(expected, abs=0.02)
    assert "| equispaced | 4 |" in (tmp_path / "out" / "vendor_lines.md").read_text()


def test_command_on_prepared_data(ground, tmp_path):
    command = ["evaluate", str(ground.bundle), "--vendor-lines", "4", "--acs", "16", "-o", str(tmp_path / "out")]
    assert main([*command, "--data", str(ground.data), "--slices", "1", "--methods", "pass", "cg-sense"]) == 0
    rows = json.loads((tmp_path / "out" / "vendor_lines.json").read_text())["rows"]
    assert all(row["psnr"]["pass"]["patients"] > 1 for row in rows)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--vendor-lines", "4"], "either datasets or one measured k-space"),
        (["--vendor-lines", "4", "--methods", "sense", "--cfl", "x"], "there is no method sense here"),
        (["--vendor-lines", "0.5", "--cfl", "x"], "R must be at least 1"),
        ([], "at least one bundle and one dataset"),
    ],
)
def test_impossible_settings_are_a_sentence(ground, tmp_path, capsys, options, sentence):
    assert main(["evaluate", str(ground.bundle), "-o", str(tmp_path / "out"), *options]) != 0
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
