"""The public surface: plans and reconstructions, classical and with networks, one by one and in batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pass_recon import Pipeline, metrics
from pass_recon.anomaly import BackboneConfiguration, NetAD
from pass_recon.phantom import simulate_patient
from pass_recon.preparation import acs_maps
from pass_recon.sampling.lines import acs_count, acs_mask, line_budget
from pass_recon.types import BundleError, InputError
from tests.networks import TINY_BACKBONE, tiny_bundle

SHAPE = (96, 90)


@pytest.fixture(scope="module")
def patient():
    return simulate_patient(anatomy="brain", contrast="flair", slices=2, coils=6, shape=SHAPE, noise=0.003, seed=5)


class _Opinionated(torch.nn.Module):
    """An AS network whose logits depend strongly on the image, which those of random weights do not."""

    def forward(self, acs_image, anomaly_map, population):
        mixing = torch.randn(acs_image.shape[-2], acs_image.shape[-1], generator=torch.Generator().manual_seed(2))
        return 100 * acs_image.abs().mean(-1) @ mixing


@pytest.fixture(scope="module")
def bundle():
    bundle = tiny_bundle(NetAD.build(TINY_BACKBONE, anatomy="brain"))
    bundle.sampler.personal = _Opinionated()
    return bundle


@pytest.fixture(scope="module", params=["classical", "networks"])
def pipeline(request):
    return Pipeline(request.getfixturevalue("bundle") if request.param == "networks" else None)


def _acs(pipeline, patient, index=0):
    lines = pipeline.acs(SHAPE[1])
    return patient.kspace[index][..., lines], lines


def test_a_plan_keeps_the_budget_and_the_acs(pipeline, patient):
    acs, lines = _acs(pipeline, patient)
    plan = pipeline.plan(acs, lines, SHAPE)
    assert plan.lines.sum() == line_budget(90, 4)
    assert plan.lines[lines].all()
    assert plan.order[: int(lines.sum())] == tuple(lines.nonzero().flatten().tolist())
    assert plan.source == ("population" if pipeline.bundle is None else "personal")


def test_lines_may_be_told_by_mask_or_by_index_and_arrays_be_numpy(pipeline, patient):
    acs, lines = _acs(pipeline, patient)
    by_mask = pipeline.plan(acs, lines, SHAPE)
    by_index = pipeline.plan(acs.numpy(), lines.nonzero().flatten().tolist(), SHAPE)
    assert torch.equal(by_mask.lines, by_index.lines)


def test_personal_plans_differ_between_patients_and_from_the_population(bundle, patient):
    pipeline = Pipeline(bundle)
    other = simulate_patient(anatomy="brain", contrast="t1", slices=1, coils=6, shape=SHAPE, noise=0.003, seed=6)
    plans = [pipeline.plan(*_acs(pipeline, each), SHAPE) for each in (patient, other)]
    assert not torch.equal(plans[0].lines, plans[1].lines)
    assert not torch.equal(plans[0].lines, pipeline.population_plan(90).lines)
    assert plans[0].score is not None
    assert plans[0].anomaly_map.shape == SHAPE


def test_without_an_as_network_the_plan_is_everybodys_and_no_detector_is_waited_for(patient):
    bundle = tiny_bundle(NetAD.build(TINY_BACKBONE, anatomy="brain"))
    bundle.sampler.personal = None
    pipeline = Pipeline(bundle)
    acs, lines = _acs(pipeline, patient)
    plan = pipeline.plan(acs, lines, SHAPE)
    assert plan.source == "population"
    assert plan.fallback is None
    assert torch.equal(plan.lines, pipeline.population_plan(90).lines)
    assert plan.score is None
    assert "detection" not in plan.seconds
    assert Pipeline(bundle, anomaly=False).plan(acs, lines, SHAPE).score is None


def test_a_plan_does_not_depend_on_the_unit_of_the_signal(bundle, patient):
    pipeline = Pipeline(bundle)
    acs, lines = _acs(pipeline, patient)
    assert torch.equal(pipeline.plan(acs, lines, SHAPE).lines, pipeline.plan(acs * 4096, lines, SHAPE).lines)


def test_a_batch_gives_what_its_slices_give_one_by_one(pipeline, patient):
    lines = pipeline.population_plan(90).lines
    batch = pipeline.reconstruct(patient.kspace, lines)
    for index in range(2):
        one = pipeline.reconstruct(patient.kspace[index], lines)
        assert torch.allclose(one.image, batch.image[index], atol=1e-5 * float(one.image.abs().max()))
        if pipeline.bundle is not None:
            assert torch.allclose(one.anomaly_map, batch.anomaly_map[index], atol=1e-5)
            assert one.score[0] == pytest.approx(batch.score[index], abs=1e-5)


def test_an_image_has_the_units_of_its_k_space(pipeline, patient):
    lines = pipeline.population_plan(90).lines
    image = pipeline.reconstruct(patient.kspace[0], lines).image
    brighter = pipeline.reconstruct(1000 * patient.kspace[0], lines).image
    assert torch.allclose(brighter, 1000 * image, rtol=1e-3, atol=float(1e-3 * brighter.abs().max()))


def test_bfloat16_changes_the_image_less_than_noise_does(patient):
    lines = Pipeline("brain-flair-4x").population_plan(90).lines
    exact, rounded = (
        Pipeline("brain-flair-4x", precision=precision).reconstruct(patient.kspace[0], lines).image
        for precision in ("float32", "bfloat16")
    )
    apart = float((rounded - exact).norm() / exact.norm())
    assert 0 < apart < 3e-3


def test_unplanned_lines_change_nothing(pipeline, patient):
    lines = pipeline.population_plan(90).lines
    noise = torch.randn_like(patient.kspace[0]) * ~lines
    image = pipeline.reconstruct(patient.kspace[0], lines).image
    assert torch.equal(pipeline.reconstruct(patient.kspace[0] + noise, lines).image, image)


def test_everything_sampled_gives_the_truth_classically(patient):
    image = Pipeline().reconstruct(patient.kspace, torch.ones(90, dtype=torch.bool)).image
    inside = patient.image.abs() > 0.05
    error = (image.abs() - patient.image.abs())[inside]
    assert error.square().mean().sqrt() < 0.01


def test_separate_calibration_is_used(patient):
    lines = torch.zeros(90, dtype=torch.bool)
    lines[::2] = True
    calibration = patient.kspace[0] * Pipeline(acceleration=2).acs(90)
    without = Pipeline(acceleration=2).reconstruct(patient.kspace[0], lines)
    assert "no coil maps" in without.fallback
    image = Pipeline(acceleration=2).reconstruct(patient.kspace[0], lines, calibration=calibration).image
    assert metrics.psnr(image, patient.image[0]) > metrics.psnr(without.image, patient.image[0]) + 6


def test_intermediate_results_are_there_when_asked_for(bundle, patient):
    lines = Pipeline(bundle).population_plan(90).lines
    result = Pipeline(bundle).reconstruct(patient.kspace[0], lines, intermediates=True)
    assert {name: tuple(value.shape) for name, value in result.intermediates.items()} == {
        "coil_maps": (1, 6, *SHAPE),
        "x": (2, 1, *SHAPE),
        "x_global": (2, 1, *SHAPE),
        "map": (2, 1, *SHAPE),
    }
    assert torch.equal(result.intermediates["x"][-1, 0], result.image)


def test_switched_off_detector_leaves_no_trace(bundle, patient):
    pipeline = Pipeline(bundle, anomaly=False)
    result = pipeline.reconstruct(patient.kspace[0], pipeline.population_plan(90).lines)
    assert result.anomaly_map is None
    assert result.score == ()
    assert pipeline.plan(*_acs(pipeline, patient), SHAPE).score is None


def test_an_empty_slice_gives_an_empty_image(patient):
    result = Pipeline().reconstruct(torch.zeros_like(patient.kspace[0]), Pipeline().population_plan(90).lines)
    assert not result.image.any()


def test_bad_input_is_named(bundle, patient):
    with pytest.raises(InputError, match="precision must be one of auto, float32, bfloat16, got 'half'"):
        Pipeline(bundle, precision="half")
    pipeline, lines = Pipeline(bundle), torch.ones(90, dtype=torch.bool)
    broken = patient.kspace[0].clone()
    broken[0, 3, 45] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        pipeline.reconstruct(broken, lines)
    with pytest.raises(InputError, match=r"bool of shape \(90,\)"):
        pipeline.reconstruct(patient.kspace[0], np.ones(90))
    with pytest.raises(InputError, match="at least 4"):
        pipeline.reconstruct(patient.kspace[0], torch.arange(90) % 2 == 0)
    with pytest.raises(InputError, match="do not lie within 90"):
        pipeline.plan(patient.kspace[0][..., :2], [89, 90], SHAPE)
    with pytest.raises(InputError, match="is for 4×, but 8× was asked for"):
        Pipeline(bundle, acceleration=8)
    with pytest.raises(BundleError, match="no bundle 'brain-t9'"):
        Pipeline("brain-t9")


@pytest.mark.slow
def test_the_paper_s_clip_runs_through_the_whole_pipeline():
    """A user with OpenAI's weights needs only ``pretrained="openai"`` instead of random ones."""
    patient = simulate_patient(anatomy="brain", contrast="t1", slices=1, coils=4, shape=(320, 320), seed=3)
    backbone = BackboneConfiguration(name="ViT-L-14-336", pretrained="random", image_size=(322, 322))
    pipeline = Pipeline(tiny_bundle(NetAD.build(backbone, anatomy="brain"), trained=False))
    lines = pipeline.acs(320)
    plan = pipeline.plan(patient.kspace[0][..., lines], lines, (320, 320))
    result = pipeline.reconstruct(patient.kspace[0], plan.lines)
    assert plan.source == "personal"
    assert plan.lines.sum() == 80
    assert result.anomaly_map.shape == (320, 320)
    assert metrics.psnr(result.image, patient.image[0]) > 20


