"""Cards say what the runs wrote down of their data, and nothing else."""

from __future__ import annotations

import json
import shutil

import pytest

from pass_recon import load_bundle
from training.bundles import make_bundles
from training.cards import UNSTATED
from training.data.manifest import training_facts
from training.engine.run_folder import DATA


@pytest.fixture
def copied(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs"


def made(runs, **given):
    folders = make_bundles(runs, runs / "bundles", **given)
    return {folder.name: load_bundle(folder).card for folder in folders}


def test_runs_write_down_what_they_learned_from(data, runs):
    facts = json.loads((runs / "sampling" / DATA).read_text(encoding="utf-8"))
    assert facts == training_facts([data])
    cases = json.loads((data / "manifest.json").read_text(encoding="utf-8"))["cases"]
    for row in facts:
        examination = row["examination"].split("-")
        own = [
            case for case in cases if [case["anatomy"], case["contrast"]] == examination and case["split"] == "train"
        ]
        assert row["slices"] == sum(case["slices"] for case in own)
        assert row["patients"] == len({case["patient_id"] for case in own})
        assert not row["measured"]


def test_the_data_of_a_card_are_those_of_the_runs(copied, data):
    card = made(copied)["brain-flair-4x"]
    assert card["data"] == [
        f"{data.name}: {row['examination']}, {row['patients']} patients, {row['slices']} slices, "
        f"{row['annotated']} cases with boxes, simulated patients and k-space, "
        f"pixels of {row['pixel_mm'][0]:.3g} mm, 48 lines"
        for row in training_facts([data])
    ]
    assert "Trained on simulated k-space only." in card["notes"]
    assert card["licence"] == UNSTATED
    told = made(copied, attribution=["whose"], licence="MIT")["brain-flair-4x"]
    assert told["data"][-1] == "whose"
    assert told["licence"] == "MIT"


def test_measured_data_are_called_measured(copied):
    rows = [
        {
            "dataset": "nyu",
            "examination": name,
            "source": "fastmri",
            "measured": True,
            "patients": 2,
            "slices": 9,
            "annotated": 1,
        }
        for name in ("brain-flair", "knee-pd")
    ]
    for run in ("reconstruction", "sampling"):
        (copied / run / DATA).write_text(json.dumps(rows), encoding="utf-8")
    card = made(copied)["knee-pd-8x"]
    assert card["data"][0] == "nyu: brain-flair, 2 patients, 9 slices, 1 cases with boxes, measured k-space (fastmri)"
    assert "Trained on measured k-space." in card["notes"]


def test_no_bundle_is_made_of_an_examination_without_data(copied):
    facts = json.loads((copied / "sampling" / DATA).read_text(encoding="utf-8"))
    brains = [row for row in facts if row["examination"] == "brain-flair"]
    (copied / "sampling" / DATA).write_text(json.dumps(brains), encoding="utf-8")
    assert sorted(made(copied)) == ["brain-flair-4x", "brain-flair-8x"]
