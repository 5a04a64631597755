"""Third stage: slices → the reconstruction (complex64) and its anomaly map (float32)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

from gadgetron.external.connection import Connection
from gadgetron.types.recon_data import ReconData
from ismrmrd import Image

from gadgets import mrd
from gadgets.protocol.connection import Failure, Stage, run_gadget
from gadgets.second_look import ROUND_TWO, Job, SecondLook

if TYPE_CHECKING:
    from pass_recon.pipeline import Pipeline
    from pass_recon.types import Reconstruction


_log = logging.getLogger(__name__)


def pass_reconstruction(connection: Connection) -> None:
    """Run the stage as a gadget: ``python -m gadgetron PORT gadgets.pass_reconstruction pass_reconstruction``."""

    def prepare(scan: mrd.ScanContext) -> Stage:
        from gadgets.pipelines import pipeline_for

        pipeline = pipeline_for(scan)
        return lambda messages: reconstruct(messages, scan, pipeline)

    run_gadget(connection, prepare)


def reconstruct(messages: Iterable[Any], scan: mrd.ScanContext, pipeline: Pipeline) -> Iterator[Any]:
    """Reconstruct each slice.

    Parameters
    ----------
    messages
        ReconData of whole slices; an ACS alone is no image and is dropped; anything else passes through.
    scan
        The header and the properties.
    pipeline
        Makes the images.

    Yields
    ------
    For each slice the image and, where a detector has looked at it, directly after it the map. With a second look the
    plan of its additional lines, and the same again once they have come. Failures.
    """
    look, numbers = SecondLook(scan, pipeline), count(1)
    yield from look.remarks()
    for event in look.events(_slices(messages, scan), _compute(scan, pipeline)):
        if event is None:
            yield from look.overdue()
        elif not isinstance(event, Job):
            yield event
        elif not event.done:
            yield from look.came(event)
        else:
            if event.result is not None:
                yield from _images(event.result, event, scan, next(numbers))
            if event.failure is not None:
                yield event.failure
            yield from look.seen(event)
    yield from look.rest()


def _slices(messages: Iterable[Any], scan: mrd.ScanContext) -> Iterator[Any]:
    """What is to be reconstructed, and whatever else comes; a word at the end where nothing did."""
    explained = False
    for message in messages:
        explained |= isinstance(message, ReconData | Failure)
        if isinstance(message, ReconData):
            yield from (Job(data) for data in mrd.slices_of(message, scan) if not data.is_acs)
        else:
            yield message
    if not explained:
        yield Failure("no slice came to be reconstructed: a stage before has failed", "processing")


def _compute(scan: mrd.ScanContext, pipeline: Pipeline) -> Callable[[Job], None]:
    """What reconstructs a scan's slices, one after the other."""
    from gadgets import fallback
    from gadgets.pipelines import guarded, second_pipeline

    second = second_pipeline(scan, pipeline) if scan.properties.looks_again else pipeline
    pipeline, others = guarded(pipeline, scan.properties.guard)
    _, second = guarded(second, scan.properties.guard)

    def compute(job: Job) -> None:
        nonlocal pipeline
        chosen = second if job.again else pipeline
        job.result, job.failure = fallback.reconstruct(job.data, scan, chosen, again=job.again)
        pipeline = others

    return compute


def _images(result: Reconstruction, job: Job, scan: mrd.ScanContext, number: int) -> Iterator[Image]:
    from gadgets.mrd import geometry
    from gadgets.pipelines import bundle_reason

    data = job.data
    shape = (data.kspace.shape[1], data.kspace.shape[2])
    boxes = geometry.boxes_to_recon_space(result.boxes[0], shape, data.encoding) if result.boxes else ()
    meta = mrd.reconstruction_meta(result, data, scan, boxes, bundle_reason(scan)) | (ROUND_TWO if job.again else {})
    pixels = geometry.to_recon_space(result.image, data.encoding)
    image = mrd.image_from_slice(
        pixels, data.header, data.encoding, series=mrd.RECONSTRUCTION_SERIES, index=number, meta=meta
    )
    for remark in mrd.remarks(image):
        _log.info("%s: %s", data.key, remark.text)
    yield image
    if scan.properties.anomaly and result.anomaly_map is not None:
        anomaly_map = geometry.map_to_recon_space(result.anomaly_map, data.encoding)
        yield mrd.image_from_slice(
            anomaly_map, data.header, data.encoding, series=mrd.MAP_SERIES, index=number, meta=meta
        )
