"""The four stages one after the other in one thread, without sockets: what ``pass-recon recon`` runs on a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from ismrmrd import Acquisition, Image

from gadgets.acs_buffer import buffer_lines
from gadgets.anomaly_overlay import overlay
from gadgets.mask_feedback import feed_back
from gadgets.mrd import ScanContext
from gadgets.pacs import sent_to_pacs
from gadgets.pass_reconstruction import reconstruct
from gadgets.pipelines import pipeline_for
from gadgets.properties import Properties
from gadgets.protocol.connection import Failure


def run_chain(
    acquisitions: Iterable[Acquisition], header: bytes | str, properties: Properties
) -> Iterator[Image | Failure]:
    """Plan and reconstruct what the acquisitions hold; a plan has all the time it takes.

    Parameters
    ----------
    acquisitions
        In order of acquisition, noise scans, navigators and all.
    header
        ISMRMRD XML.
    properties
        Those of the gadgets.

    Yields
    ------
    The images that the chain of gadgets sends, the same ones in the same order, and what went wrong on the way.

    Raises
    ------
    InputError, BundleError
        If the whole scan cannot be reconstructed: 3D, not Cartesian, no such bundle.
    """
    # Nobody waits for a plan here, so that none is late: the same file always gives the same image.
    patient = replace(properties, plan_deadline_ms=math.inf, second_look_deadline_ms=math.inf)
    scan = ScanContext(header, patient)
    pipeline = pipeline_for(scan)
    messages: Iterator[Any] = buffer_lines(acquisitions, scan)
    yield from sent_to_pacs(overlay(reconstruct(feed_back(messages, scan, pipeline), scan, pipeline)), scan)
