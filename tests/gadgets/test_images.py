"""Third and fourth stage: images with their geometry and meta, fallbacks, and what a viewer is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ismrmrd import Image

from gadgets import mrd
from gadgets.anomaly_overlay import overlay
from gadgets.chain import run_chain
from gadgets.mrd.geometry import boxes_to_recon_space, map_to_recon_space, to_recon_space
from gadgets.mrd.outputs import OUTPUTS, Output
from gadgets.pass_reconstruction import reconstruct
from gadgets.properties import Properties
from gadgets.protocol.connection import Failure, check_types
from pass_recon.pipeline import Pipeline
from pass_recon.report.overlay import BOX_COLOUR
from pass_recon.types import Box, InputError, QualityFinding
from tests.gadgets.acquisitions import PE, RO, SKEWED, centred, coil_images, header, kspace, lines_of, oversampled, scan
from tests.gadgets.pipelines import BOX, Detecting


@pytest.fixture(scope="module")
def k():
    return kspace()


def messages(k, the_scan, steps=None, **fields):
    from gadgets.acs_buffer import buffer_lines

    return list(buffer_lines(lines_of(k, steps, **fields), the_scan))


def images(k, pipeline, properties=None, steps=None, **changes):
    the_scan = scan(properties, **changes)
    return list(reconstruct(messages(k, the_scan, steps, slice=2), the_scan, pipeline))


def shown(k, pipeline, **changes):
    the_scan = scan(**changes)
    return list(overlay(reconstruct(messages(k, the_scan), the_scan, pipeline)))


def test_image_and_map_with_geometry_and_meta(k):
    image, anomaly_map = images(k, Detecting())
    assert (image.data.dtype, image.data.shape) == (np.complex64, (1, 1, PE, RO))
    assert (anomaly_map.data.dtype, anomaly_map.data.shape) == (np.float32, (1, 1, PE, RO))
    for made in (image, anomaly_map):
        head = made.getHead()
        for name, value in SKEWED.items():
            np.testing.assert_allclose(getattr(head, name), value, rtol=1e-6)
        assert tuple(head.field_of_view) == (300.0, 300.0, 5.0)
        assert head.slice == 2
    meta = image.meta
    assert (meta["PASS_bundle"], meta["PASS_anomaly_score"], meta["PASS_slice"]) == ("pretended-4x", "0.9000", "2")
    assert meta["PASS_lines_used"] == f"{PE} of {PE}"
    assert float(meta["PASS_seconds_reconstruction"]) > 0
    assert "PASS_fallback" not in meta


def test_axes_x_is_readout_and_y_is_phase_encoding(k):
    image, _ = images(k, Detecting())
    truth = np.sqrt((np.abs(coil_images()) ** 2).sum(0))
    found = np.abs(image.data[0, 0].T)
    assert np.linalg.norm(found - truth) < 0.1 * np.linalg.norm(truth)


def test_findings_are_regions_of_interest_in_x_and_y(k):
    roi = images(k, Detecting())[0].meta["ROI_1"]
    values = [float(value) for value in roi]
    assert values[:6] == [1, 0, 0, 1, 0, 1]  # red, solid, visible
    corners = list(zip(values[6::2], values[7::2], strict=True))
    assert corners[0] == corners[-1] == (BOX.readout, BOX.phase)
    assert (BOX.readout + BOX.readout_size, BOX.phase + BOX.phase_size) in corners
    assert images(k, Detecting())[0].meta["PASS_finding_1"] == ["glioma", "0.7500"]


def test_findings_are_read_back(k):
    found = mrd.boxes_of(Image.from_bytes(images(k, Detecting())[0].to_bytes()))
    assert found == (BOX,)


def test_without_a_detector_there_is_neither_an_empty_map_nor_a_grey_copy(k):
    (image,) = images(k, Pipeline())
    assert image.meta["PASS_anomaly"] == "unavailable: no detector in bundle classical"
    assert image.meta["ImageProcessingHistory"] == ["PASS", "CG-SENSE"]
    assert [made.meta["SeriesDescription"] for made in shown(k, Pipeline())] == ["PASS magnitude"]
    assert image.meta["PASS_bundle"] == "classical"
    assert image.meta["PASS_bundle_reason"].startswith("classical: no bundle for this scan at 4x: no anatomy")


def test_anomaly_off_leaves_one_series(k):
    assert [made.image_series_index for made in images(k, Detecting(), {"anomaly": "off"})] == [1]
    the_scan = scan({"anomaly": "off"})
    found = list(overlay(reconstruct(messages(k, the_scan), the_scan, Detecting())))
    assert [made.image_series_index for made in found] == [1]
    assert "PASS_anomaly" not in found[0].meta


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (("reconstruct",), "reconstruction failed: RuntimeError: out of memory in reconstruct"),
        (("nan",), "reconstruction failed: ArithmeticError: 1 of 1536 pixels are NaN or infinite"),
    ],
)
def test_failed_network_gives_a_cg_sense_image_and_a_failure(k, fail, reason):
    *made, failure = images(k, Detecting(fail=fail))
    assert failure == Failure(f"slice 2: {reason}", "processing")
    assert made[0].meta["PASS_fallback"] == reason
    assert (made[0].meta["PASS_bundle"], made[0].meta["ImageProcessingHistory"][1]) == ("classical", "CG-SENSE")
    expected = Pipeline().classical(k, np.ones(PE, dtype=bool)).image.numpy()
    np.testing.assert_allclose(made[0].data[0, 0].T, expected, atol=1e-6 * np.abs(expected).max())


def test_classical_on_a_full_device_is_tried_on_the_cpu(k):
    *made, failure = images(k, Detecting(fail=("reconstruct", "classical")))
    assert len(made) == 1
    assert np.isfinite(made[0].data).all()
    assert "out of memory in classical" not in failure.message
    assert made[0].meta["PASS_fallback"].endswith("CG-SENSE failed: RuntimeError: out of memory in classical")


def test_without_fallback_there_is_only_the_failure(k):
    (failure,) = images(k, Detecting(fail=("reconstruct",)), {"fallback": "off"})
    assert failure.severity == "processing"


def test_separate_calibration_scan_gives_the_coil_maps(k):
    from ismrmrd import constants as flags

    from gadgets.acs_buffer import buffer_lines
    from tests.gadgets.acquisitions import acquisition

    the_scan = scan(calibration="separate")
    # Another contrast: twice as bright. It may shape the coil maps, but nothing of it may get into the image.
    calibration = [acquisition(2 * k[..., step], step, flags.ACQ_IS_PARALLEL_CALIBRATION) for step in range(12, 36)]
    lines = lines_of(k, range(0, PE, 2))
    (image,) = reconstruct(buffer_lines([*calibration, *lines], the_scan), the_scan, Pipeline())
    assert "PASS_fallback" not in image.meta
    assert image.meta["PASS_lines_used"] == f"{PE // 2} of {PE}"
    truth = np.sqrt((np.abs(coil_images()) ** 2).sum(0))
    found = np.abs(image.data[0, 0].T)
    inside = truth > 0.05 * truth.max()
    assert np.linalg.norm((found - truth)[inside]) < 0.15 * np.linalg.norm(truth)


def test_pixel_size_goes_to_the_detector(k):
    pipeline = Detecting()
    images(k, pipeline)
    assert pipeline.pixels_mm == [(300 / RO, 300 / PE)]


SPIKE = QualityFinding("spike", "spike at coil 2 line 40, removed")
DEAD = QualityFinding("dead_coil", "coil 3 without signal, left out")


def test_what_is_wrong_with_the_data_is_told_with_every_series(k):
    for made in shown(k, Detecting(quality=(DEAD, SPIKE))):
        assert made.meta["PASS_quality"] == ["dead_coil", "spike"]
        assert made.meta["PASS_quality_reason"] == [DEAD.sentence, SPIKE.sentence]
        assert made.meta["PASS_anomaly"] == "unreliable: dead_coil, spike"
        assert [remark.text for remark in mrd.remarks(made)] == [
            "dead_coil: coil 3 without signal, left out",
            "spike: spike at coil 2 line 40, removed",
        ]
    sound = images(k, Detecting())[0].meta
    assert not {"PASS_quality", "PASS_quality_reason", "PASS_anomaly"} & set(sound)


def test_a_single_finding_survives_the_wire(k):
    (image, _) = images(k, Detecting(quality=(SPIKE,)))
    again = Image.from_bytes(image.to_bytes())
    assert mrd.remarks(again) == [(2, "spike", "spike: spike at coil 2 line 40, removed", False)]


def test_what_is_said_of_several_slices_is_said_once():
    said = [mrd.images.Remark(slice, "", "late") for slice in (2, 0, 2)]
    assert mrd.sentences([*said, mrd.images.Remark(1, "spike", "spike")]) == ["slices 2, 0: late", "slice 1: spike"]


def test_nothing_is_said_twice():
    of_plan = mrd.images.Remark(0, "spike", "spike: one, in the ACS", True)
    of_image = mrd.images.Remark(0, "spike", "spike: one, in all lines")
    assert mrd.sentences([of_plan, of_image]) == ["slice 0: spike: one, in all lines"]
    assert mrd.sentences([of_plan]) == ["slice 0: spike: one, in the ACS"]
    failed = mrd.images.Remark(0, "", "CG-SENSE failed: why; another reason")
    assert mrd.sentences([failed], ["slice 0: CG-SENSE failed: why; another reason"]) == []
    assert mrd.sentences([failed], ["slice 0: CG-SENSE failed: why"]) == [
        "slice 0: CG-SENSE failed: why; another reason"
    ]


@pytest.mark.parametrize(
    ("guard", "used"),
    [
        ("off", ["off", "off", "off"]),
        ("first", ["warn", "off", "off"]),
        ("warn", ["warn"] * 3),
        ("replace", ["replace"] * 3),
    ],
)
def test_the_guard_looks_at_the_slices_that_it_is_asked_to(k, guard, used):
    pipeline, the_scan = Detecting(), scan({"guard": guard})
    acquisitions = (made for number in range(3) for made in lines_of(k, slice=number))
    from gadgets.acs_buffer import buffer_lines

    list(reconstruct(buffer_lines(acquisitions, the_scan), the_scan, pipeline))
    assert pipeline.guards == used
    assert pipeline.guard == "off", "other scans may be using it"


def test_no_acs_still_gives_an_image(k):
    failure, image = images(k, Pipeline(), steps=range(0, PE, 2))
    assert "no complete ACS" in failure.message
    assert "no coil maps" in image.meta["PASS_fallback"]
    assert np.abs(image.data).max() > 0


def test_partial_fourier_is_said(k):
    the_scan = scan(limits=(0, 35, 12))
    found = list(reconstruct(messages(k[..., 12:], the_scan), the_scan, Pipeline()))
    assert found[0].meta["PASS_partial_fourier"] == "0.75"


def smooth(ro, pe):
    x, y = np.meshgrid((np.arange(ro) - ro // 2) / ro, (np.arange(pe) - pe // 2) / pe, indexing="ij")
    return torch.from_numpy(np.exp(-20 * (x**2 + y**2))).to(torch.complex64), x, y


@pytest.mark.parametrize("recon", [(64, 96), (64, 48), (32, 96), (51, 77)])
def test_interpolation_to_the_matrix_asked_for_keeps_place_and_intensity(recon):
    image, _, _ = smooth(RO, PE)
    wanted, _, _ = smooth(*recon)
    found = to_recon_space(image, scan(recon=recon).first_encoding)
    assert tuple(found.shape) == recon
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=2e-3)


def test_phase_oversampling_is_cut_off():
    image, _, _ = smooth(RO, PE)
    encoding = scan(recon=(RO, 24), recon_fov_y=150.0).first_encoding
    np.testing.assert_array_equal(to_recon_space(image, encoding), image[:, 12:36])
    anomaly_map = torch.rand(RO, PE)
    np.testing.assert_array_equal(map_to_recon_space(anomaly_map, encoding), anomaly_map[:, 12:36])
    inside, outside = Box(2, 20, 4, 30, score=0.5, label="x"), Box(2, 0, 4, 5)
    (moved,) = boxes_to_recon_space((inside, outside), (RO, PE), encoding)
    assert (moved.readout, moved.phase, moved.readout_size, moved.phase_size) == (2, 8, 4, 16)
    assert (moved.score, moved.label) == (0.5, "x")


def test_map_and_boxes_follow_the_interpolation():
    encoding = scan(recon=(64, 96)).first_encoding
    found = map_to_recon_space(torch.eye(RO, PE), encoding)
    assert tuple(found.shape) == (64, 96)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    (moved,) = boxes_to_recon_space((Box(3, 5, 2, 4),), (RO, PE), encoding)
    assert (moved.readout, moved.phase, moved.readout_size, moved.phase_size) == (6, 10, 4, 8)


def test_three_series_for_a_viewer(k):
    magnitude, anomaly_map, colour = shown(k, Detecting())
    assert [made.image_series_index for made in (magnitude, anomaly_map, colour)] == [1, 2, 3]
    assert [made.data.shape[0] for made in (magnitude, anomaly_map, colour)] == [1, 1, 3]
    assert {made.data.dtype for made in (magnitude, anomaly_map, colour)} == {np.dtype(np.uint16)}
    assert [made.image_type for made in (magnitude, anomaly_map, colour)] == [1, 1, 6]
    for made in (magnitude, anomaly_map, colour):
        check_types(made)
        assert made.meta["PASS_anomaly_score"] == "0.9000"
        assert len(made.meta["ROI_1"]) == 16
        np.testing.assert_allclose(made.getHead().position, SKEWED["position"])
    assert (int(anomaly_map.data.min()), int(anomaly_map.data.max())) == (0, 4095)
    assert int(colour.data.max()) <= 255


def test_magnitude_can_be_read_back(k):
    the_scan = scan()
    image = next(reconstruct(messages(k, the_scan), the_scan, Pipeline()))
    magnitude = shown(k, Pipeline())[0]
    back = magnitude.data / float(magnitude.meta["PASS_scale"])
    np.testing.assert_allclose(back, np.abs(image.data), atol=0.51 / float(magnitude.meta["PASS_scale"]))
    window = int(magnitude.meta["WindowWidth"])
    assert int(magnitude.meta["WindowCenter"]) == window // 2
    assert 0 < window <= 4095


def images_of(*factors):
    """Complex images, as brighter or darker as the factors."""
    template = next(reconstruct(messages(kspace(), scan()), scan(), Pipeline()))
    for factor in factors:
        yield mrd.image_like(
            template, [factor * mrd.array_of(template)], series=mrd.RECONSTRUCTION_SERIES, meta={"factor": f"{factor}"}
        )


def test_one_scale_for_all_slices_and_none_is_clipped():
    empty, first, second, brighter, huge = overlay(images_of(0, 1, 0.5, 3, 100))
    assert not empty.data.any()
    assert first.meta["PASS_scale"] == second.meta["PASS_scale"] == brighter.meta["PASS_scale"]
    assert int(first.data.max()) == 4095
    assert abs(int(brighter.data.max()) - 3 * 4095) <= 1
    assert int(huge.data.max()) == 65535
    assert float(huge.meta["PASS_scale"]) < float(first.meta["PASS_scale"])
    assert int(second.meta["WindowWidth"]) == int(first.meta["WindowWidth"]), "a dark slice must look dark"
    assert [made.image_index for made in (empty, first, second, brighter, huge)] == [1, 2, 3, 4, 5]


def test_overlay_is_grey_where_nothing_is_found_and_red_where_something_is(k):
    magnitude, _, colour = shown(k, Detecting())
    red, green, blue = (colour.data[channel, 0].T.astype(int) for channel in range(3))
    assert red[0, 0] == green[0, 0] == blue[0, 0]  # the map of Detecting begins with 0
    assert red[-1, -1] > blue[-1, -1]
    corner, inside = (BOX.readout, BOX.phase), (BOX.readout + 2, BOX.phase + 3)
    assert (red[corner], green[corner], blue[corner]) == BOX_COLOUR
    assert (red[inside], green[inside], blue[inside]) != BOX_COLOUR
    assert magnitude.data.shape[2:] == colour.data.shape[2:]


def test_plans_and_failures_pass_the_last_stage():
    failure = Failure("from before", "input")
    assert list(overlay([failure])) == [failure]


def test_chain_on_oversampled_data_equals_that_on_data_without():
    k = kspace()
    results = []
    for data in (k, oversampled(k)):
        found = list(run_chain(lines_of(data), header(), Properties(mode="prospective")))
        assert [made.image_series_index for made in found] == [1000, 1]
        results.append(found[1].data.astype(float))
    assert np.abs(results[0] - results[1]).max() <= 1


def test_chain_of_a_full_scan_is_the_image_that_was_scanned():
    found = list(run_chain(lines_of(oversampled(kspace())), header(), Properties(mode="prospective")))
    image = found[1].data[0, 0].T / float(found[1].meta["PASS_scale"])
    truth = np.sqrt((np.abs(coil_images()) ** 2).sum(0))
    inside = truth > 0.05 * truth.max()
    assert np.linalg.norm((image - truth)[inside]) < 0.02 * np.linalg.norm(truth)
    assert isinstance(found[0], Image)


def test_chain_refuses_what_it_cannot_do():
    with pytest.raises(InputError, match="'radial'"):
        list(run_chain([], header(trajectory="radial"), Properties()))


def test_numpy_helper_is_the_transform_of_the_project():
    from pass_recon.physics.fourier import fft2c

    x = coil_images()
    np.testing.assert_allclose(centred(np.fft.fftn, x), fft2c(torch.from_numpy(x)).numpy(), atol=1e-6)


def test_a_series_of_a_user_is_sent_beside_ours(k):
    mine = Output(7, "inverted map", 2, lambda found: [(1 - found.anomaly_map).astype(np.float32)])
    OUTPUTS.append(mine)
    try:
        by_series = {image.image_series_index: image for image in shown(k, Detecting())}
    finally:
        OUTPUTS.remove(mine)
    assert by_series[7].meta["SeriesDescription"] == "inverted map"
    anomaly_map = mrd.array_of(by_series[mrd.MAP_SERIES]) / float(by_series[mrd.MAP_SERIES].meta["PASS_scale"])
    np.testing.assert_allclose(mrd.array_of(by_series[7]), 1 - anomaly_map, atol=1e-3)
