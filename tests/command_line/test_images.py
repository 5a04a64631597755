"""`pass-recon report` and `pass-recon dicom`, from the file of a scan to what people see."""

from __future__ import annotations

import json
import subprocess
import sys

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


def test_report_tells_in_json(scanned, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert main(["report", scanned[1], "-o", str(page), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"file": str(page), "slices": 2, "findings": 0, "bytes": page.stat().st_size}


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


def test_recon_tells_in_json(scanned, tmp_path, capsys):
    out = str(tmp_path / "out.h5")
    assert main(["recon", "-f", scanned[0], "-o", out, "--bundle", "classical", "--json", "-G", "mine"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["file"], told["group"], told["images"]) == (out, "mine", 4)  # a plan and a magnitude a slice
    assert told["messages"] == []


class TestDicom:
    def test_files(self, scanned, tmp_path, capsys):
        pydicom = pytest.importorskip("pydicom")
        assert main(["dicom", scanned[1], "-o", str(tmp_path / "dicom"), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert [path.removeprefix(str(tmp_path)) for path in told["files"]] == [
            "/dicom/magnitude/0001.dcm", "/dicom/magnitude/0002.dcm", "/dicom/report/0001.dcm",
        ]  # fmt: skip
        image = pydicom.dcmread(told["files"][0])
        assert image.StudyInstanceUID == told["study"]
        assert (image.Rows, image.Columns, image.EchoTime, image.BodyPartExamined) == (80, 64, 90, "BRAIN")
        assert "CG-SENSE" in image.DerivationDescription
        assert main(["dicom", scanned[1], "-o", str(tmp_path / "dicom")]) == 0
        assert f"2 magnitude, 1 report; study {told['study']}" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            (["--send", "nowhere"], "HOST:PORT, got 'nowhere'"),
            (["--aec", "", "--send", "a:1"], "1 to 16 letters, got ''"),
        ],
    )
    def test_faults_are_sentences_before_anything_is_written(self, scanned, tmp_path, capsys, options, sentence):
        pytest.importorskip("pydicom")
        assert main(["dicom", scanned[1], "-o", str(tmp_path / "dicom"), *options]) == 1
        assert sentence in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_without_the_extra(self, scanned, tmp_path):
        script = (
            "import sys; sys.modules['pydicom'] = None\n"
            f"from pass_recon_cli.main import main; sys.exit(main(['dicom', {scanned[1]!r}]))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 1
        assert done.stderr == "pass-recon: DICOM needs pydicom: pip install 'pass-gadgetron[dicom]'\n"
