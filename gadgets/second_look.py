"""The second look: more lines where something was seen in the first image, and an answer in time for every slice.

The stage that reconstructs goes on yielding while it computes: a scanner that waits for a late answer gets an empty one
at the deadline, whatever is still being computed.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from ismrmrd import Image

from gadgets import mrd
from gadgets.protocol.connection import Failure

if TYPE_CHECKING:
    from pass_recon.pipeline import Pipeline
    from pass_recon.types import Reconstruction, SamplingPlan

ROUND_TWO = {"PASS_round": "2"}


@dataclass
class Job:
    """A slice to be reconstructed, told when it comes and once it is done.

    Attributes
    ----------
    data
        The slice.
    again
        Whether an image of fewer of its lines has been made before.
    done
        Whether it has been computed.
    result, failure
        What came of it.
    """

    data: mrd.SliceData
    again: bool = False
    done: bool = False
    result: Reconstruction | None = None
    failure: Failure | None = None


@dataclass
class _Open:
    """A slice that has not been answered: when it came, and what its plan is made from and told with."""

    header: Any
    encoding: mrd.Encoding
    plan: SamplingPlan
    came: float = field(default_factory=time.monotonic)


class SecondLook:
    """Decides which slices get additional lines, and sees to it that each slice is answered once.

    Parameters
    ----------
    scan
        The header and the properties.
    pipeline
        Chooses the lines.
    """

    def __init__(self, scan: mrd.ScanContext, pipeline: Pipeline) -> None:
        self._scan, self._pipeline, self._properties = scan, pipeline, scan.properties
        self._whole_scan = scan.properties.second_look == "scan"
        self._deadline_s = scan.properties.second_look_deadline_ms / 1000
        self._first: set[mrd.SliceKey] = set()
        self._open: dict[mrd.SliceKey, _Open] = {}
        self._seen: set[mrd.SliceKey] = set()
        self._suspicious: set[mrd.SliceKey] = set()  # with slice 0: those for all of whose slices the round is open
        self._asked: dict[mrd.SliceKey, int] = {}
        self._left = scan.properties.second_look_max_extra
        self._told_blind = False
        self._numbers = count(1)

    def remarks(self) -> Iterator[Failure]:
        """Why there will be no second round although there should be one."""
        properties = self._properties
        asked = f"second_look={properties.second_look}"
        if properties.second_look == "off":
            return
        if properties.mode != "closed_loop":
            yield Failure(f"{asked} is ignored: it needs mode=closed_loop, this is {properties.mode}", "warning")
        elif not properties.looks_again:
            yield Failure(f"{asked} is ignored: plan_images=off leaves no way to ask for lines", "warning")

    def events(self, slices: Iterable[Any], compute: Callable[[Job], None]) -> Iterator[Any]:
        """Each `Job` when it comes and again when it is done; None when an answer is due; what is no job as it is.

        Where a scanner waits for answers, jobs are computed on a thread of their own.
        """
        if self._properties.looks_again and math.isfinite(self._deadline_s):
            yield from _in_background(slices, compute, self._patience)
            return
        for item in slices:
            yield item
            if isinstance(item, Job):
                compute(item)
                item.done = True
                yield item

    def came(self, job: Job) -> Iterator[Image | Failure]:
        """Note a slice that is about to be computed, and answer it if that needs no look at it."""
        data = job.data
        if not self._properties.looks_again:
            return
        job.again = data.key in self._first
        if job.again:
            self._asked.pop(data.key, None)
            return
        from gadgets.fallback import acquired_plan

        self._first.add(data.key)
        plan = acquired_plan(data, self._scan, self._pipeline)
        self._open[data.key] = _Open(data.header, data.encoding, plan)
        if self._group(data.key) in self._suspicious:
            yield from self._answer(data.key, None)

    def seen(self, job: Job) -> Iterator[Image | Failure]:
        """Answer what can be answered now that a slice has been looked at."""
        key, result = job.data.key, job.result
        if job.again or key not in self._first:
            return
        self._seen.add(key)
        if result is None or not result.score:
            yield from self._unjudged(key, result)
        elif not self._whole_scan:
            if key in self._open:
                yield from self._answer(key, result)
        elif result.score[0] >= self._properties.second_look_threshold:
            self._suspicious.add(self._group(key))
            for other in self._open_of(key):
                yield from self._answer(other, None)
        if self._whole_scan and self._are_all(key, self._seen):
            for other in self._open_of(key):
                yield self._empty(other)

    def overdue(self) -> Iterator[Image | Failure]:
        """Empty plans for the slices whose deadline has passed."""
        now = time.monotonic()
        for key in [key for key, due in self._dues() if due <= now]:
            reason = f"no second look within the deadline of {self._properties.second_look_deadline_ms:g} ms"
            yield self._empty(key, reason)
            yield Failure(f"{key}: {reason}; the image of the first round stands", "warning")

    def rest(self) -> Iterator[Failure]:
        """What is to be said at the end."""
        for key, lines in self._asked.items():
            yield Failure(
                f"{key}: the {lines} additional lines of the second look never came; the image of the first round "
                "stands",
                "warning",
            )

    def _patience(self) -> float | None:
        """Seconds until the next deadline; None while there is none."""
        dues = [due for _, due in self._dues()]
        return max(min(dues) - time.monotonic(), 0.0) if dues else None

    def _dues(self) -> list[tuple[mrd.SliceKey, float]]:
        """By when the open slices must be answered: of a whole scan not before all of it has come."""
        if not self._whole_scan:
            return [(key, one.came + self._deadline_s) for key, one in self._open.items()]
        dues = []
        for key in self._open:
            if self._are_all(key, self._first):
                last = max(self._open[other].came for other in self._open_of(key))
                dues.append((key, last + self._deadline_s))
        return dues

    def _answer(self, key: mrd.SliceKey, result: Reconstruction | None) -> Iterator[Image | Failure]:
        try:
            plan = self._second_plan(key, result, None)
            wanted, most = int(plan.lines.sum()), self._most()
            if wanted > most:
                plan = self._second_plan(key, result, int(most))
        except Exception as error:  # noqa: BLE001, whatever goes wrong, the scanner is answered
            reason = f"second plan failed: {type(error).__name__}: {error}"
            yield self._empty(key, reason)
            yield Failure(f"{key}: {reason}; the image of the first round stands", "warning")
            return
        lines = int(plan.lines.sum())
        if not self._whole_scan:
            self._left -= lines
        if lines:
            self._asked[key] = lines
        yield self._told(key, plan)
        if lines < wanted:
            yield Failure(
                f"{key} gets {lines} of {wanted} additional lines: second_look_max_extra is "
                f"{self._properties.second_look_max_extra:g}",
                "warning",
            )

    def _unjudged(self, key: mrd.SliceKey, result: Reconstruction | None) -> Iterator[Image | Failure]:
        """The answer to a slice that no detector has looked at."""
        reason = "there is no image" if result is None else result.fallback
        if reason is None:
            reason = f"no detector looks at the images (bundle {self._pipeline.name})"
            if not self._told_blind:
                yield Failure(f"second_look={self._properties.second_look} brings nothing: {reason}", "warning")
            self._told_blind = True
        if key in self._open and not self._whole_scan:
            yield self._empty(key, reason)

    def _second_plan(self, key: mrd.SliceKey, result: Reconstruction | None, most: int | None) -> SamplingPlan:
        from gadgets.devices import computed

        one = self._open[key]
        plan, _ = computed(
            lambda pipeline: pipeline.second_plan(
                one.plan,
                result,
                self._properties.second_acceleration,
                threshold=self._properties.second_look_threshold,
                most=most,
                reachable=one.encoding.reachable,
            ),
            self._pipeline,
            self._scan,
        )
        return plan

    def _empty(self, key: mrd.SliceKey, reason: str | None = None) -> Image:
        from torch import zeros_like

        from pass_recon.types import SamplingPlan

        one = self._open[key]
        nothing = SamplingPlan(
            lines=zeros_like(one.plan.lines),
            order=(),
            acceleration=self._properties.second_acceleration,
            source="population",
            bundle=self._pipeline.name,
            fallback=reason,
        )
        return self._told(key, nothing)

    def _told(self, key: mrd.SliceKey, plan: SamplingPlan) -> Image:
        one = self._open.pop(key)
        return mrd.plan_image(plan, one.header, one.encoding, next(self._numbers), ROUND_TWO)

    def _most(self) -> float:
        """Lines that a slice may still get."""
        if self._whole_scan:
            return self._properties.second_look_max_extra // self._scan.slices
        return self._left

    def _group(self, key: mrd.SliceKey) -> mrd.SliceKey:
        return key._replace(slice=0)

    def _open_of(self, key: mrd.SliceKey) -> list[mrd.SliceKey]:
        return [other for other in self._open if self._group(other) == self._group(key)]

    def _are_all(self, key: mrd.SliceKey, which: set[mrd.SliceKey]) -> bool:
        return sum(self._group(other) == self._group(key) for other in which) >= self._scan.slices


_END = object()


def _in_background(
    items: Iterable[Any], compute: Callable[[Job], None], patience: Callable[[], float | None]
) -> Iterator[Any]:
    events: SimpleQueue[Any] = SimpleQueue()
    todo: SimpleQueue[Job | None] = SimpleQueue()

    def take() -> None:
        try:
            for item in items:
                events.put(item)
            events.put(_END)
        except Exception as error:  # noqa: BLE001, raised where events are taken
            events.put(error)

    def work() -> None:
        try:
            for job in iter(todo.get, None):
                compute(job)
                job.done = True
                events.put(job)
        except Exception as error:  # noqa: BLE001, raised where events are taken
            events.put(error)

    # Daemons, as a server waits for its gadgets to exit.
    threading.Thread(target=take, name="slices", daemon=True).start()
    threading.Thread(target=work, name="reconstruction", daemon=True).start()
    computing, ended = 0, False
    try:
        while computing or not ended:
            try:
                event = events.get(timeout=patience())
            except Empty:
                yield None
                continue
            if event is _END:
                ended = True
                continue
            if isinstance(event, Exception):
                raise event
            finished = isinstance(event, Job) and event.done
            computing += isinstance(event, Job) and not finished
            computing -= finished
            yield event
            if isinstance(event, Job) and not finished:
                todo.put(event)
    finally:
        todo.put(None)
