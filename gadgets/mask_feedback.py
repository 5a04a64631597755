"""Second stage: the ACS of a slice → its sampling plan, at once; later the slice, with only the lines to be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

from gadgetron.external.connection import Connection
from gadgetron.types.recon_data import ReconData

from gadgets import mrd
from gadgets.protocol.connection import Stage, run_gadget

if TYPE_CHECKING:
    from pass_recon.pipeline import Pipeline
    from pass_recon.types import SamplingPlan


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
    plans: dict[mrd.SliceKey, SamplingPlan] = {}
    numbers = count(1)
    with Planner(pipeline, scan) as planner:
        for message in messages:
            if not isinstance(message, ReconData):
                yield message
                continue
            for data in mrd.slices_of(message, scan):
                if not data.is_acs:
                    plan = plans.pop(data.key, None)
                    used, differs = _to_be_used(data, plan, scan)
                    if differs:
                        reason = None if plan or prospective else "no plan was made from the ACS"
                        told = acquired_plan(data, scan, pipeline, fallback=reason)
                        yield mrd.plan_image(told, data.header, data.encoding, next(numbers))
                    yield used
                elif not prospective:
                    plan, failure = planner.plan(data)
                    if plan is not None:
                        plans[data.key] = plan
                        yield mrd.plan_image(plan, data.header, data.encoding, next(numbers))
                    if failure is not None:
                        yield failure


def _to_be_used(whole: mrd.SliceData, plan: SamplingPlan | None, scan: mrd.ScanContext) -> tuple[ReconData, bool]:
    """The slice with the lines to be used, and whether these are others than those of the plan."""
    if plan is None:
        return whole.message, True
    planned = plan.lines.numpy()
    all_came = bool(whole.line_mask[planned].all())
    if scan.properties.mode == "retrospective" and all_came:
        return mrd.keep_lines(whole, planned), False
    return whole.message, not (all_came and whole.line_mask.sum() == planned.sum())