@pytest.mark.parametrize(("anatomy", "contrast"), [("brain", "flair"), ("knee", "pd")])
@pytest.mark.parametrize("acceleration", [4, 8])
def test_maps_of_the_acs_keep_all_tissue_and_explain_its_signal(anatomy, contrast, acceleration):
    # ESPIRiT's usual settings lose 2 % of this knee and explain 94 % of its signal; a crop of 0.8 at a threshold of
    # 0.05 loses a part of this head.
    patient = simulate_patient(anatomy=anatomy, contrast=contrast, slices=1, coils=12, noise=0.005, seed=0)
    image, coil_images = patient.image[0], patient.coil_maps[0] * patient.image[0]
    acs = acs_mask(image.shape[-1], acs_count(image.shape[-1], 0.32 / acceleration))
    maps = acs_maps(patient.kspace[0] * acs, int(acs.sum()))
    tissue = image.abs() > 0.1 * image.abs().max()
    unexplained = maps * (maps.conj() * coil_images).sum(0) - coil_images
    assert bool((maps.abs().sum(0) > 0)[tissue].all())
    assert float(unexplained[:, tissue].norm() / coil_images[:, tissue].norm()) < 0.03


def test_one_coil_shows_everything(patient):
    """One coil's view is the image: a crop by its maps would blacken what is dark but there."""
    kspace = patient.kspace[:1, :1]
    acs = acs_mask(SHAPE[1], acs_count(SHAPE[1], 0.08))
    torch.testing.assert_close(acs_maps(kspace * acs, int(acs.sum())), torch.ones_like(kspace))


