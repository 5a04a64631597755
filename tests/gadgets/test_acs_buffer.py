"""First stage: lines into slices, whatever their order, and every way in which a slice can end or be spoilt."""

from __future__ import annotations

from itertools import chain, zip_longest

import ismrmrd
import numpy as np
import pytest
from gadgetron.types.recon_data import ReconData
from ismrmrd import constants as flags

from gadgets import mrd
from gadgets.acs_buffer import buffer_lines
from gadgets.protocol.connection import Failure
from pass_recon.types import InputError
from tests.gadgets.acquisitions import COILS, PE, RO, SKEWED, acquisition, kspace, lines_of, scan

ACS = range(22, 26)


@pytest.fixture(scope="module")
def k():
    return kspace()


def run(acquisitions, the_scan=None):
    """Slices and failures in order of their coming."""
    the_scan = the_scan or scan()
    out = []
    for item in buffer_lines(acquisitions, the_scan):
        out += list(mrd.slices_of(item, the_scan)) if isinstance(item, ReconData) else [item]
    return out


def failures(items):
    return [item.message for item in items if isinstance(item, Failure)]


def test_acs_then_slice_with_geometry(k):
    acs, whole = run(lines_of(k, slice=2))
    assert (acs.is_acs, acs.first_line, acs.kspace.shape) == (True, ACS.start, (COILS, RO, len(ACS)))
    np.testing.assert_array_equal(acs.kspace, k[..., ACS.start : ACS.stop])
    assert not whole.is_acs
    np.testing.assert_array_equal(whole.kspace, k)
    assert whole.order == tuple(range(PE))
    assert str(whole.key) == "slice 2"
    assert tuple(whole.header.read_dir) == SKEWED["read_dir"]
    assert tuple(whole.header.position) == SKEWED["position"]


def test_acs_comes_with_its_last_line_not_later(k):
    seen = 0

    def counted():
        nonlocal seen
        for made in lines_of(k, [*ACS, *range(22), *range(26, PE)]):
            seen += 1
            yield made

    next(buffer_lines(counted(), scan()))
    assert seen == len(ACS)


