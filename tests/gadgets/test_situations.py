"""Scans as they really come, through a file and through a server: the right image, and a word where one is due."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import ismrmrd
import numpy as np
import pytest

from gadgets import protocol
from gadgets.chain import run_chain
from gadgets.mrd import remarks, sentences
from gadgets.mrd.scan_file import ScanFile
from gadgets.properties import Properties
from gadgets.protocol import MessageId
from gadgets.protocol.connection import Failure
from gadgets.resident import serve_resident
from tests.gadgets.server.tools import configuration, connect_node, errors, of_kind, running_server, talk
from tests.gadgets.situations import SITUATIONS, truth

PROPERTIES = {"mode": "prospective", "anomaly": "off", "bundle": "classical"}


def through_a_file(situation, folder):
    """Images, warnings and errors."""
    path = folder / "scan.h5"
    with closing(ismrmrd.Dataset(path, "dataset", create_if_needed=True)) as file:
        file.write_xml_header(situation.header.encode())
        for one in situation.acquisitions():
            file.append_acquisition(one)
    with ScanFile(path) as source:
        items = list(run_chain(source.acquisitions(), source.header_xml, Properties.from_text(PROPERTIES)))
    failures = [item for item in items if isinstance(item, Failure)]
    warnings = [failure.message for failure in failures if failure.severity == "warning"]
    images = [item for item in items if not isinstance(item, Failure) and item.image_series_index == 1]
    return (
        images,
        warnings + of_images(images),
        [failure.message for failure in failures if failure.severity != "warning"],
    )


def through_a_server(situation, port):
    """The same."""
    frames = [protocol.config_file("chain.xml"), protocol.header(situation.header)]
    answer = talk(port, *frames, *map(protocol.encode, situation.acquisitions()), protocol.close())
    images = [message.item for message in of_kind(answer, MessageId.IMAGE)]
    texts = [message.item for message in of_kind(answer, MessageId.TEXT)]
    warnings = [text for text in texts if protocol.is_warning_text(text)]
    images = [image for image in images if image.image_series_index == 1]
    return images, warnings + of_images(images), errors(answer)


def of_images(images):
    """What they say of themselves."""
    return sentences(remark for image in images for remark in remarks(image))


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("configurations")
    wanted = "".join(f'<property name="{name}" value="{value}"/>' for name, value in PROPERTIES.items())
    with resident() as gadget:
        node = connect_node(gadget).replace("</external>", f"<configuration>{wanted}</configuration></external>")
        (folder / "chain.xml").write_text(configuration(node))
        with running_server(folder) as port:
            yield port


@contextmanager
def resident() -> Iterator[int]:
    """All stages of the chain, in this process."""
    ports: list[int] = []
    ready, stop = threading.Event(), threading.Event()
    settings = {"ready": lambda port: (ports.append(port), ready.set()), "stop": stop}
    thread = threading.Thread(target=serve_resident, args=("127.0.0.1", 0), kwargs=settings)
    thread.start()
    assert ready.wait(60)
    try:
        yield ports[0]
    finally:
        stop.set()
        thread.join(30)


def check(situation, images, warnings, failed):
    assert not failed
    assert sorted((image.slice, image.repetition, image.set) for image in images) == sorted(situation.images)
    for image in images:
        wanted = truth(image.slice) if situation.wanted is None else situation.wanted
        found = image.data[0, 0].T.astype(float)
        assert found.shape == situation.recon
        scaled = found * (found * wanted).sum() / (found**2).sum()
        assert np.linalg.norm(scaled - wanted) < situation.tolerance * np.linalg.norm(wanted)
        assert tuple(image.field_of_view)[:2] == (300.0, 300.0)
    for words in situation.said:
        assert any(words in warning for warning in warnings), warnings
    assert bool(warnings) == bool(situation.said), warnings


@pytest.mark.parametrize("name", SITUATIONS)
def test_file(name, tmp_path):
    check(SITUATIONS[name], *through_a_file(SITUATIONS[name], tmp_path))


@pytest.mark.parametrize("name", SITUATIONS)
def test_server(name, port):
    check(SITUATIONS[name], *through_a_server(SITUATIONS[name], port))
