"""The bundles that ship: all there, small enough, honest on their cards, and better than no training."""

from __future__ import annotations

import pytest
import torch

from pass_recon import Pipeline, load_bundle
from pass_recon.bundles import bundle_folder, shipped_bundles
from pass_recon.metrics import psnr
from pass_recon.phantom import simulate_patient
from pass_recon.sampling.budget import line_budget
from pass_recon.sampling.lines import acs_mask
from pass_recon.types import InputError

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
    assert (plan.score is None) == (source == "population"), "lines for everybody wait for no detector"
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


@pytest.mark.parametrize("examination", ["brain-flair", "brain-t1", "knee-pd"])
def test_more_lines_make_better_images_at_any_acceleration(examination):
    """The bundle's own lines at 4×, one order of lines at every other acceleration, each plan a part of the larger."""
    anatomy, contrast = examination.split("-")
    patient = simulate_patient(anatomy=anatomy, contrast=contrast, slices=1, coils=8, noise=0.005, seed=12)
    quality, plans = [], []
    for acceleration in (2.5, 5.0, 7.0):
        pipeline = Pipeline(f"{examination}-4x", acceleration=acceleration, anomaly=False)
        plans.append(pipeline.population_plan(320).lines)
        image = pipeline.reconstruct(patient.kspace[0], plans[-1]).image
        quality.append(psnr(image.numpy(), patient.image[0].numpy()))
        assert plans[-1].sum() == line_budget(320, acceleration)
    assert quality == sorted(quality, reverse=True)
    assert not (plans[2] & ~plans[1]).any()
    with pytest.raises(InputError, match="2× to 10×"):
        Pipeline(f"{examination}-4x", acceleration=11)


@pytest.mark.parametrize("examination", ["brain-flair", "brain-t1", "knee-pd"])
def test_a_vendor_s_equispaced_lines_are_reconstructed_better_than_by_cg_sense(examination):
    anatomy, contrast = examination.split("-")
    patient = simulate_patient(anatomy=anatomy, contrast=contrast, slices=1, coils=12, noise=0.005, seed=13)
    lines = (torch.arange(320) % 4 == 0) | acs_mask(320, 26)
    pipeline, truth = Pipeline(f"{examination}-4x", anomaly=False), patient.image[0].numpy()
    image = pipeline.reconstruct(patient.kspace[0], lines).image.numpy()
    classical = pipeline.classical(patient.kspace[0], lines).image.numpy()
    assert psnr(image, truth) > psnr(classical, truth) + 1
