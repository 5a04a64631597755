"""Names in files of others that hide, reverse or steer what stands beside them: on terminals, pages and in DICOM."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import h5py
import ismrmrd
import pytest

from gadgets.converters.image_file import ImageFile, read_images
from gadgets.converters.scan_record import read_scan
from pass_recon_cli.main import main
from pass_recon_cli.terminal import GREEN, painted, plain_output
from tests.gadgets.scans import patient_file

NASTY = "\u202eEVIL\u2066<script>alert(1)</script>\\^=\x9b31m\x85" + "x" * 3000
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of a scan whose every text is nasty, with more of them from a nasty server."""
    folder = tmp_path_factory.mktemp("nasty")
    path = patient_file(folder / "scan.h5", slices=1)
    with h5py.File(path, "a") as file:
        xml = file["dataset/xml"][0].decode()
        nasty = escape(NASTY)
        subject = (
            f"<subjectInformation><patientName>{nasty}</patientName><patientID>{nasty}</patientID></subjectInformation>"
            f"<studyInformation><studyDescription>{nasty}</studyDescription></studyInformation>"
        )
        xml = xml.replace("<measurementInformation>", f"{subject}<measurementInformation>", 1)
        xml = re.sub("<protocolName>[^<]*<", lambda _: f"<protocolName>{nasty}<", xml)
        del file["dataset/xml"]
        file["dataset"].create_dataset("xml", data=[xml.encode()], dtype=h5py.string_dtype())
    out = folder / "out.h5"
    assert main(["recon", "-f", str(path), "-o", str(out), "-G", "g", "-q", "--bundle", "classical"]) == 0
    again = ImageFile(out, "\u202eg2", xml.encode())
    for image in read_images(out, "g", 1):
        # `meta` keeps the dictionary that it is given, and attributes written in XML cannot hold NUL.
        image.meta = {**image.meta, "PASS_fallback": NASTY, "PASS_bundle_reason": NASTY, "PASS_quality": ["a", NASTY]}
        again.append(ismrmrd.Image.from_array(image.data, version=1) if not image.meta else image)
    again.describe(NASTY.replace("/", ""), {NASTY: NASTY}, [NASTY])
    again.keep()
    return out


@pytest.mark.parametrize("group", ["g", "\u202eg2"])
def test_no_text_of_a_record_steers(images: Path, group: str) -> None:
    record = read_scan(images, group=group)
    texts = list(texts_of(replace(record, header=b"")))
    assert any("EVIL" in text for text in texts)
    assert not [text for text in texts if STEERING.search(text) or len(text) > 1001]


def texts_of(value: Any) -> Iterator[str]:
    """All strings in dataclasses, tuples and dicts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for text in texts_of(pair))
    elif isinstance(value, tuple):
        yield from (text for item in value for text in texts_of(item))
    elif is_dataclass(value):
        yield from (text for field in fields(value) for text in texts_of(getattr(value, field.name)))


@pytest.mark.parametrize("group", ["g", "\u202eg2"])
def test_nothing_steers_in_a_report(images: Path, group: str, tmp_path: Path) -> None:
    assert main(["report", str(images), "-G", group, "-o", str(tmp_path / "page.html"), "-q"]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "EVIL" in page
    assert not STEERING.search(page)
    assert "<script>alert" not in page
    assert not re.search(r"\\u20(2|6)[0-9a-e]", page)


@pytest.mark.parametrize("group", ["g", "\u202eg2"])
def test_nothing_steers_in_dicom(images: Path, group: str, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    assert main(["dicom", str(images), "-G", group, "-o", str(tmp_path / "out"), "--keep-identity", "-q"]) == 0
    files = list((tmp_path / "out").rglob("*.dcm"))
    assert files
    for path in files:
        data = pydicom.dcmread(path)
        for element in data.iterall():
            if element.VR not in ("OB", "OW", "OF", "SQ", "UN"):
                assert not STEERING.search(str(element.value)), element


def test_what_a_command_says_steers_no_terminal(
    images: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for command in (
        ["report", str(images), "-G", "none", "-o", str(tmp_path / "page.html")],
        ["report", str(images), "--json", "-o", str(tmp_path / "page.html")],
        ["recon", "-f", str(images), "-o", str(tmp_path / "out.h5")],
        ["recon", "-f", str(images.with_name("scan.h5")), "-o", str(tmp_path / "\x1b]0;owned\x07.h5")],
        ["bundle", "show", "\x1b[2J\u202e"],
    ):
        main(command)
        said = capsys.readouterr()
        assert said.out + said.err
        assert not STEERING.search((said.out + said.err).replace("\r", "")), command


def test_our_own_colours_stay(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with plain_output():
        sys.stdout.write(painted("fine\x1b[8m hidden", GREEN, sys.stdout) + "\n")
    assert capsys.readouterr().out == "\x1b[32mfine�[8m hidden\x1b[0m\n"
