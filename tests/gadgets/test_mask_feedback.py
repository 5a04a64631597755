"""Second stage: the plan message, the three modes, deadlines and failures."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from gadgetron.types.recon_data import ReconData
from ismrmrd import Image

from gadgets import mrd
from gadgets.acs_buffer import buffer_lines
from gadgets.mask_feedback import feed_back
from gadgets.protocol.connection import Failure
from pass_recon.pipeline import Pipeline
from pass_recon.types import QualityFinding
from tests.gadgets.acquisitions import PE, SKEWED, kspace, lines_of, scan
from tests.gadgets.pipelines import Detecting

ACS = list(range(22, 26))
PLANNED = [*ACS, *range(40, PE)]  # what Detecting plans


@pytest.fixture(scope="module")
def k():
    return kspace()


def run(acquisitions, pipeline, properties=None, **changes):
    the_scan = scan(properties, **changes)
    return the_scan, list(feed_back(buffer_lines(acquisitions, the_scan), the_scan, pipeline))


def plans(items):
    return [item for item in items if isinstance(item, Image)]


def whole(the_scan, items):
    (message,) = [item for item in items if isinstance(item, ReconData)]
    (found,) = mrd.slices_of(message, the_scan)
    return found


def test_plan_message_is_as_specified(k):
    _, items = run(lines_of(k, slice=7, repetition=1), Detecting())
    (plan,) = plans(items)
    assert (plan.data.shape, plan.data.dtype) == ((1, 1, 1, PE), np.uint16)
    assert np.flatnonzero(plan.data).tolist() == PLANNED
    assert plan.image_series_index == 1000
    assert (plan.slice, plan.repetition, plan.image_index) == (7, 1, 1)
    assert tuple(plan.getHead().read_dir) == SKEWED["read_dir"]
    meta = plan.meta
    assert meta["DataRole"] == "SamplingPlan"
    assert meta["PASS_lines"] == [str(line) for line in reversed(PLANNED)], "the order of acquisition, not of lines"
    expected = {"PASS_slice": "7", "PASS_acceleration": "4", "PASS_anomaly_score": "0.5000"}
    expected |= {"PASS_bundle": "pretended-4x", "PASS_source": "personal"}
    assert {name: meta[name] for name in expected} == expected
    assert "PASS_fallback" not in meta


def test_plan_comes_before_any_other_line_is_read(k):
    the_scan, read = scan(), 0

    def counted():
        nonlocal read
        for made in lines_of(k, [*ACS, *range(22), *range(26, PE)]):
            read += 1
            yield made

    first = next(feed_back(buffer_lines(counted(), the_scan), the_scan, Detecting()))
    assert mrd.is_plan(first)
    assert read == len(ACS)


def test_classical_pipeline_gives_the_population_plan_with_its_budget(k):
    _, items = run(lines_of(k), Pipeline())
    (plan,) = plans(items)
    assert plan.meta["PASS_source"] == "population"
    assert int(plan.data.sum()) == round(PE / 4)
    assert "PASS_anomaly_score" not in plan.meta
    assert float(plan.meta["PASS_seconds_plan"]) > 0


def test_retrospective_drops_what_was_not_planned(k):
    the_scan, items = run(lines_of(k), Detecting())
    found = whole(the_scan, items)
    assert np.flatnonzero(found.line_mask).tolist() == PLANNED
    np.testing.assert_array_equal(found.kspace[..., PLANNED], k[..., PLANNED])
    assert not found.kspace[..., 0].any()


def test_retrospective_uses_everything_where_planned_lines_are_missing(k):
    steps = sorted({*ACS, *range(0, PE, 2)})
    the_scan, items = run(lines_of(k, steps), Detecting())
    planned, acquired = plans(items)
    assert (planned.meta["PASS_source"], acquired.meta["PASS_source"]) == ("personal", "acquired")
    assert np.flatnonzero(acquired.data).tolist() == steps
    assert np.flatnonzero(whole(the_scan, items).line_mask).tolist() == steps


@pytest.mark.parametrize("mode", ["retrospective", "closed_loop", "prospective"])
def test_a_slice_that_ends_long_before_its_plan_is_said_with_its_counts(k, mode):
    _, items = run(lines_of(k, range(20, 28)), Detecting(), {"mode": mode})
    said = [item.message for item in items if isinstance(item, Failure)]
    assert len(said) == (mode != "prospective")
    assert all(f"{len(ACS)} of the {len(PLANNED)} planned lines had come" in sentence for sentence in said)
    assert all("the 8 lines that came" in sentence for sentence in said)


def test_closed_loop_uses_all_that_came(k):
    the_scan, items = run(lines_of(k, [*ACS, *range(40, PE)]), Detecting(), {"mode": "closed_loop"})
    assert [plan.meta["PASS_source"] for plan in plans(items)] == ["personal"]
    assert np.flatnonzero(whole(the_scan, items).line_mask).tolist() == PLANNED
    the_scan, items = run(lines_of(k, [*ACS, *range(38, PE)]), Detecting(), {"mode": "closed_loop"})
    assert [plan.meta["PASS_source"] for plan in plans(items)] == ["personal", "acquired"]
    assert whole(the_scan, items).line_mask.sum() == len(ACS) + 10


def test_prospective_plans_nothing_and_tells_what_came(k):
    pipeline = Detecting()
    steps = [*ACS, 3, 31]
    the_scan, items = run(lines_of(k, steps), pipeline, {"mode": "prospective"})
    assert pipeline.planned == []
    (acquired,) = plans(items)
    assert acquired.meta["PASS_source"] == "acquired"
    assert acquired.meta["PASS_lines"] == [str(step) for step in steps]
    assert "PASS_fallback" not in acquired.meta
    assert whole(the_scan, items).line_mask.sum() == len(steps)


def test_failed_network_gives_the_population_plan_and_a_failure(k):
    _, items = run(lines_of(k, slice=3), Detecting(fail=("plan",)))
    (plan,) = plans(items)
    assert plan.meta["PASS_source"] == "population"
    assert plan.meta["PASS_fallback"] == "planning failed: RuntimeError: out of memory in plan"
    (failure,) = [item for item in items if isinstance(item, Failure)]
    assert failure == Failure("slice 3: planning failed: RuntimeError: out of memory in plan", "processing")
    assert items.index(plan) < items.index(failure), "the scanner waits for the plan"


def test_without_fallback_a_failed_network_gives_only_the_failure(k):
    the_scan, items = run(lines_of(k), Detecting(fail=("plan",)), {"fallback": "off"})
    (acquired,) = plans(items)
    assert acquired.meta["PASS_source"] == "acquired"
    assert len([item for item in items if isinstance(item, Failure)]) == 1
    assert whole(the_scan, items).line_mask.all()


def test_late_plan_is_not_waited_for(k):
    release = threading.Event()
    parts = [made for n in range(2) for made in lines_of(k, slice=n)]
    began = time.monotonic()
    closed = {"plan_deadline_ms": "100", "mode": "closed_loop"}
    _, items = run(parts, Detecting(hold=release), closed)
    seconds = time.monotonic() - began
    release.set()
    assert [plan.meta["PASS_source"] for plan in plans(items)] == ["population", "acquired"] * 2
    assert plans(items)[0].meta["PASS_fallback"] == "no personal plan within the deadline of 100 ms"
    assert seconds >= 0.2
    late = [item for item in items if isinstance(item, Failure)]
    assert [failure.severity for failure in late] == ["warning", "warning"]


def test_where_no_scanner_waits_no_plan_is_late(k):
    """Retrospective: whatever the deadline, the same data give the same lines."""
    release = threading.Event()
    threading.Timer(0.3, release.set).start()
    _, items = run(lines_of(k), Detecting(hold=release), {"plan_deadline_ms": "1"})
    assert [plan.meta["PASS_source"] for plan in plans(items)] == ["personal"]
    assert not [item for item in items if isinstance(item, Failure)]


def test_plan_images_can_be_left_out(k):
    the_scan, items = run(lines_of(k), Detecting(), {"plan_images": "off"})
    assert plans(items) == []
    assert np.flatnonzero(whole(the_scan, items).line_mask).tolist() == PLANNED, "the plan is followed all the same"
    assert plans(run(lines_of(k, [0, 1, 2]), Detecting(), {"plan_images": "False"})[1]) == []


def test_an_end_with_nothing_in_it_is_said():
    the_scan = scan(extra_limits="<slice><minimum>0</minimum><maximum>4</maximum><center>0</center></slice>")
    (failure,) = feed_back([], the_scan, Pipeline())
    assert failure.severity == "processing"
    assert "no line of an image came, though the header tells of 5 slices" in failure.message


def test_slices_that_never_come_are_said(k):
    the_scan = scan(extra_limits="<slice><minimum>0</minimum><maximum>4</maximum><center>0</center></slice>")
    messages = list(buffer_lines([*lines_of(k, slice=0), *lines_of(k, slice=1)], the_scan))
    assert len(messages) == 4
    *_, short = feed_back(messages, the_scan, Pipeline())
    assert short == Failure("2 of the 5 slices that the header tells of came", "warning")
    *_, cut, short = feed_back(messages[:3], the_scan, Pipeline())  # as after the end of a killed stage
    assert cut == Failure("slice 1: its ACS came but never the slice, so there is no image of it", "processing")


def test_slice_without_acs_says_that_there_was_no_plan(k):
    the_scan, items = run(lines_of(k, [0, 1, 2, 3]), Detecting())
    (acquired,) = plans(items)
    assert (acquired.meta["PASS_source"], acquired.meta["PASS_fallback"]) == (
        "acquired",
        "no plan was made from the ACS",
    )
    assert whole(the_scan, items).line_mask.sum() == 4


def test_plans_of_interleaved_slices_do_not_mix(k):
    pipeline = Detecting()
    parts = [list(lines_of(k, slice=n)) for n in range(3)]
    the_scan, items = run([made for row in zip(*parts, strict=True) for made in row], pipeline)
    assert [plan.slice for plan in plans(items)] == [0, 1, 2]
    assert [plan.image_index for plan in plans(items)] == [1, 2, 3]
    for message in (item for item in items if isinstance(item, ReconData)):
        (found,) = mrd.slices_of(message, the_scan)
        assert np.flatnonzero(found.line_mask).tolist() == PLANNED


def test_other_items_pass_through():
    failure = Failure("from before", "input")
    assert list(feed_back([failure, "text"], scan(), Pipeline())) == [failure, "text"]


@pytest.mark.parametrize("mode", ["retrospective", "closed_loop"])
def test_no_line_is_planned_that_the_scanner_cannot_acquire(k, mode):
    """Partial Fourier: the first third of k-space is never acquired, and the plan asks for none of it."""
    _, items = run(lines_of(k, range(PE // 3, PE)), Pipeline(), {"mode": mode}, limits=(PE // 3, PE - 1, PE // 2))
    first = plans(items)[0]
    assert first.meta["PASS_source"] == "population"
    assert int(first.data.sum()) == round(PE / 4)
    assert not first.data.ravel()[: PE // 3].any()
    if mode == "retrospective":
        assert len(plans(items)) == 1, "every planned line came"


class Doubting(Detecting):
    """Says of an ACS that nothing is in it, as of lines that are not what the header takes them for."""

    def plan(self, *args, **kwargs):
        nothing = QualityFinding("empty", "no coil hears anything")
        return replace(super().plan(*args, **kwargs), quality=(nothing,), fallback=nothing.sentence)


@pytest.mark.parametrize(("mode", "told"), [("retrospective", False), ("closed_loop", True)])
def test_what_is_wrong_with_an_acs_is_told_only_to_a_scanner(k, mode, told):
    _, items = run(lines_of(k), Doubting(), {"mode": mode})
    plan, *_ = plans(items)
    assert ("PASS_quality" in plan.meta) == told
    assert ("PASS_fallback" in plan.meta) == told
