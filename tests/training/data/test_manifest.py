"""Splits by patient and the cases picked for NetAD."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from pass_recon.types import InputError
from pass_recon_cli.main import main
from tests.training.conftest import ANNOTATED, NORMAL, SAME_PATIENT
from training.data.manifest import SplitSettings, assign_splits, read_manifest, write_manifest

PATIENTS = [f"patient-{number:04d}" for number in range(2000)]


def test_fractions_are_met():
    sizes = Counter(assign_splits(PATIENTS, SplitSettings((0.7, 0.2, 0.1))).values())
    assert sizes["train"] == pytest.approx(1400, abs=70)
    assert sizes["validation"] == pytest.approx(400, abs=60)
    assert sizes["test"] == pytest.approx(200, abs=50)


def test_adding_patients_moves_nobody():
    few, all_ = (assign_splits(names, SplitSettings()) for names in (PATIENTS[:300], PATIENTS))
    assert all(all_[name] == split for name, split in few.items())
    assert assign_splits(reversed(PATIENTS), SplitSettings()) == all_


def test_the_seed_decides():
    first, second = (assign_splits(PATIENTS, SplitSettings(seed=seed)) for seed in (0, 1))
    assert first != second


def test_no_split_is_empty_where_there_are_patients_enough():
    for count in (3, 4, 6):
        for seed in range(20):
            sizes = Counter(assign_splits(PATIENTS[:count], SplitSettings(seed=seed)).values())
            assert len(sizes) == 3, (count, seed, sizes)
    for name in PATIENTS[:20]:
        assert assign_splits([name], SplitSettings()) == {name: "train"}
    for seed in range(20):
        for sick in (PATIENTS[:1], PATIENTS[1:3]):
            splits = assign_splits(PATIENTS[:3], SplitSettings(seed=seed), None, sick)
            assert set(splits.values()) == {"train", "validation", "test"}
            assert any(splits[name] == "train" for name in sick)
    assert "test" not in assign_splits(PATIENTS[:50], SplitSettings((0.8, 0.2, 0.0))).values()


def test_known_assignments_stand():
    known = dict.fromkeys(PATIENTS[:5], "test")
    splits = assign_splits(PATIENTS[:20], SplitSettings(), known)
    assert all(splits[name] == "test" for name in known)


def test_fractions_must_add_up():
    with pytest.raises(InputError, match="add up to 1"):
        SplitSettings((0.8, 0.1, 0.2))


def test_one_patient_is_in_one_split(prepared):
    by_patient: dict[str, set[str]] = {}
    for case in prepared.manifest["cases"]:
        by_patient.setdefault(case["patient_id"], set()).add(case["split"])
    assert all(len(splits) == 1 for splits in by_patient.values())
    assert prepared.case(ANNOTATED.name)["patient_id"] == prepared.case(SAME_PATIENT.name)["patient_id"]
    assert len(by_patient) == 4
    assert set.union(*by_patient.values()) == {"train", "validation", "test"}


def test_each_anatomy_has_every_split(tmp_path):
    shape = ["--matrix", "32", "32", "--coils", "2", "--slices", "1", "--workers", "1"]
    for anatomy in ("brain", "knee"):
        arguments = ["train", "prepare", "--simulated", "4", "--anatomy", anatomy, *shape, "-o", str(tmp_path)]
        assert main(arguments) == 0
    cases = read_manifest(tmp_path)["cases"]
    found = {(case["anatomy"], case["split"]) for case in cases}
    assert len(cases) == 8
    assert len(found) == 6


def test_the_manifest_counts(prepared):
    case = prepared.case(ANNOTATED.name)
    assert (case["slices"], case["abnormal_slices"], case["normal_slices"]) == (2, 1, 0)
    assert case["boxes"] == {"Edema": 1}
    assert case["reviewed"]
    assert not prepared.case(SAME_PATIENT.name)["reviewed"]
    assert prepared.case(NORMAL.name)["normal_slices"] == 1
    assert "1  Edema" in prepared.said
    assert "4 rows, 4 labels" in prepared.said


def test_a_missing_or_damaged_manifest_is_named(tmp_path):
    with pytest.raises(InputError, match="not a prepared dataset"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path)


def test_the_manifest_can_be_made_again(prepared, tmp_path):
    before = prepared.manifest
    settings = SplitSettings(tuple(before["fractions"]), before["seed"])
    write_manifest(prepared.dataset, settings)
    assert json.dumps(prepared.manifest) == json.dumps(before)
