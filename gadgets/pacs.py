"""What a scan shows, to a PACS as DICOM, once the scan is over: the property ``dicom_to``.

Nothing of it can cost an image: all have left before the first object is made.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ismrmrd import Image

from gadgets.mrd import ScanContext
from gadgets.protocol.connection import Failure

_log = logging.getLogger(__name__)


def sent_to_pacs(outputs: Iterable[Any], scan: ScanContext) -> Iterator[Any]:
    """Pass the outputs of a scan on, and send them as DICOM when there are no more, if the properties say so.

    Parameters
    ----------
    outputs
        Those of `anomaly_overlay`.
    scan
        Its header and properties.

    Yields
    ------
    The outputs; at the end Failures that say what was not stored, and why.
    """
    if scan.properties.dicom_to == "off":
        yield from outputs
        return
    images: list[Image] = []
    for output in outputs:
        if isinstance(output, Image):
            images.append(output)
        yield output
    if images:
        for reason in _send(images, scan):
            yield Failure(f"not in the PACS {scan.properties.dicom_to}: {reason}", "processing")


def _send(images: Sequence[Image], scan: ScanContext) -> list[str]:
    try:
        from gadgets.converters.scan_record import scan_of_images
        from pass_recon.report.dicom.export import dicom_objects
        from pass_recon.report.dicom.send import Destination, send

        address, _, title = scan.properties.dicom_to.partition("/")
        destination = Destination.from_text(address, aec=title or "ANY-SCP", aet="PASSRECON")
        objects = dicom_objects(scan_of_images(images, scan.document))
        refused = send(objects.values(), destination)
    except Exception as error:  # noqa: BLE001, whatever happens here, the scan is well
        _log.debug("traceback", exc_info=True)
        return [str(error) or type(error).__name__]
    _log.info("%d DICOM objects are stored at %s", len(objects) - len(refused), scan.properties.dicom_to)
    return refused