def test_known_coil_maps_take_the_place_of_estimated_ones(pipeline, patient):
    """The true maps leave no phase open, and lines without an ACS no longer stand in the way."""
    maps, truth, everything = patient.coil_maps, patient.image, torch.ones(90, dtype=torch.bool)
    known = Pipeline().classical(patient.kspace, everything, coil_maps=maps).image
    assert (
        (known - truth).norm()
        < 0.05 * truth.norm()
        < (Pipeline().classical(patient.kspace, everything).image - truth).norm()
    )
    without_acs = pipeline.reconstruct(patient.kspace[0], torch.arange(90) % 2 == 0, coil_maps=maps[0])
    assert without_acs.fallback is None
    with pytest.raises(InputError, match="coil maps"):
        pipeline.reconstruct(patient.kspace[0], everything, coil_maps=maps)


def test_a_plan_takes_known_coil_maps(bundle, patient):
    pipeline = Pipeline(bundle)
    acs, lines = _acs(pipeline, patient)
    known = pipeline.plan(acs, lines, SHAPE, coil_maps=patient.coil_maps[0])
    estimated = pipeline.plan(acs, lines, SHAPE)
    assert known.score != estimated.score
    assert known.lines.sum() == estimated.lines.sum()


@pytest.mark.parametrize("of", ["numpy", "torch"])
def test_real_numbers_are_no_kspace(of):
    real = np.ones((2, 32, 32), dtype=np.float32)
    with pytest.raises(InputError, match=r"must be complex, got torch\.float32"):
        Pipeline().reconstruct(real if of == "numpy" else torch.from_numpy(real), np.ones(32, dtype=bool))
