"""The bundles that ship: all there, small enough, honest on their cards, and better than no training."""

from __future__ import annotations

import pytest

from pass_recon import Pipeline, load_bundle
from pass_recon.bundles import bundle_folder, shipped_bundles
from pass_recon.metrics import psnr
from pass_recon.phantom import simulate_patient
from pass_recon.sampling.budget import line_budget

NAMES = [f"{kind}-{rate}x" for kind in ("brain-flair", "brain-t1", "knee-pd") for rate in (4, 8)]


def test_six_bundles_ship_in_thirty_megabytes():
    assert sorted(shipped_bundles()) == sorted(NAMES)
    files = [path for path in bundle_folder(NAMES[0]).parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30e6


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_the_weights_were_trained_on_and_are_not_for(name):
    card = load_bundle(name).card
    assert "not for clinical use" in card["notes"]
    assert "CC-BY" in card["licence"]
    assert any("simulated patients" in line for line in card["data"])
    assert card["recipe"]["trained_with"]["recipe"]
    assert card["name"] == name
    made = [told for run, told in card["recipe"].items() if run != "trained_with"]
    assert made
    assert not [told for told in made if "/" in told], "where a run lay is private"


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_read_in_a_minute(name):
    assert len((bundle_folder(name) / "card.json").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize(
    ("name", "anatomy", "contrast", "source"),
    [
        ("brain-t1-4x", "brain", "t1", "population"),
        ("brain-flair-4x", "brain", "flair", "personal"),
        ("brain-flair-8x", "brain", "flair", "population"),
        ("knee-pd-8x", "knee", "pd", "population"),
    ],
)
def test_a_bundle_plans_its_budget_and_beats_cg_sense_of_the_same_lines(name, anatomy, contrast, source):
    patient = simulate_patient(
        anatomy=anatomy, contrast=contrast, lesions=2, coils=12, slices=1, shape=(320, 320), noise=0.005, seed=4711
    )
    pipeline, kspace = Pipeline(name), patient.kspace[0]
    lines = pipeline.acs(320)
    plan = pipeline.plan(kspace[..., lines], lines, (320, 320))
    assert plan.source == source
    assert plan.score is not None
    assert int(plan.lines.sum()) == line_budget(320, pipeline.acceleration)
    truth = patient.image[0].numpy()
    ours = psnr(pipeline.reconstruct(kspace, plan.lines).image.numpy(), truth)
    classical = psnr(pipeline.classical(kspace, plan.lines).image.numpy(), truth)
    assert ours > classical + 1.5, f"{ours:.2f} dB, CG-SENSE {classical:.2f} dB"


def test_plans_differ_between_patients():
    pipeline, plans = Pipeline("brain-flair-4x"), set()
    lines = pipeline.acs(320)
    for seed in range(4):
        patient = simulate_patient(contrast="flair", coils=6, slices=1, shape=(320, 320), noise=0.005, seed=seed)
        plans.add(pipeline.plan(patient.kspace[0][..., lines], lines, (320, 320)).order)
    assert len(plans) > 1