def test_message_has_the_layout_of_gadgetron(k):
    acs, whole = buffer_lines(lines_of(k, [*ACS, 3, 40]), scan())
    assert acs[0].data.data.shape == (RO, len(ACS), 1, COILS, 1, 1, 1)
    assert acs[0].data.headers.shape == (len(ACS), 1, 1, 1, 1)
    assert acs[0].ref is acs[0].data
    limits = acs[0].data.sampling.sampling_limits[1]
    assert (limits.min, limits.center, limits.max) == (ACS.start, PE // 2, ACS.stop - 1)
    assert acs[0].data.sampling.encoded_matrix[1] == PE
    assert whole[0].data.data.shape == (RO, PE, 1, COILS, 1, 1, 1)
    assert whole[0].ref.data.shape == (RO, len(ACS), 1, COILS, 1, 1, 1)
    samples = [header.number_of_samples for header in whole[0].data.headers.ravel()]
    assert np.flatnonzero(samples).tolist() == [3, *ACS, 40]


def test_centre_of_k_space_comes_from_the_limits(k):
    # Steps 0 to 35 with their centre at 12: partial Fourier, lines 12 to 47 of the grid.
    the_scan = scan(limits=(0, 35, 12))
    made = [acquisition(k[..., line], line - 12) for line in range(12, PE)]
    _, whole = run(made, the_scan)
    assert np.flatnonzero(whole.line_mask).tolist() == list(range(12, PE))
    np.testing.assert_array_equal(whole.kspace[..., 12:], k[..., 12:])
    assert not whole.kspace[..., :12].any()
    assert whole.encoding.partial_fourier == 0.75


def test_interleaved_slices_in_odd_order(k):
    parts = [list(lines_of(k * (number + 1), slice=number)) for number in (2, 0, 1)]
    found = run(chain.from_iterable(zip_longest(*parts)))
    wholes = [item for item in found if not item.is_acs]
    assert [item.key.slice for item in found if item.is_acs] == [2, 0, 1]
    assert [item.key.slice for item in wholes] == [2, 0, 1]
    for item in wholes:
        np.testing.assert_array_equal(item.kspace, k * (item.key.slice + 1))


def test_averages_are_averaged_and_the_acs_is_that_of_the_first(k):
    the_scan = scan(averages=3)
    draws = np.random.default_rng(0)
    noisy = [k + draws.normal(scale=0.1, size=k.shape).astype(np.float32) for _ in range(3)]
    found = run(chain.from_iterable(lines_of(data, average=n) for n, data in enumerate(noisy)), the_scan)
    acs, whole = found
    np.testing.assert_array_equal(acs.kspace, noisy[0][..., ACS.start : ACS.stop])
    np.testing.assert_allclose(whole.kspace, sum(noisy) / 3, atol=1e-6)


def test_averages_line_by_line(k):
    made = [acquisition(k[..., step] * factor, step, average=n) for step in range(PE) for n, factor in ((0, 1), (1, 3))]
    acs, whole = run(made, scan(averages=2))
    np.testing.assert_allclose(whole.kspace, 2 * k, atol=1e-6)
    assert acs.is_acs


def test_contrasts_phases_sets_and_repetitions_are_images_of_their_own(k):
    made = []
    for repetition in range(2):
        for step in range(PE):
            for contrast in range(2):
                # Only the last echo of the last line is marked, as some converters do.
                last = [flags.ACQ_LAST_IN_SLICE] if (step, contrast) == (PE - 1, 1) else []
                line = k[..., step] * (1 + contrast) * (1 + 10 * repetition)
                made.append(acquisition(line, step, *last, contrast=contrast, repetition=repetition))
    found = run(made)
    assert not failures(found)
    wholes = {(item.key.contrast, item.key.repetition): item.kspace for item in found if not item.is_acs}
    assert set(wholes) == {(0, 0), (1, 0), (0, 1), (1, 1)}
    for (contrast, repetition), data in wholes.items():
        np.testing.assert_allclose(data, k * (1 + contrast) * (1 + 10 * repetition), rtol=1e-6)


def test_segments_are_only_an_order(k):
    made = [acquisition(k[..., step], step, segment=step % 4) for step in [*range(1, PE, 2), *range(0, PE, 2)]]
    _, whole = run(made)
    np.testing.assert_array_equal(whole.kspace, k)
    assert whole.line_mask.all()


def test_order_of_acquisition_is_kept(k):
    order = [*ACS, 40, 3, 31]
    _, whole = run(lines_of(k, order))
    assert whole.order == tuple(order)


@pytest.mark.parametrize("flag", [flags.ACQ_LAST_IN_REPETITION, flags.ACQ_LAST_IN_MEASUREMENT])
def test_other_marks_end_slices_too(k, flag):
    made = [acquisition(k[..., step], step) for step in [*ACS, 5]]
    made[-1].set_flag(flag)
    more = (acquisition(k[..., step], step, slice=1) for step in ACS)
    items = run(chain(made, more))
    assert [(item.key.slice, item.is_acs) for item in items] == [(0, True), (0, False), (1, True), (1, False)]


def test_end_of_repetition_marked_in_every_slice_does_not_cut_the_others(k):
    made = [acquisition(k[..., step], step, slice=n) for step in [*ACS, 5] for n in range(3)]
    for last in made[-3:]:
        last.set_flag(flags.ACQ_LAST_IN_REPETITION)
    wholes = [item for item in run(made) if not item.is_acs]
    assert [item.line_mask.sum() for item in wholes] == [5, 5, 5]


def test_all_lines_there_end_a_slice_without_any_mark(k):
    endless = chain(lines_of(k, mark=False), iter(lambda: pytest.fail("the slice should have been sent"), None))
    waiting = scan({"mode": "closed_loop"})
    messages = buffer_lines(endless, waiting)
    next(messages)
    whole = next(mrd.slices_of(next(messages), waiting))
    assert whole.line_mask.all()


def test_where_no_scanner_waits_the_next_slice_ends_one_that_is_full(k):
    others = lines_of(k, ACS[:1], mark=False, slice=1)
    endless = chain(lines_of(k, mark=False), others, iter(lambda: pytest.fail("it should have been sent"), None))
    messages = buffer_lines(endless, scan())
    next(messages)
    assert next(mrd.slices_of(next(messages), scan())).line_mask.all()


def test_next_repetition_ends_the_one_before(k):
    steps = [*ACS, 3]
    made = [*lines_of(k, steps, mark=False, repetition=0), *lines_of(k, steps, mark=False, repetition=1)]
    messages = [(item.key.repetition, item.is_acs) for item in run(made)]
    assert messages == [(0, True), (0, False), (1, True), (1, False)]


def test_calibration_lines_belong_to_the_image_unless_separate(k):
    outside = [step for step in range(0, PE, 2) if step not in ACS]

    def made():
        for step in ACS:
            yield acquisition(k[..., step], step, flags.ACQ_IS_PARALLEL_CALIBRATION)
        yield from lines_of(k, outside)

    _, embedded = run(made(), scan(calibration="embedded"))
    assert embedded.line_mask.sum() == len(ACS) + len(outside)
    assert embedded.calibration is None
    _, separate = run(made(), scan(calibration="separate"))
    assert separate.line_mask.sum() == len(outside)
    np.testing.assert_array_equal(separate.calibration[..., ACS.start : ACS.stop], k[..., ACS.start : ACS.stop])
    assert not separate.calibration[..., : ACS.start].any()


def test_calibration_and_imaging_lines_are_both(k):
    made = [acquisition(k[..., step], step, flags.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING) for step in ACS]
    acs, whole = run(made, scan(calibration="separate"))
    assert acs.kspace.shape[-1] == whole.line_mask.sum() == len(ACS)


def test_navigators_noise_dummies_and_waveforms_are_no_lines(k):
    navigator = acquisition(k[..., 3] * 100, 3, flags.ACQ_IS_NAVIGATION_DATA)
    dummy = acquisition(k[..., 4] * 100, 4, flags.ACQ_IS_DUMMYSCAN_DATA)
    draws = np.random.default_rng(0)
    noise = acquisition(draws.normal(size=(COILS, 512)), 0, flags.ACQ_IS_NOISE_MEASUREMENT)
    wave = ismrmrd.Waveform.from_array(np.zeros((1, 8), dtype=np.uint32))
    spoilt = list(chain.from_iterable((made, navigator, dummy, wave) for made in lines_of(k)))
    np.testing.assert_array_equal(run(spoilt)[1].kspace, k)
    assert run([noise, *spoilt])[1].kspace.shape == k.shape
    assert not np.allclose(run([noise, *spoilt])[1].kspace, k)


def test_nan_line_is_dropped_and_named_once(k):
    made = list(lines_of(k, slice=1))
    for step in (5, 7, 9):
        made[step].data[0, 3] = np.nan
    items = run(made)
    told = failures(items)
    assert told[0].startswith("slice 1, encoding step 5 dropped: the line holds 1 values that are NaN")
    assert told[1] == "slice 1: 3 acquisitions dropped in all"
    assert len(told) == 2
    assert {item.severity for item in items if isinstance(item, Failure)} == {"input"}
    whole = items[-1]
    assert np.flatnonzero(~whole.line_mask).tolist() == [5, 7, 9]


def test_line_off_the_grid_and_changed_coils(k):
    made = list(lines_of(k))
    made.insert(10, acquisition(k[..., 0], 200))
    made.insert(20, acquisition(k[:2, :, 0], 0))
    items = run(made)
    told = failures(items)
    assert "encoding step 0 dropped: the line has 2 coils, those before it had 4" in told[0]
    assert "encoding step 200 dropped: encoding step 200 is line 200 of a grid of 48" in told[1]
    np.testing.assert_array_equal(items[-1].kspace, k)


def test_spoilt_last_line_still_ends_the_slice(k):
    made = list(lines_of(k))
    made[-1].data[:] = np.inf
    items = run(made)
    assert items[-1].line_mask.sum() == PE - 1
    assert not any("truncated" in message for message in failures(items))


def test_missing_acs_is_told_and_the_slice_still_comes(k):
    items = run(lines_of(k, [0, 2, 22, 40]))
    assert failures(items) == ["slice 0 has no complete ACS: 1 of 4 came (lines 22 to 25)"]
    assert items[-1].line_mask.sum() == 4


def test_truncated_stream_is_told(k):
    items = run(list(lines_of(k))[:30])
    assert failures(items) == ["slice 0 is truncated: 30 lines came, none marked as its last"]
    assert items[-1].line_mask.sum() == 30


def test_stream_without_marks_is_not_called_truncated(k):
    assert not failures(run(list(lines_of(k, mark=False))[:30]))


def test_slice_with_nothing_usable_has_no_message(k):
    items = run([acquisition(k[..., 0] * np.nan, 0)])
    assert len(items) == 2
    assert items[-1].message == "slice 0 has no line that can be used, so there is no image of it"


def test_lines_after_the_end_are_not_a_second_slice(k):
    items = run([*lines_of(k), *lines_of(k * 9, average=1)])
    assert len([item for item in items if not isinstance(item, Failure)]) == 2
    [told] = failures(items)
    assert told.startswith("48 lines of slice 0 came again after it was over")
    assert items[-1].severity == "warning"


def test_3d_line_ends_the_scan(k):
    with pytest.raises(InputError, match="kspace_encode_step_2 = 3"):
        run([acquisition(k[..., 0], 0, kspace_encode_step_2=3)])


def test_slices_of_a_foreign_message(recordings):
    """What the stock BucketToBuffer sent, recorded."""
    from gadgets.protocol import Message
    from gadgets.protocol.bytes import U16
    from gadgets.protocol.messages import read_body

    data, place = (recordings / "server_to_gadget_recondata.bin").read_bytes(), 0

    def read(count):
        nonlocal place
        place += count
        return data[place - count : place]

    messages = []
    while place < len(data):
        identifier = U16.unpack(read(2))[0]
        messages.append(Message(identifier, read_body(identifier, read)))
    the_scan = mrd.ScanContext(messages[1].item, scan().properties)
    (whole,) = mrd.slices_of(messages[2].item, the_scan)
    assert (whole.kspace.shape, whole.is_acs, whole.line_mask.all()) == ((4, 64, 64), False, True)
