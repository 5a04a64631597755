"""First stage: acquisitions → ReconData, the ACS of a slice as soon as it is there, the whole slice when it is over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import ismrmrd
from gadgetron.external.connection import Connection
from gadgetron.types.recon_data import ReconData

from gadgets import mrd
from gadgets.finished_slices import DroppedLines, FinishedSlices, Warnings
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
    The ACS of each slice once its last line has come, each whole slice once it is over and its calibration is there,
    and failures: warnings of what was made up for, errors for what is lost.
    """
    readouts, slices, warnings = mrd.Readouts(scan), mrd.SliceSorter(scan), Warnings()
    finished, dropped = FinishedSlices(scan, slices, warnings), DroppedLines()
    only_acquisitions = (item for item in acquisitions if isinstance(item, ismrmrd.Acquisition))
    for acquisition in readouts.after_learning(only_acquisitions, slices.is_of_image):
        slices.watch(acquisition)
        try:
            if mrd.is_noise(acquisition):
                readouts.add_noise(acquisition)
            if not mrd.is_for_images(acquisition):
                continue
            if slices.is_reference(acquisition):
                _add_reference(acquisition, readouts, slices)
                continue
            part = slices.slice_of(acquisition)
            part.add(acquisition, readouts.line(acquisition))
            # A calibration scan under another name would wait for its image for ever.
            if not (part.only_calibration and scan.properties.mode != "closed_loop") and part.acs_just_completed():
                yield mrd.acs_message(part)
        except InputError as error:
            yield from dropped.line(acquisition, error)
        yield from warnings.new([*scan.remarks, *readouts.remarks])
        for ended in slices.ended_by(acquisition):
            yield from dropped.summary(ended.key)
            yield from finished.over(ended)
    for left, truncated in slices.rest():
        yield from dropped.summary(left.key)
        yield from finished.left(left, truncated=truncated)
    yield from finished.rest()
    yield from dropped.rest()
    yield from warnings.new(scan.remarks)  # of a header that no line came after


def _add_reference(acquisition: ismrmrd.Acquisition, readouts: mrd.Readouts, slices: mrd.SliceSorter) -> None:
    line = readouts.line(acquisition, of_image=False)
    slices.reference_of(acquisition).add(acquisition.idx.kspace_encode_step_1, line, acquisition.getHead())
