"""DICOM objects to a PACS, by C-STORE."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

from pass_recon.types import InputError

_TIMEOUT_S = 30.0
_TITLE_LENGTH = 16


@dataclass(frozen=True)
class Destination:
    """Where to send to, and as whom: ``aec`` is the title called, ``aet`` our own.

    Raises
    ------
    InputError
        If a title is empty or longer than DICOM allows, or the port is none.
    """

    host: str
    port: int
    aec: str = "ANY-SCP"
    aet: str = "PASSRECON"

    def __post_init__(self) -> None:
        for title in (self.aec, self.aet):
            if not 0 < len(title.strip()) <= _TITLE_LENGTH or "\\" in title or not title.isascii():
                raise InputError(f"an application entity title has 1 to {_TITLE_LENGTH} letters, got {title!r}")
        if not 0 < self.port < 65536:
            raise InputError(f"a port lies between 1 and 65535, got {self.port}")

    @classmethod
    def from_text(cls, address: str, *, aec: str, aet: str) -> Destination:
        """Read ``HOST:PORT``; an IPv6 address stands in brackets."""
        host, separator, port = address.rpartition(":")
        if not (separator and host and port.isdigit()):
            raise InputError(f"where to send to is HOST:PORT, got {address!r}")
        return cls(host.strip("[]"), int(port), aec, aet)


def send(
    objects: Iterable[Dataset], destination: Destination, *, progress: Callable[[], object] | None = None
) -> list[str]:
    """Send objects over one association.

    Returns
    -------
    list of str
        What was refused, a sentence each; empty if all was stored.

    Raises
    ------
    ConnectionError
        If nobody answers there, or the association is refused or lost.
    """
    objects = list(objects)
    entity = AE(ae_title=destination.aet)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = _TIMEOUT_S
    for sop_class in dict.fromkeys(str(data.SOPClassUID) for data in objects):
        entity.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    where = f"{destination.host}:{destination.port}, {destination.aec}"
    _knock(destination, where)
    association = entity.associate(destination.host, destination.port, ae_title=destination.aec)
    if not association.is_established:
        why = "refuses the association" if association.is_rejected else "does not answer"
        raise ConnectionError(f"the PACS at {where} {why}")
    refused = []
    try:
        for data in objects:
            if reason := _store(association, data):
                refused.append(f"{data.SeriesDescription} {data.InstanceNumber} was not stored: {reason}")
            if not association.is_established:
                raise ConnectionError(f"the PACS at {where} went away before all was sent")
            if progress is not None:
                progress()
    finally:
        if association.is_established:
            association.release()
    return refused


def _knock(destination: Destination, where: str) -> None:
    """Raise ConnectionError, with what the system says of it, if nobody listens there."""
    try:
        socket.create_connection((destination.host, destination.port), timeout=_TIMEOUT_S).close()
    except OSError as error:
        raise ConnectionError(f"the PACS at {where} does not answer ({error.strerror or error})") from error


def _store(association: object, data: Dataset) -> str:
    """Why an object was not stored; empty if it was."""
    try:
        status = association.send_c_store(data)  # type: ignore[attr-defined]
    except ValueError as error:  # it accepts no such object
        return str(error)
    if "Status" not in status:
        return "no answer"
    if status.Status != 0x0000 and not 0xB000 <= status.Status <= 0xBFFF:  # the latter are warnings
        return f"status 0x{status.Status:04X} {status.get('ErrorComment', '')}".strip()
    return ""
