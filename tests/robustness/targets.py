"""What reads bytes of others, as functions that may refuse them with a sentence and do nothing else wrong."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import ismrmrd
import numpy as np

from gadgets import protocol
from gadgets.mrd import ScanContext
from gadgets.mrd.deidentify import without_identity
from gadgets.mrd.header_xml import read_header
from gadgets.mrd.scan_file import without_version
from gadgets.properties import Properties
from gadgets.protocol.bytes import U16, PeerLost
from gadgets.protocol.messages import Message, read_body
from gadgets.protocol.parameters import known_and_unknown, parameters_in
from gadgets.scanner.receiver import read_plan
from gadgets.server.configuration import find, parse
from gadgets.spool.recording import Recording
from pass_recon.bundles import shipped
from pass_recon.bundles.card import CARD, files_of, read_card
from pass_recon.common.memory import bytes_of
from pass_recon.common.xml import parse_xml
from tests.gadgets.server.tools import HEADER, acquisition, configuration, connect_node, plan_image


def read_stream(data: bytes) -> None:
    """A conversation, message by message, as a channel reads it."""
    stream = BytesIO(data)

    def read_exact(count: int) -> bytes:
        chunk = stream.read(count)
        if len(chunk) < count:
            raise PeerLost("the end")
        return chunk

    while True:
        identifier = U16.unpack(read_exact(2))[0]
        item = Message(identifier, read_body(identifier, read_exact)).item
        if isinstance(item, ismrmrd.Image):
            read_plan(item)


def read_scan(data: bytes) -> None:
    """A header, by the schema and as a scan."""
    read_header(data)
    ScanContext(data, Properties())


def read_parameters(data: bytes) -> None:
    """The parameters of a FIRE client."""
    known_and_unknown(parameters_in(data.decode(errors="replace")) or {})


def read_recording(data: bytes) -> None:
    """A recording of a scan, as `replay` reads it."""
    scan = Recording(BytesIO(data), "it")
    for message in scan.messages():
        _ = message.item


def read_bundle_card(data: bytes) -> None:
    """The card of a bundle, and the files that it names."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / CARD).write_bytes(data)
        files_of(read_card(Path(name)), Path(name))


TARGETS: dict[str, Callable[[bytes], object]] = {
    "messages": read_stream,
    "header": read_scan,
    "configuration": parse,
    "parameters": read_parameters,
    "name": lambda data: find(data.decode(errors="replace"), []),
    "xml": lambda data: parse_xml(data, "it"),
    "version": without_version,
    "size": lambda data: bytes_of(data.decode(errors="replace")),
    "recording": read_recording,
    "card": read_bundle_card,
    "deidentified": without_identity,
}


def corpus() -> dict[str, list[bytes]]:
    """Good inputs of each target, to be spoilt."""
    complex_image = ismrmrd.Image.from_array(np.ones((1, 1, 4, 4), np.complex64))
    complex_image.meta = {"PASS_lines": ["1", "2"], "a": "b"}
    card = read_card(Path(next(iter(shipped.__path__))) / "brain-flair-4x") | {"metrics": {}}
    plan = plan_image()
    plan.meta = {"DataRole": "SamplingPlan", "PASS_lines": [str(line) for line in range(8)]}
    stream = b"".join(
        [
            protocol.config_file("pass_recon.xml"),
            protocol.config_script(configuration("")),
            protocol.header(HEADER),
            protocol.text('{"version": "1.1.0", "parameters": {"acceleration": 8}}', terminated=True),
            protocol.query("gadgetron::version", 3),
            protocol.response(3, "4.7.2"),
            protocol.error("[a] ERROR: b"),
            *(protocol.encode(item) for item in (acquisition(), plan, complex_image)),
            protocol.close(),
        ]
    )
    return {
        "messages": [stream, protocol.encode(plan), protocol.encode(acquisition())],
        "header": [HEADER.encode()],
        "configuration": [configuration(connect_node(18100)).encode()],
        "parameters": [b'{"version": "1.1.0", "parameters": {"acceleration": 8, "bundle": "auto", "config": "x"}}'],
        "name": [b"pass_recon.xml"],
        "xml": [b"<?xml version='1.0'?><a b='c'><d>e</d><!-- f --></a>"],
        "version": [b"<h:a>  <h:version>8</h:version></h:a>"],
        "size": [b"1.5 GiB"],
        "recording": [
            protocol.config_script("<configuration/>")
            + protocol.header(HEADER)
            + b"".join(protocol.encode(acquisition(step)) for step in range(2))
            + protocol.close()
        ],
        "card": [json.dumps(card).encode()],
        "deidentified": [HEADER.encode()],
    }
