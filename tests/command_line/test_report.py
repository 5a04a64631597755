"""`pass-recon report` from the file of a scan to the page."""

from __future__ import annotations

import pytest

from pass_recon_cli.main import main


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """A simulated patient and the images of its scan, by the classical reconstruction, which is quick."""
    folder = tmp_path_factory.mktemp("scan")
    patient, images = str(folder / "patient.h5"), str(folder / "out.h5")
    options = ["--slices", "2", "--coils", "4", "--matrix", "64", "80"]
    assert main(["simulate", *options, "-o", patient]) == 0
    assert main(["recon", "-f", patient, "-o", images, "--bundle", "classical"]) == 0
    return patient, images


def test_page(scanned, tmp_path, capsys):
    patient, images = scanned
    page = tmp_path / "report.html"
    assert main(["report", images, "-o", str(page), "--truth", patient]) == 0
    assert "2 slices, 0 findings" in capsys.readouterr().out
    text = page.read_text()
    for told in ("brain_flair", "9000 ms", "3 T", "CG-SENSE", "property bundle", 'id="truth-1"', "No detector ran"):
        assert told in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["patient"], "patient.h5 holds no images; reconstruct it first, with pass-recon recon"),
        (["images", "-G", "x"], "has no images in a group 'x'"),
        (["images", "--truth", "images"], "out.h5 holds no ground truth"),
        (["images", "-o", "/nowhere/report.html"], "No such file or directory"),
    ],
)
def test_faults_are_sentences(scanned, tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    files = dict(zip(("patient", "images"), scanned, strict=True))
    assert main(["report", *(files.get(argument, argument) for argument in arguments)]) == 1
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
