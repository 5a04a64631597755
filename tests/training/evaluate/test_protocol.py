"""The command from end to end; interrupted, changed, and with parts missing."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace

import matplotlib.image
import pytest
from distributed import LocalCluster

from pass_recon.bundles import load_bundle, save_bundle
from pass_recon.types import InputError
from pass_recon_cli.main import main
from training.data.manifest import FILE, read_manifest
from training.evaluate import protocol
from training.evaluate.measures import RecordFile, measure
from training.evaluate.protocol import evaluate
from training.evaluate.selection import SliceEntry

CLASSICAL = ("zero-filled", "population", "pass")


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    if request.function is not test_the_command_writes_everything:
        monkeypatch.setattr(protocol, "draw", lambda *_: [])


def counting(monkeypatch: pytest.MonkeyPatch, stop_after: int = 1 << 30) -> list[str]:
    """Count the slices measured; Ctrl-C after so many."""
    done: list[str] = []

    def counted(job):
        if len(done) == stop_after:
            raise KeyboardInterrupt
        done.append(job.key)
        return measure(job)

    monkeypatch.setattr(protocol, "measure", counted)
    return done


def test_the_command_writes_everything(ground, tmp_path, capsys):
    output = tmp_path / "results"
    published = save_bundle(load_bundle(ground.without_detector), tmp_path / "published")
    arguments = ["--data", str(ground.data), "--lesion-free", str(ground.lesion_free), "--published", str(published)]
    assert main(["evaluate", str(ground.bundle), *arguments, "-o", str(output), "--quick", "--workers", "1"]) == 0
    assert "results.md" in capsys.readouterr().out
    assert not list(output.glob(".*"))
    results = json.loads((output / "results.json").read_text())
    (group,) = results["groups"]
    assert list(group["methods"]) == ["zero-filled", "cg-sense", "l1-wavelet", "equispaced", "random", "population",
                                      "no-map", "pass", "published"]  # fmt: skip
    assert list(group["differences"]) == ["l1-wavelet", "equispaced", "population", "no-map", "published"]
    assert set(group["detection"]) == {"reconstruction", "acs_image"}
    assert {"from_population", "from_lesion_free", "between_patients"} < set(group["plans"])
    assert group["l1_weight"] == results["tuning"][0]["weight"]
    assert results["bundles"]["tiny"]["sha256"].keys() == load_bundle(ground.bundle).card["files"].keys()
    table = (output / "results.md").read_text()
    assert f"| **PASS** | {group['methods']['pass']['psnr']['mean']:.2f} [" in table
    assert set(results["published"]["sha256"]) == {"reconstructor.safetensors", "sampler.safetensors"}
    for name in results["figures"]:
        assert matplotlib.image.imread(output / name).std() > 0.01
    assert [name.split("_")[0] for name in results["figures"]] == ["bars", "example"]
    records = [json.loads(line) for line in (output / "records.jsonl").read_text().splitlines()]
    assert group["slices"] == len(records) == 2
    assert all(len(record["plans"]["personal"]["lines"]) == 18 for record in records)
    assert any(record["lesions"] and "lesion_free" in record["plans"] for record in records)


def test_interrupted_it_goes_on_and_comes_to_the_same(ground, tmp_path, monkeypatch):
    whole = evaluate(ground.settings(tmp_path / "whole", methods=CLASSICAL))
    settings = ground.settings(tmp_path / "parts", methods=CLASSICAL)
    first = counting(monkeypatch, stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings)
    path = tmp_path / "parts" / "records.jsonl"
    assert len(first) == len(path.read_text().splitlines()) == 3
    with path.open("a") as file:
        file.write('{"key": "cut off wh')  # as by a power cut
    second = counting(monkeypatch)
    parts = evaluate(settings)
    assert len(second) == whole["groups"][0]["slices"] - 3
    assert not set(first) & set(second)
    for name in CLASSICAL:
        assert parts["groups"][0]["methods"][name]["psnr"] == whole["groups"][0]["methods"][name]["psnr"]
    third = counting(monkeypatch)
    assert evaluate(settings)["groups"][0]["differences"] == whole["groups"][0]["differences"]
    assert third == []


def test_records_made_otherwise_are_not_mixed_in(ground, tmp_path, monkeypatch):
    bundle = save_bundle(load_bundle(ground.bundle), tmp_path / "bundle")
    output = tmp_path / "results"
    usual = ground.settings(output, bundles=(str(bundle),), methods=CLASSICAL, patients=1, slices=1)
    evaluate(usual)
    for changes in ({"noise": (0.02,)}, {"maps": "estimated"}, {"methods": ("zero-filled", "pass")}):
        done = counting(monkeypatch)
        assert evaluate(replace(usual, **changes))["groups"][0]["slices"] == len(done) == 1, changes
    other = load_bundle(bundle)
    other.reconstructor.denoiser_parameter.data += 0.5
    save_bundle(other, bundle, overwrite=True)
    done = counting(monkeypatch)
    changed = evaluate(usual)
    assert len(done) == 1
    assert changed["groups"][0]["slices"] == 1
    assert len((output / "records.jsonl").read_text().splitlines()) == 5
    # A card that only says more about the same weights changes nothing.
    card = json.loads((bundle / "card.json").read_text())
    (bundle / "card.json").write_text(json.dumps(card | {"notes": "as measured"}))
    done = counting(monkeypatch)
    assert evaluate(usual)["groups"] == changed["groups"]
    assert done == []


def test_what_is_missing_is_left_out_and_said(ground, tmp_path):
    settings = ground.settings(tmp_path, bundles=(str(ground.without_detector),), patients=1, slices=1, split="all")
    results = evaluate(
        replace(settings, methods=(*CLASSICAL, "no-map", "l1-wavelet", "published"), lesion_free=ground.data)
    )
    told = results["left_out"]["tiny"]
    assert set(told) == {"no-map", "published"}
    (group,) = results["groups"]
    assert list(group["methods"]) == ["zero-filled", "l1-wavelet", "population", "pass"]
    assert group["detection"] == {}
    assert "from_lesion_free" not in group["plans"]  # what has lesions itself is no lesion_free
    page = (tmp_path / "results.md").read_text()
    assert "without PASS without its map: the bundle has no detector" in page


def test_where_nobody_is_left_to_tune_on_l1_is_left_out(ground, tmp_path):
    settings = ground.settings(tmp_path, methods=("zero-filled", "l1-wavelet"), split="all", slices=1)
    results = evaluate(settings)
    assert "--tuning" in results["left_out"]["tiny"]["l1-wavelet"]
    assert list(results["groups"][0]["methods"]) == ["zero-filled"]
    assert results["groups"][0]["plans"]["from_population"]["mean"] > 0


def test_a_damaged_case_costs_that_case_alone(ground, tmp_path, monkeypatch):
    settings = ground.settings(tmp_path, methods=("zero-filled",), slices=1)
    cases = [case["name"] for case in read_manifest(ground.data)["cases"] if case["split"] == "test"]

    def failing(job):
        if job.entry.case == cases[0]:
            return measure(replace(job, entry=replace(job.entry, case="no such case"))) | {"key": job.key}
        return measure(job)

    monkeypatch.setattr(protocol, "measure", failing)
    results = evaluate(settings)
    assert len(results["failed"]) == 1
    assert "no such case" in results["failed"][0]["failed"]
    assert results["groups"][0]["slices"] == len(cases) - 1


def test_measured_cases_keep_their_noise(ground, tmp_path, bundle):
    usual = SliceEntry("d", "/d", "a", 0, "p", "f", False, 0)
    measured = replace(usual, case="b", measured=True)
    settings = ground.settings(tmp_path, noise=(0.005, 0.015))
    levels = protocol._Pairing(bundle, (usual, measured)).levels(settings)
    assert levels == {0.005: [usual], 0.015: [usual], None: [measured]}
    assert protocol._Pairing(bundle, (measured,)).levels(settings) == {None: [measured]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("nearest",)}, "no method nearest; there are zero-filled"),
        ({"split": "train"}, "data has no brain-flair case in its train split for tiny"),
    ],
)
def test_what_cannot_be_done_is_named(ground, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        evaluate(ground.settings(tmp_path, **changes))


def test_a_folder_that_is_no_dataset_is_named(ground, tmp_path):
    with pytest.raises(InputError, match=FILE):
        evaluate(ground.settings(tmp_path / "results", data=(tmp_path,)))


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"key": "a"}\nrubbish\n{"key": "b"}\n')
    with pytest.raises(InputError, match="line 2"):
        RecordFile(path)


@pytest.mark.parametrize("how", ["cluster", pytest.param("processes", marks=pytest.mark.slow)])
def test_done_elsewhere_it_comes_to_the_same(ground, tmp_path, how):
    settings = ground.settings(tmp_path / "here", methods=("zero-filled", "cg-sense"), patients=2, slices=1)
    here = evaluate(settings)["groups"][0]["methods"]
    elsewhere = replace(settings, output=tmp_path / "elsewhere", workers=2)
    with ExitStack() as stack:
        if how == "cluster":
            cluster = LocalCluster(
                n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0"
            )
            elsewhere = replace(elsewhere, scheduler=stack.enter_context(cluster).scheduler_address)
        there = evaluate(elsewhere)["groups"][0]["methods"]
    for name in here:
        assert here[name]["psnr"] == pytest.approx(there[name]["psnr"])
