"""The second look in one process: which slices get more lines, what is sent when, and what happens when it fails."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ismrmrd import Image

from gadgets import mrd
from gadgets.acs_buffer import buffer_lines
from gadgets.anomaly_overlay import overlay
from gadgets.mask_feedback import feed_back
from gadgets.pass_reconstruction import reconstruct
from gadgets.properties import Properties
from gadgets.protocol.connection import Failure
from pass_recon.types import InputError
from tests.gadgets.acquisitions import PE, acquisition, kspace, lines_of, scan
from tests.gadgets.pipelines import Detecting

ACS = list(range(22, 26))
FIRST = [*ACS, *range(40, PE)]  # what Detecting plans at 4×; at 2× there are 12 more
PATIENCE = 30.0


class Looking(Detecting):
    """Sees in the images of a scan, in order, what it is told to; 0 in those after."""

    def __init__(self, *scores: float, hold_image: threading.Event | None = None, broken: str = "", **kwargs: Any):
        super().__init__(**kwargs)
        self.scores, self.hold_image, self.broken = list(scores), hold_image, broken
        self.masks: list[list[int]] = []  # shared by copies, as the gadgets make them

    def reconstruct(self, kspace: Any, line_mask: Any, **kwargs: Any) -> Any:
        self.masks.append(np.flatnonzero(line_mask).tolist())
        if self.hold_image is not None:
            assert self.hold_image.wait(PATIENCE)
        again = len(self.masks[-1]) > len(FIRST)
        if again and self.broken == "again":
            raise RuntimeError("out of memory the second time")
        result = super().reconstruct(kspace, line_mask, **kwargs)
        if again and self.broken == "nan again":
            result.image[1, 2] = torch.nan
        return replace(result, score=(self.scores.pop(0) if self.scores and not again else 0.0,))

    def second_plan(self, *args: Any, **kwargs: Any) -> Any:
        if self.broken == "plan":
            raise RuntimeError("no lines to be had")
        return super().second_plan(*args, **kwargs)


class Scanner:
    """Acquires slices, waits for the second plan of each, and acquires its lines."""

    def __init__(self, slices: int, *, interleaved: bool = False, follows: bool = True) -> None:
        self.k = kspace()
        self.slices, self.interleaved, self.follows = slices, interleaved, follows
        self.plans: dict[int, list[int]] = {}
        self.received: list[Any] = []
        self.sent_when_answered: dict[int, int] = {}
        self.sent = 0
        self._changed = threading.Condition()

    def take(self, item: Any) -> None:
        """What the chain sends."""
        self.received.append(item)
        if isinstance(item, Image) and item.meta.get("PASS_round") == "2" and mrd.is_plan(item):
            with self._changed:
                self.sent_when_answered[item.slice] = self.sent
                self.plans[item.slice] = np.flatnonzero(item.data).tolist()
                self._changed.notify_all()

    def acquisitions(self) -> Iterator[Any]:
        """What it sends: first rounds, then second ones."""
        rounds = [list(lines_of(self.k, FIRST, slice=number)) for number in range(self.slices)]
        lines = zip(*rounds, strict=True) if self.interleaved else rounds
        for line in (line for group in lines for line in group):
            self.sent += 1
            yield line
        for number in range(self.slices) if self.follows else ():
            with self._changed:
                assert self._changed.wait_for(lambda number=number: number in self.plans, PATIENCE), "never answered"
            yield from lines_of(self.k, self.plans[number], slice=number)


def header_of(slices: int) -> dict[str, str]:
    limits = f"<slice><minimum>0</minimum><maximum>{slices - 1}</maximum><center>0</center></slice>"
    return {"extra_limits": limits}


def run(
    scanner: Scanner, pipeline: Any, look: str = "slice", deadline_ms: float = 10000.0, **properties: str
) -> list[Any]:
    given = {"mode": "closed_loop", "second_look": look, **properties}
    the_scan = scan(given, **header_of(scanner.slices))
    the_scan.properties = replace(the_scan.properties, second_look_deadline_ms=deadline_ms)
    planned = feed_back(buffer_lines(scanner.acquisitions(), the_scan), the_scan, pipeline)
    for item in overlay(reconstruct(planned, the_scan, pipeline)):
        scanner.take(item)
    return scanner.received


def images(items: list[Any], series: int = 1) -> list[Image]:
    return [item for item in items if isinstance(item, Image) and item.image_series_index == series]


def second_plans(items: list[Any]) -> dict[int, Image]:
    return {image.slice: image for image in images(items, 1000) if image.meta.get("PASS_round") == "2"}


def said(items: list[Any]) -> list[Failure]:
    return [item for item in items if isinstance(item, Failure)]


def rounds_of(items: list[Any], series: int = 1) -> list[tuple[int, str]]:
    return [(image.slice, image.meta.get("PASS_round", "1")) for image in images(items, series)]


@pytest.mark.parametrize("deadline_ms", [10000.0, math.inf])
def test_only_the_suspicious_slice_gets_more_lines(deadline_ms):
    """By a deadline that is never reached, and without one as on a file."""
    scanner = Scanner(2)
    items = run(scanner, Looking(0.9, 0.1), deadline_ms=deadline_ms)
    plans = second_plans(items)
    assert sorted(plans) == [0, 1]
    assert scanner.plans[1] == []
    assert "PASS_lines" not in plans[1].meta
    assert len(scanner.plans[0]) == 12
    assert not set(scanner.plans[0]) & set(FIRST)
    meta = plans[0].meta
    assert [int(line) for line in meta["PASS_lines"]] == scanner.plans[0]
    assert (meta["DataRole"], meta["PASS_acceleration"], meta["PASS_anomaly_score"]) == ("SamplingPlan", "2", "0.9000")
    assert rounds_of(items) == [(0, "1"), (1, "1"), (0, "2")]
    assert rounds_of(items, 2) == rounds_of(items, 3) == rounds_of(items)
    assert [image.meta["PASS_lines_used"] for image in images(items)] == ["12 of 48", "12 of 48", "24 of 48"]
    assert [image.image_index for image in images(items)] == [1, 2, 3]
    assert said(items) == []


def test_first_plans_say_that_an_answer_will_come():
    items = run(Scanner(1), Looking(0.1), look="scan")
    (first,) = [image for image in images(items, 1000) if "PASS_round" not in image.meta]
    assert first.meta["PASS_second_look"] == "scan"


def test_second_image_is_that_of_all_lines():
    scanner, pipeline = Scanner(1), Looking(0.9)
    items = run(scanner, pipeline)
    lines = sorted({*FIRST, *scanner.plans[0]})
    assert pipeline.masks == [FIRST, lines]
    mask = np.zeros(PE, bool)
    mask[lines] = True
    wanted = np.abs(np.asarray(pipeline.classical(scanner.k, mask).image))
    found = mrd.array_of(images(items)[1]).astype(float)
    np.testing.assert_allclose(found / found.max(), wanted / wanted.max(), atol=2e-3)


def test_answer_comes_after_the_first_image_and_before_another_line_is_needed():
    scanner = Scanner(2)
    items = run(scanner, Looking(0.9, 0.9), deadline_ms=60000.0)
    order = [(item.image_series_index, item.slice, item.meta.get("PASS_round", "1")) for item in items
             if isinstance(item, Image) and item.slice == 0]  # fmt: skip
    assert order == [(1000, 0, "1"), (1, 0, "1"), (2, 0, "1"), (3, 0, "1"), (1000, 0, "2"),
                     (1, 0, "2"), (2, 0, "2"), (3, 0, "2")]  # fmt: skip


class TestScan:
    """``second_look=scan``: the first suspicious slice opens the round for all."""

    @pytest.mark.parametrize("interleaved", [False, True])
    def test_one_suspicious_slice_is_enough(self, interleaved):
        scanner = Scanner(3, interleaved=interleaved)
        items = run(scanner, Looking(0.1, 0.9, 0.1), look="scan")
        assert [len(scanner.plans[number]) for number in range(3)] == [12, 12, 12]
        assert sorted(rounds_of(items)) == [(0, "1"), (0, "2"), (1, "1"), (1, "2"), (2, "1"), (2, "2")]
        assert said(items) == []

    def test_nothing_is_answered_before_all_have_been_seen_and_then_all_are(self):
        scanner = Scanner(3)
        items = run(scanner, Looking(0.1, 0.2, 0.3), look="scan")
        assert scanner.plans == {0: [], 1: [], 2: []}
        assert set(scanner.sent_when_answered.values()) == {3 * len(FIRST)}
        assert len(images(items)) == 3

    def test_every_slice_gets_the_same_share_of_the_cap(self):
        scanner = Scanner(3, interleaved=True)
        items = run(scanner, Looking(0.9, 0.1, 0.1), look="scan", second_look_max_extra="20")
        assert [len(scanner.plans[number]) for number in range(3)] == [6, 6, 6]
        assert "slice 0 gets 6 of 12 additional lines: second_look_max_extra is 20" in said(items)[0].message


def test_interleaved_slices_are_judged_one_by_one():
    scanner = Scanner(3, interleaved=True)
    items = run(scanner, Looking(0.1, 0.9, 0.1))
    assert [len(scanner.plans[number]) for number in range(3)] == [0, 12, 0]
    assert sorted(rounds_of(items)) == [(0, "1"), (1, "1"), (1, "2"), (2, "1")]


def test_cap_goes_to_those_that_come_first():
    scanner = Scanner(3)
    items = run(scanner, Looking(0.9, 0.9, 0.9), second_look_max_extra="17")
    assert [len(scanner.plans[number]) for number in range(3)] == [12, 5, 0]
    assert [failure.severity for failure in said(items)] == ["warning", "warning"]
    assert "slice 2 gets 0 of 12" in said(items)[1].message


def answered_scanner() -> tuple[Scanner, threading.Event]:
    """A scanner of two slices, and what is set once both have their second plan."""
    release = threading.Event()
    scanner = Scanner(2)
    take = scanner.take

    def release_when_answered(item: Any) -> None:
        take(item)
        if len(scanner.plans) == 2:
            release.set()

    scanner.take = release_when_answered  # type: ignore[method-assign]
    return scanner, release


def test_scanner_that_waits_is_answered_at_the_deadline_while_the_image_is_being_made():
    scanner, release = answered_scanner()
    items = run(scanner, Looking(0.9, 0.9, hold_image=release), deadline_ms=50.0)
    assert scanner.plans == {0: [], 1: []}
    reason = "no second look within the deadline of 50 ms"
    assert {plan.meta["PASS_fallback"] for plan in second_plans(items).values()} == {reason}
    assert rounds_of(items) == [(0, "1"), (1, "1")], "nothing is lost"
    assert {failure.severity for failure in said(items)} == {"warning"}
    assert f"slice 0: {reason}; the image of the first round stands" in [failure.message for failure in said(items)]


def test_deadline_of_a_whole_scan_counts_from_its_last_slice():
    scanner, release = answered_scanner()
    items = run(scanner, Looking(0.1, 0.9, hold_image=release), look="scan", deadline_ms=50.0)
    assert scanner.plans == {0: [], 1: []}
    assert len(images(items)) == 2


@pytest.mark.parametrize("look", ["slice", "scan"])
def test_scanner_that_sends_no_second_round_is_told_of(look):
    items = run(Scanner(1, follows=False), Looking(0.9), look=look)
    assert rounds_of(items) == [(0, "1")]
    (failure,) = said(items)
    assert failure.severity == "warning"
    assert failure.message == (
        "slice 0: the 12 additional lines of the second look never came; the image of the first round stands"
    )


@pytest.mark.parametrize("broken", ["again", "nan again"])
def test_second_image_that_fails_leaves_the_first(broken):
    items = run(Scanner(1), Looking(0.9, broken=broken))
    assert rounds_of(items) == [(0, "1")]
    (failure,) = said(items)
    assert failure.severity == "warning"
    assert failure.message.endswith("the image of the first round stands")


def test_second_plan_that_fails_is_an_empty_one():
    scanner = Scanner(1)
    items = run(scanner, Looking(0.9, broken="plan"))
    assert scanner.plans == {0: []}
    assert "no lines to be had" in second_plans(items)[0].meta["PASS_fallback"]
    assert [failure.severity for failure in said(items)] == ["warning"]
    assert len(images(items)) == 1


@pytest.mark.parametrize("look", ["slice", "scan"])
def test_first_image_that_fails_is_answered_too(look):
    scanner = Scanner(2)
    items = run(scanner, Looking(fail=("reconstruct",)), look=look)
    assert scanner.plans == {0: [], 1: []}
    assert all("CG-SENSE" in image.meta["ImageProcessingHistory"] or image.meta["PASS_fallback"]
               for image in images(items))  # fmt: skip
    assert len(images(items)) == 2


def test_without_a_detector_it_is_said_once_and_all_are_answered():
    from pass_recon.pipeline import Pipeline

    scanner = Scanner(2)
    items = run(scanner, Pipeline())
    assert scanner.plans == {0: [], 1: []}
    (failure,) = said(items)
    assert failure.message == "second_look=slice brings nothing: no detector looks at the images (bundle classical)"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"mode": "retrospective"}, "it needs mode=closed_loop, this is retrospective"),
        ({"mode": "prospective"}, "it needs mode=closed_loop, this is prospective"),
        ({"plan_images": "off"}, "plan_images=off leaves no way to ask for lines"),
    ],
)
def test_where_it_cannot_be_it_is_ignored_with_a_sentence(given, sentence):
    items = run(Scanner(2, follows=False), Looking(0.9, 0.9), **given)
    assert second_plans(items) == {}
    assert rounds_of(items) == [(0, "1"), (1, "1")]
    (failure,) = said(items)
    assert (failure.severity, failure.message) == ("warning", f"second_look=slice is ignored: {sentence}")


def test_lines_that_come_once_more_are_left_out():
    """A scanner that sends the ACS again in its second round."""
    scanner, pipeline = Scanner(1), Looking(0.9)
    acquisitions = scanner.acquisitions

    def with_acs() -> Iterator[Any]:
        for number, line in enumerate(acquisitions()):
            if number == len(FIRST) + 1:
                yield acquisition(7 * scanner.k[..., 23], 23)
            yield line

    scanner.acquisitions = with_acs  # type: ignore[method-assign]
    items = run(scanner, pipeline)
    assert len(pipeline.masks[1]) == 24
    assert rounds_of(items) == [(0, "1"), (0, "2")]
    strongest = [int(image.data.max()) / float(image.meta["PASS_scale"]) for image in images(items)]
    assert strongest[1] == pytest.approx(strongest[0], rel=0.3)


def test_second_round_that_is_cut_off_gives_an_image_of_what_came():
    scanner = Scanner(1)
    acquisitions = scanner.acquisitions
    scanner.acquisitions = lambda: (line for _, line in zip(range(len(FIRST) + 5), acquisitions(), strict=False))  # type: ignore[method-assign]
    items = run(scanner, Looking(0.9))
    assert rounds_of(items) == [(0, "1"), (0, "2")]
    assert images(items)[1].meta["PASS_lines_used"] == "17 of 48"
    assert "slice 0 is truncated" in said(items)[0].message


@pytest.mark.parametrize(("repetition", "rounds"), [(0, 1), (1, 2), (2, 2)])
def test_of_a_series_of_repetitions_the_last_two_can_have_a_second_round(repetition, rounds):
    """Otherwise a series that runs for hours would be kept whole."""
    the_scan, k = scan({"mode": "closed_loop", "second_look": "slice"}), kspace()
    lines = [line for number in range(3) for line in lines_of(k, FIRST, repetition=number)]
    lines += lines_of(k, [0, 1, 2], repetition=repetition)
    given = [data for item in buffer_lines(lines, the_scan) if not isinstance(item, Failure)
             for data in mrd.slices_of(item, the_scan) if not data.is_acs]  # fmt: skip
    assert [data.key.repetition for data in given].count(repetition) == rounds
    assert len(given) == 2 + rounds


class TestProperties:
    def test_second_acceleration_is_half_of_the_first_by_default(self):
        given = {"mode": "closed_loop", "second_look": "slice"}
        assert Properties.from_text(given | {"acceleration": "8"}).second_acceleration == 4
        assert Properties.from_text(given).second_acceleration == 2

    def test_second_acceleration_that_asks_for_nothing_is_refused(self):
        given = {"mode": "closed_loop", "second_look": "slice", "second_look_acceleration": "4"}
        with pytest.raises(
            InputError, match="'second_look_acceleration' must be below acceleration, which is 4, got 4"
        ):
            Properties.from_text(given)
        assert not Properties.from_text(given | {"mode": "retrospective"}).looks_again

    @pytest.mark.parametrize(
        ("name", "value"),
        [("second_look", "always"), ("second_look_threshold", "1.1"), ("second_look_max_extra", "-1"),
         ("second_look_acceleration", "half"), ("second_look_deadline_ms", "inf")],
    )  # fmt: skip
    def test_impossible_values(self, name, value):
        with pytest.raises(InputError, match=f"'{name}'"):
            Properties.from_text({name: value})

    def test_cap_may_be_infinite(self):
        assert Properties.from_text({"second_look_max_extra": "inf"}) == Properties()
