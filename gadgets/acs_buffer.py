"""First stage: acquisitions → ReconData, the ACS of a slice as soon as it is there, the whole slice when it is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import ismrmrd
from gadgetron.external.connection import Connection
from gadgetron.types.recon_data import ReconData

from gadgets import mrd
from gadgets.protocol.connection import Failure, run_gadget
from pass_recon.types import InputError


def acs_buffer(connection: Connection) -> None:
    """Run the stage as a gadget: ``python -m gadgetron PORT gadgets.acs_buffer acs_buffer``."""
    run_gadget(connection, lambda scan: lambda acquisitions: buffer_lines(acquisitions, scan))


def buffer_lines(acquisitions: Iterable[Any], scan: mrd.ScanContext) -> Iterator[ReconData | Failure]:
    """Collect lines into slices.

    Parameters
    ----------
    acquisitions
        Acquisitions in any order of slices, contrasts and averages; anything else among them is ignored.
    scan
        The header and the properties.

    Yields
    ------
    The ACS of each slice once its last line has come, each whole slice at its end, and a failure for each line that
    could not be used.
    """
    readouts, slices, dropped = mrd.Readouts(scan), mrd.SliceSorter(scan), _Dropped()
    for acquisition in (item for item in acquisitions if isinstance(item, ismrmrd.Acquisition)):
        slices.watch(acquisition)
        try:
            if mrd.is_noise(acquisition):
                readouts.add_noise(acquisition)
            if not mrd.is_for_images(acquisition):
                continue
            part = slices.slice_of(acquisition)
            part.add(acquisition, readouts.line(acquisition))
            if part.acs_just_completed():
                yield mrd.acs_message(part)
        except InputError as error:
            yield from dropped.line(acquisition, error)
        while readouts.noise_failures:
            yield Failure(readouts.noise_failures.pop(), "input")
        for ended in slices.ended_by(acquisition):
            yield from _whole(ended, dropped)
    for left, truncated in slices.rest():
        if truncated:
            yield Failure(f"{left.key} is truncated: {left.received} lines came, none marked as its last", "input")
        yield from _whole(left, dropped)


def _whole(ended: mrd.Slice, dropped: _Dropped) -> Iterator[ReconData | Failure]:
    yield from dropped.summary(ended.key)
    if not ended.has_acs():
        came = sum(line in ended.calibration.sums for line in ended.acs)
        lines = f"lines {ended.acs.start} to {ended.acs.stop - 1}"
        yield Failure(f"{ended.key} has no complete ACS: {came} of {len(ended.acs)} came ({lines})", "input")
    if ended.image.sums:
        yield mrd.slice_message(ended)
    else:
        yield Failure(f"{ended.key} has no line that can be used, so there is no image of it", "input")


class _Dropped:
    """Says which line was dropped and why, but only once for each slice and reason."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[mrd.SliceKey, str]] = Counter()

    def line(self, acquisition: ismrmrd.Acquisition, error: InputError) -> Iterator[Failure]:
        key = mrd.SliceKey.of(acquisition)
        # The numbers in the sentence differ from line to line, the reason does not.
        reason = "".join(character for character in str(error) if not character.isdigit())
        self._counts[key, reason] += 1
        if self._counts[key, reason] == 1:
            step = acquisition.idx.kspace_encode_step_1
            yield Failure(f"{key}, encoding step {step} dropped: {error}", "input")

    def summary(self, key: mrd.SliceKey) -> Iterator[Failure]:
        total = sum(count for (slice_key, _), count in self._counts.items() if slice_key == key)
        if total > 1:
            yield Failure(f"{key}: {total} acquisitions dropped in all", "input")
