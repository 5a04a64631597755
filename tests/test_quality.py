"""Data that is finite but wrong: seen, named, left out, and the image no worse than without it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pass_recon import Pipeline, load_bundle, metrics
from pass_recon.anomaly import NetAD
from pass_recon.phantom import simulate_patient
from pass_recon.physics.fourier import fft1c, fft2c, ifft1c
from pass_recon.quality import TrainedFor, inspect
from pass_recon.quality.guard import held_out_lines, judge, leaves_more, nothing_predicted, unsupported_boxes
from pass_recon.sampling.lines import acs_mask, calibration_lines, variable_density_lines
from pass_recon.types import Box, InputError
from tests.networks import TINY_BACKBONE, tiny_bundle

SHAPE = (128, 120)
LINES = (torch.arange(120) % 2 == 0) | acs_mask(120, 24)
CENTRE = 60


@pytest.fixture(scope="module")
def patient():
    return simulate_patient(anatomy="brain", contrast="flair", slices=1, coils=8, shape=SHAPE, noise=0.005, seed=4)


@pytest.fixture
def kspace(patient):
    return (patient.kspace[0] * LINES).clone()


@pytest.fixture(scope="module")
def ordinary(patient):
    """PSNR of the undamaged scan."""
    return _psnr(patient.kspace[0] * LINES, patient)


def _psnr(kspace, patient, lines=LINES):
    return metrics.psnr(Pipeline().classical(kspace, lines).image, patient.image[0])


def _words(kspace, lines=LINES, **options):
    return [finding.word for finding in inspect(kspace, lines, **options).findings]


def _noise(*shape):
    return torch.randn(*shape, dtype=torch.complex64)


@pytest.mark.parametrize("coils", [1, 2, 8])
@pytest.mark.parametrize("anatomy", ["brain", "knee"])
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_ordinary_data_is_left_alone(anatomy, coils, unit):
    contrast = {"brain": "t1", "knee": "pd"}[anatomy]
    for seed, lines in enumerate((LINES, variable_density_lines(120, 4, acs_mask(120, 10)), torch.ones(120).bool())):
        patient = simulate_patient(
            anatomy=anatomy, contrast=contrast, slices=1, coils=coils, shape=SHAPE, noise=0.01, seed=seed
        )
        data = patient.kspace[0] * lines * unit
        found = inspect(data, lines, trained=TrainedFor())
        assert found.findings == ()
        assert found.kspace is data
        assert not found.changes(data, lines)


def test_measured_data_is_left_alone(shared_data):
    import numpy as np

    raw = np.fromfile(shared_data / "raw/brain_8ch_full.cfl", np.complex64).reshape((230, 180, 8), order="F")
    kspace = torch.from_numpy(np.ascontiguousarray(raw.transpose(2, 0, 1)))
    for lines in (torch.ones(180).bool(), (torch.arange(180) % 3 == 0) | acs_mask(180, 24)):
        assert inspect(kspace * lines, lines, trained=TrainedFor()).findings == ()


@pytest.mark.parametrize(
    ("word", "damage"),
    [
        ("dead_coil", lambda coil: 0 * coil),
        ("dead_coil", lambda coil: 1e-6 * _noise(*coil.shape)),
        ("wild_coil", lambda coil: 1000 * coil),
        ("wild_coil", lambda coil: 60 * coil),
        ("noise_coil", lambda coil: 0.5 * _noise(*coil.shape)),
    ],
)
def test_a_bad_coil_is_left_out_and_named(kspace, patient, word, damage):
    kspace[3] = damage(kspace[3]) * LINES
    found = inspect(kspace, LINES)
    assert [finding.word for finding in found.findings] == [word]
    assert "coil 3 " in found.findings[0].sentence
    assert found.coils.tolist() == [True, True, True, False, True, True, True, True]
    others = Pipeline().classical(patient.kspace[0][found.coils], LINES).image
    assert torch.allclose(Pipeline().classical(kspace, LINES).image, others, atol=1e-4)


@pytest.mark.parametrize("unit", [1e-20, 1e-12, 1e14, 1e19])
def test_what_is_found_does_not_depend_on_the_unit(kspace, unit):
    extreme = kspace * unit
    ordinary = inspect(extreme, LINES)
    assert ordinary.findings == ()
    assert ordinary.kspace is extreme
    kspace[..., CENTRE + 5] *= -1
    found, scaled = inspect(kspace, LINES), inspect(kspace * unit, LINES)
    assert found.findings == scaled.findings
    assert torch.allclose(scaled.kspace.to(torch.complex128) / unit, found.kspace.to(torch.complex128), atol=1e-4)


def test_others_are_not_dead_beside_a_coil_a_million_times_as_loud(kspace):
    kspace[3] *= 1e6
    found = inspect(kspace, LINES)
    assert [finding.word for finding in found.findings] == ["wild_coil"]
    assert (~found.coils).nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("size", [20.0, 1.0, 0.5])
@pytest.mark.parametrize("place", [(5, 30, 20), (2, 70, 58), (0, 100, 100)])
def test_a_spike_is_removed(kspace, patient, ordinary, size, place):
    sound = kspace[place].clone()
    kspace[place] += size * kspace.abs().max() * 1j
    found = inspect(kspace, LINES)
    assert [finding.word for finding in found.findings] == ["spike"]
    assert f"coil {place[0]} line {place[2]} sample {place[1]} " in found.findings[0].sentence
    assert (found.kspace[place] - sound).abs() < 0.1 * (kspace[place] - sound).abs()
    assert _psnr(kspace, patient) > ordinary - 0.5


def test_lines_of_zeros_are_not_taken_for_measured(kspace, patient, ordinary):
    kspace[..., CENTRE + 3] = 0
    kspace[:, 40:90, 30] = 0
    found = inspect(kspace, LINES)
    assert [finding.word for finding in found.findings] == ["zero_lines"]
    assert (LINES & ~found.lines).nonzero().flatten().tolist() == [30, 63]
    assert _psnr(kspace, patient) > ordinary - 1


@pytest.mark.parametrize("line", [CENTRE, CENTRE + 5, CENTRE - 9])
@pytest.mark.parametrize("damage", ["noise", "sign", "scale", "place"])
def test_one_bad_line_among_the_acs_is_left_out(kspace, patient, ordinary, line, damage):
    sound = kspace[..., line].clone()
    kspace[..., line] = {
        "noise": _noise(*sound.shape) * sound.abs().square().mean().sqrt(),
        "sign": -sound,
        "scale": 10 * sound,
        "place": sound.roll(3, 1),
    }[damage]
    found = inspect(kspace, LINES)
    assert [finding.word for finding in found.findings] == ["inconsistent_lines"]
    assert (LINES & ~found.lines).nonzero().flatten().tolist() == [line]
    assert torch.equal(found.calibration_lines, LINES)
    assert (found.kspace[..., line] - sound).norm() < 0.3 * sound.norm()
    assert _psnr(kspace, patient) > ordinary - 1.5


@pytest.mark.parametrize("line", [28, 34, 80])
def test_a_line_outside_the_acs_that_is_five_times_as_loud_is_left_out(patient, line):
    lines = (torch.arange(120) % 4 == line % 4) | acs_mask(120, 10)
    sound = patient.kspace[0] * lines
    kspace = sound.clone()
    kspace[..., line] *= -5
    assert inspect(sound, lines).findings == ()
    found = inspect(kspace, lines)
    assert [finding.word for finding in found.findings] == ["inconsistent_lines"]
    assert (lines & ~found.lines).nonzero().flatten().tolist() == [line]


@pytest.mark.parametrize("line", range(CENTRE - 3, CENTRE + 4))
@pytest.mark.parametrize("seed", [1, 5])
def test_among_ten_acs_lines_the_bad_one_goes_and_not_its_neighbour(line, seed):
    lines = (torch.arange(120) % 4 == 0) | acs_mask(120, 10)
    options = {"anatomy": "brain", "contrast": "flair", "slices": 1, "coils": 6, "shape": SHAPE, "noise": 0.005}
    kspace = simulate_patient(**options, seed=seed).kspace[0] * lines
    kspace[..., line] *= -1
    found = inspect(kspace, lines)
    assert (lines & ~found.lines).nonzero().flatten().tolist() == [line]


@pytest.mark.parametrize("pair", [(53, 62), (60, 61), (59, 61), (50, 70)])
def test_two_lines_that_were_swapped_change_back(kspace, pair):
    sound = kspace.clone()
    kspace[..., list(pair)] = sound[..., list(reversed(pair))]
    found = inspect(kspace, LINES)
    assert [finding.word for finding in found.findings] == ["inconsistent_lines"]
    assert f"lines {pair[0]} and {pair[1]} fit their neighbours in each other's place" in found.findings[0].sentence
    assert torch.equal(found.kspace, sound)
    assert torch.equal(found.lines, LINES)


def _shift_of_samples(lines):
    ramp = torch.exp(2j * torch.pi * 0.8 / 128 * (torch.arange(128) - 64))
    return fft1c(ifft1c(lines, 1) * ramp[:, None], 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines * torch.exp(torch.tensor(0.5j)),
        lambda lines: lines * torch.exp(2j * torch.pi * 2.4 / 128 * (torch.arange(128) - 64))[:, None],
        _shift_of_samples,
        lambda lines: lines.flip(1),
    ],
    ids=["phase", "moved", "delayed", "backwards"],
)
def test_odd_lines_that_were_read_in_another_way_are_corrected(kspace, patient, ordinary, change):
    kspace[..., 1::2] = change(kspace[..., 1::2])
    found = inspect(kspace, LINES)
    assert [finding.word for finding in found.findings] == ["inconsistent_lines"]
    assert "lines of odd number" in found.findings[0].sentence
    assert "corrected" in found.findings[0].sentence
    assert _psnr(kspace, patient) > ordinary - 1


@pytest.mark.parametrize("at", [CENTRE, CENTRE + 6])
def test_motion_is_told_with_the_line_from_which_on(kspace, at):
    moved = kspace * torch.exp(-2j * torch.pi * 4 / 128 * (torch.arange(128) - 64))[:, None]
    kspace[..., at:] = moved[..., at:]
    found = inspect(kspace, LINES)
    assert [finding.sentence for finding in found.findings] == [
        f"the lines from {at} on do not fit those before, as after motion; all are used"
    ]
    assert found.kspace is kspace
    assert torch.equal(found.lines, LINES)


@pytest.mark.parametrize("missing", [[CENTRE], [CENTRE + 1], [CENTRE, CENTRE + 1]])
def test_acs_lines_that_did_not_come_are_made_up_for(kspace, patient, ordinary, missing):
    lines = LINES.clone()
    lines[missing] = False
    found = inspect(kspace * lines, lines)
    assert [finding.word for finding in found.findings] == ["missing_lines"]
    assert torch.equal(found.lines, lines)
    assert torch.equal(found.calibration_lines, LINES)
    assert _psnr(kspace * lines, patient, lines) > (ordinary - 3 if len(missing) == 1 else 20)


def test_an_image_that_does_not_fit_its_own_lines_is_told():
    fits, misses, both = leaves_more(torch.tensor([1.1, 1.6, 3.0]), torch.tensor([1.0, 1.0, 2.0]))
    assert fits == both == []
    assert [finding.word for finding in misses] == ["network_worse_than_classical"]
    assert "1.60 times their noise, CG-SENSE's by 1.00" in misses[0].sentence


def test_an_image_that_predicts_no_better_than_nothing_is_told():
    well, badly = nothing_predicted(torch.tensor([0.8, 1.7]), torch.tensor([0.9, 3.0]), torch.ones(2))
    assert well == []
    assert [finding.word for finding in badly] == ["lines_not_predicted"]
    assert "the network misses 170% of their energy, CG-SENSE 300%" in badly[0].sentence


def test_eight_lines_around_the_centre_are_enough(patient):
    lines = (torch.arange(120) % 2 == 0) | acs_mask(120, 8)
    assert int(calibration_lines(lines).sum()) >= 8
    result = Pipeline().classical(patient.kspace[0] * lines, lines)
    assert result.fallback is None
    assert metrics.psnr(result.image, patient.image[0]) > 33


@pytest.mark.parametrize("signal", [0.0, 1.0])
def test_an_empty_scan_shows_no_finding(signal):
    bundle = tiny_bundle(NetAD.build(TINY_BACKBONE, anatomy="brain"))
    scan = torch.stack((signal * _noise(4, *SHAPE), _noise(4, *SHAPE).cumsum(1)))
    result = Pipeline(bundle).reconstruct(scan[0] * LINES, LINES)
    assert result.boxes == ((),)
    assert result.score == (0.0,)
    assert not result.anomaly_map.any()
    assert "empty" in [finding.word for finding in result.quality[0]]
    assert result.reliable == (False,)
    plan = Pipeline(bundle).plan(scan[0][..., acs_mask(120, 10)], acs_mask(120, 10), SHAPE)
    assert plan.source == "population"
    assert plan.fallback is not None
    assert not plan.reliable


def test_a_second_slice_is_seen_by_its_coils():
    two = simulate_patient(anatomy="brain", contrast="t1", slices=9, coils=8, shape=SHAPE, noise=0.005, seed=3)
    first, second = (fft2c(two.coil_maps[index] * two.image[index]) for index in (0, 8))
    shift = torch.where(torch.arange(120) % 2 == 0, 1.0, -1.0)
    assert "multiband" in _words((first + shift * second) * LINES)
    assert _words(two.kspace[0] * LINES) == []
    assert _words(two.kspace[0] * LINES, multiband=2) == ["multiband"]


def test_slices_that_the_scan_says_were_excited_together_are_told(kspace):
    told = Pipeline().reconstruct(kspace, LINES, multiband=2)
    assert [finding.word for finding in told.quality[0]] == ["multiband"]
    assert told.quality[0][0].sentence == "2 slices were excited together"


def test_scans_unlike_the_training_are_told(patient):
    trained = TrainedFor()
    assert _words(torch.ones(1, 600, 120) + 0j, LINES, trained=trained)[0] == "unusual_matrix"
    few = acs_mask(120, 8)
    assert "unusual_lines" in _words(patient.kspace[0] * few, few, trained=trained)
    gap = LINES & ~((torch.arange(120) > 75) & (torch.arange(120) < 115))
    assert _words(patient.kspace[0] * gap, gap, trained=trained) == ["unusual_lines"]
    assert _words(patient.kspace[0] * gap, gap) == []


def test_one_bad_slice_leaves_the_others_as_they_are(patient):
    bundle = tiny_bundle(NetAD.build(TINY_BACKBONE, anatomy="brain"))
    pipeline = Pipeline(bundle)
    sound = patient.kspace[0] * LINES
    bad = sound.clone()
    bad[2] = 0
    result = pipeline.reconstruct(torch.stack((sound, bad)), LINES, intermediates=True)
    alone = pipeline.reconstruct(sound, LINES)
    assert torch.allclose(result.image[0], alone.image, atol=1e-5 * float(alone.image.abs().max()))
    assert result.reliable == (True, False)
    assert [finding.word for finding in result.quality[1]] == ["dead_coil"]
    assert result.intermediates["coil_maps"].shape == (2, 8, *SHAPE)
    assert not result.intermediates["coil_maps"][1, 2].any()
    assert len(result.boxes) == len(result.score) == 2


def test_a_bad_separate_calibration_is_cleaned_too(patient):
    lines = torch.arange(120) % 2 == 0
    calibration = patient.kspace[0] * acs_mask(120, 24)
    sound = Pipeline().classical(patient.kspace[0] * lines, lines, calibration=calibration).image
    calibration[..., 64] *= -1
    result = Pipeline().classical(patient.kspace[0] * lines, lines, calibration=calibration)
    assert result.quality[0][0].word == "inconsistent_lines"
    assert result.quality[0][0].sentence.startswith("calibration: line 64 ")
    assert metrics.psnr(result.image, patient.image[0]) > metrics.psnr(sound, patient.image[0]) - 1


def test_the_guard_sends_the_classical_image_where_the_network_invents(patient):
    bundle = replace(load_bundle("brain-flair-4x"), netad=None)
    honest = Pipeline(bundle, guard="replace").reconstruct(patient.kspace[0], LINES)
    assert honest.fallback is None
    assert honest.reliable == (True,)
    bundle.general.denoiser.register_forward_hook(lambda network, given, image: image.roll(20, -1))
    invented = Pipeline(bundle).reconstruct(patient.kspace[0], LINES)
    warned = Pipeline(bundle, guard="warn").reconstruct(patient.kspace[0], LINES)
    replaced = Pipeline(bundle, guard="replace").reconstruct(patient.kspace[0], LINES)
    assert torch.equal(warned.image, invented.image)
    assert invented.quality == ((),)
    assert [finding.word for finding in warned.quality[0]] == ["network_worse_than_classical"]
    assert "predicted worse by the network" in replaced.fallback
    classical = Pipeline(bundle).classical(patient.kspace[0], LINES).image
    assert torch.allclose(replaced.image, classical, atol=1e-5)
    with pytest.raises(InputError, match="guard must be one of off, warn, replace, got 'on'"):
        Pipeline(guard="on")


def test_a_box_on_structure_of_the_network_alone_is_told():
    image = _noise(64, 64) * 0.01 + 0.5
    image[10:20, 10:20] += 0.5
    other = image.clone()
    image[40:48, 40:48] += 0.5
    boxes = (Box(10, 10, 10, 10), Box(40, 40, 8, 8))
    findings = unsupported_boxes(image, other, boxes)
    assert [finding.word for finding in findings] == ["finding_not_in_data"]
    assert "readout 40, phase 40" in findings[0].sentence


def test_the_guard_sees_a_line_that_no_image_explains(patient):
    lines = (torch.arange(120) % 3 == 0) | acs_mask(120, 24)
    kspace = patient.kspace * lines
    line = int((lines & ~calibration_lines(lines) & ~held_out_lines(lines)).nonzero()[8])
    kspace[0, ..., line] = 2 * _noise(8, 128)
    maps = patient.coil_maps

    def solve(mask):
        from pass_recon.reconstruction.classical import cg_sense

        return cg_sense(kspace, maps, mask)

    verdict = judge(kspace, maps, lines, network=solve, classical=solve, image=solve(lines))
    found = {finding.word: finding.sentence for finding in verdict.findings[0]}
    assert f"line {line} " in found["inconsistent_lines"]
    assert not verdict.replaced.any()


@pytest.mark.parametrize("spacing", [3, 4, 6])
def test_the_line_through_the_peak_is_not_loud_where_all_lines_are_far_apart(patient, spacing):
    lines = (torch.arange(120) - CENTRE) % spacing == 0
    found = inspect(patient.kspace[0] * lines, lines)
    assert bool(found.lines[CENTRE])
