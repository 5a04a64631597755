"""The report as text: what is in it, and what must never be."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from pass_recon.report.html import write_report
from pass_recon.report.scan import PlanRecord, RoundRecord, ScanRecord
from tests.report.scans import ACS, HOSTILE, PE, RO, scan_record, slice_record


def page(tmp_path, scan: ScanRecord) -> str:
    write_report(tmp_path / "report.html", scan)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_one_file_that_names_no_other(tmp_path):
    text = page(tmp_path, scan_record())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    linked = re.findall(r"""(?:src|href)=["']([^"']*)""", text)
    assert linked
    assert all(link.startswith(("data:", "#")) for link in linked)
    assert "http://" not in text
    assert "https://" not in text
    assert "default-src 'none'" in text


def test_what_a_header_says_is_never_markup(tmp_path):
    scan = scan_record()
    assert scan.protocol is not None
    finding = replace(scan.slices[0].findings[0], label=HOSTILE)
    hostile = replace(
        scan,
        protocol=replace(scan.protocol, name=HOSTILE, vendor=HOSTILE),
        slices=(replace(scan.slices[0], findings=(finding,), warnings=(HOSTILE,), method=HOSTILE), *scan.slices[1:]),
        source={"file": HOSTILE, HOSTILE: "x"},
        messages=(HOSTILE,),
    )
    text = page(tmp_path, hostile)
    assert "<script>window.hacked" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;window.hacked" in text


def test_nobody_is_named(tmp_path):
    text = page(tmp_path, scan_record())
    for told in ("Doe", "Jane", "4711", "19700102", "20250131"):
        assert told not in text


def test_both_rounds_are_told(tmp_path):
    one = slice_record()
    second = PlanRecord(2, (70, 71, 73), PE, ACS, "personal", "brain-flair-4x", 3.0)
    rounds = (*one.rounds, RoundRecord(2, "29 of 120", 0.95, 2))
    text = page(tmp_path, scan_record(slices=(replace(one, plans=(*one.plans, second), rounds=rounds),)))
    assert "second look, 3" in text
    assert "the image shown is that of round 2" in text
    assert text.count('class="round-2"') == 3
    assert text.count('class="acs"') == len(ACS)


def test_warnings_say_of_which_slices(tmp_path):
    slices = [slice_record(0), slice_record(1, warnings=("It is late.",)), slice_record(2, warnings=("It is late.",))]
    text = page(tmp_path, scan_record(slices=tuple(slices), messages=("the coil is off",)))
    assert re.search(r"It is late\.\s*<span class=\"faint\">slice 1, slice 2</span>", text)
    assert "the coil is off" in text
    assert "None: nothing was found wrong" in page(tmp_path, scan_record())


@pytest.mark.parametrize(
    "changes",
    [
        {"anomaly_map": None, "findings": (), "score": None},
        {"plans": (), "rounds": (), "seconds": {}},
        {"levels": np.zeros((RO, PE), np.uint16), "window": 1},
        {"truth": np.full((RO, PE), 900.0, np.float32)},
        {"levels": np.ones((7, 5), np.uint16), "anomaly_map": None, "findings": ()},
    ],
)
def test_slices_that_lack_something(tmp_path, changes):
    text = page(tmp_path, scan_record(slices=(slice_record(**changes),)))
    assert "1 slice\n" not in text
    assert "1 slice" in text


def test_a_file_with_nothing_but_images(tmp_path):
    bare = slice_record(plans=(), rounds=(), seconds={}, anomaly_map=None, findings=(), score=None, method="")
    text = page(tmp_path, ScanRecord(slices=(bare,)))
    assert "Unnamed scan" in text
    assert "No detector ran" in text


def test_two_hundred_slices(tmp_path):
    slices = tuple(slice_record(number, 200) for number in range(200))
    text = page(tmp_path, scan_record(slices=slices))
    assert text.count('id="magnitude-') == 200
    assert len(text) < 20e6
