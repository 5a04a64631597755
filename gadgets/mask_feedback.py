"""Second stage: the ACS of a slice → its sampling plan, at once; later the slice, with only the lines to be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

from gadgetron.external.connection import Connection
from gadgetron.types.recon_data import ReconData

from gadgets import mrd
from gadgets.protocol.connection import Failure, Stage, run_gadget

if TYPE_CHECKING:
    from pass_recon.pipeline import Pipeline
    from pass_recon.types import SamplingPlan

# Lines as a share of those planned below which a slice is said to have ended early.
_MOST = 0.9


def mask_feedback(connection: Connection) -> None:
    """Run the stage as a gadget: ``python -m gadgetron PORT gadgets.mask_feedback mask_feedback``."""

    def prepare(scan: mrd.ScanContext) -> Stage:
        from gadgets.pipelines import pipeline_for

        pipeline = pipeline_for(scan)
        return lambda messages: feed_back(messages, scan, pipeline)

    run_gadget(connection, prepare)


def feed_back(messages: Iterable[Any], scan: mrd.ScanContext, pipeline: Pipeline) -> Iterator[Any]:
    """Plan each slice from its ACS, and hold the slice to its plan.

    Parameters
    ----------
    messages
        ReconData of `acs_buffer`; anything else passes through.
    scan
        The header and the properties.
    pipeline
        Makes the plans.

    Yields
    ------
    For an ACS the plan Image. For a whole slice its ReconData, without unplanned lines if the mode is retrospective and
    each planned line has come, and an Image of what was acquired where that is not the plan. Failures.
    """
    from gadgets.fallback import Planner, acquired_plan

    prospective = scan.properties.mode == "prospective"
    told, looks_again = scan.properties.plan_images != "off", scan.properties.looks_again
    plans: dict[mrd.SliceKey, SamplingPlan] = {}
    came = _Came(scan)
    numbers = count(1)
    with Planner(pipeline, scan) as planner:
        for message in messages:
            if not isinstance(message, ReconData):
                came.failed |= isinstance(message, Failure) and message.severity != "warning"
                yield message
                continue
            for data in mrd.slices_of(message, scan):
                again = looks_again and came.is_whole(data)
                came.note(data)
                if again:  # with the lines of its second plan, which is none of ours
                    yield data.message
                elif not data.is_acs:
                    plan = plans.pop(data.key, None)
                    used, differs = _to_be_used(data, plan, scan)
                    if plan is not None:
                        yield from _too_few(data, plan)
                    if differs and told:
                        reason = None if plan or prospective else "no plan was made from the ACS"
                        acquired = acquired_plan(data, scan, pipeline, fallback=reason)
                        yield mrd.plan_image(acquired, data.header, data.encoding, next(numbers))
                    yield used
                elif not prospective:
                    plan, failure = planner.plan(data)
                    if plan is not None:
                        plan = plan if scan.properties.mode == "closed_loop" else _without_findings(plan)
                        plans[data.key] = plan
                        if told:
                            # Whoever follows it is told that an answer to the slice will come, too.
                            more = {"PASS_second_look": scan.properties.second_look} if looks_again else {}
                            yield mrd.plan_image(plan, data.header, data.encoding, next(numbers), more)
                    if failure is not None:
                        yield failure
    yield from came.missing()


class _Came:
    """Which slices came, to tell those that should have: a stage that is killed looks like a normal end to the next."""

    def __init__(self, scan: mrd.ScanContext) -> None:
        self._promised = scan.slices
        self._begun: dict[mrd.SliceKey, None] = {}
        self._whole: set[mrd.SliceKey] = set()
        self.failed = False

    def note(self, data: mrd.SliceData) -> None:
        """An ACS or a slice came."""
        if data.is_acs:
            self._begun[data.key] = None
        else:
            self._whole.add(data.key)

    def is_whole(self, data: mrd.SliceData) -> bool:
        """Whether the whole slice has come before."""
        return not data.is_acs and data.key in self._whole

    def missing(self) -> Iterator[Failure]:
        """What is to be said at the end."""
        for key in (key for key in self._begun if key not in self._whole):
            yield Failure(f"{key}: its ACS came but never the slice, so there is no image of it", "processing")
        slices = len({key.slice for key in self._whole})
        if not self._whole and not self._begun:
            if not self.failed:  # otherwise it has been said why
                yield Failure(
                    f"no line of an image came, though the header tells of {self._promised} slices: nothing was sent, "
                    "or the stage before has failed",
                    "processing",
                )
        elif slices < self._promised:
            yield Failure(f"{slices} of the {self._promised} slices that the header tells of came", "warning")


def _without_findings(plan: SamplingPlan) -> SamplingPlan:
    """What is wrong with the data the image of all lines says better, which also knows where their centre is."""
    found = {finding.sentence for finding in plan.quality}
    return replace(plan, quality=(), fallback=None if plan.fallback in found else plan.fallback)


def _too_few(whole: mrd.SliceData, plan: SamplingPlan) -> Iterator[Failure]:
    """A word on a slice that ended long before its plan was acquired."""
    planned, came = int(plan.lines.sum()), int(whole.line_mask[plan.lines.numpy()].sum())
    if whole.line_mask.sum() < _MOST * planned:  # as many of others are a scan that is sampled in another way
        yield Failure(
            f"{whole.key} ended when {came} of the {planned} planned lines had come: its image is made of the "
            f"{int(whole.line_mask.sum())} lines that came, planned or not",
            "warning",
        )


def _to_be_used(whole: mrd.SliceData, plan: SamplingPlan | None, scan: mrd.ScanContext) -> tuple[ReconData, bool]:
    """The slice with the lines to be used, and whether these are others than those of the plan."""
    if plan is None:
        return whole.message, True
    planned = plan.lines.numpy()
    all_came = bool(whole.line_mask[planned].all())
    if scan.properties.mode == "retrospective" and all_came:
        return mrd.keep_lines(whole, planned), False
    return whole.message, not (all_came and whole.line_mask.sum() == planned.sum())
