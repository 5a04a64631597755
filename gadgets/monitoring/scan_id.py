"""The id of a scan: in the log, in the meta of its images (PASS_scan_id) and in the name of its raw data."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from datetime import datetime, timezone
from typing import Any
from xml.etree import ElementTree

META = "PASS_scan_id"
_ATTRIBUTE = "scan_id"  # of the <configuration> that a gadget gets; a gadget that does not know it reads over it

SCAN_ID: ContextVar[str] = ContextVar("scan_id", default="")
"""Id of the scan that this thread works for, empty for none."""


def new_scan_id() -> str:
    """An id that sorts by time (UTC) and is not given twice."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def in_this_scan(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same call, to be made in another thread as part of the scan of this one."""
    context = copy_context()
    return lambda *arguments: context.run(call, *arguments)


def with_scan_id(configuration: bytes, scan_id: str) -> bytes:
    """The ``<configuration>`` of a gadget, or an empty one, with the id of its scan."""
    try:
        root = ElementTree.fromstring(configuration)
    except ElementTree.ParseError:  # nothing but the declaration: the node has no properties
        root = ElementTree.Element("configuration")
    root.set(_ATTRIBUTE, scan_id)
    return b'<?xml version="1.0"?>\n' + ElementTree.tostring(root, "utf-8") + b"\n"


def scan_id_of(configuration: ElementTree.Element | None) -> str:
    """The id that a server has given with the ``<configuration>``, empty if it gave none."""
    return "" if configuration is None else configuration.get(_ATTRIBUTE, "")
