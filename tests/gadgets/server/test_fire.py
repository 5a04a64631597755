"""FIRE and OpenRecon clients at the embedded server: images, parameters, and errors that their reader can read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from gadgets import protocol
from gadgets.protocol import MessageId
from gadgets.resident import serve_resident
from tests.gadgets.acquisitions import PE, header, kspace, lines_of
from tests.gadgets.server.fire import Answer, fire_scan
from tests.gadgets.server.tools import Client, configuration, connect_node, errors, of_kind, running_server, talk

READERS = "".join(
    f"<reader><dll>gadgetron_core_readers</dll><classname>{kind}Reader</classname></reader>"
    for kind in ("Acquisition", "Waveform", "Text")
)
DEFAULT = "pass_recon_plain.xml"
IMAGING = range(1, 1000)


@contextmanager
def resident() -> Iterator[int]:
    """All stages of the chain, in this process."""
    ports: list[int] = []
    ready, stop = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=serve_resident,
        args=("127.0.0.1", 0),
        kwargs={"ready": lambda port: (ports.append(port), ready.set()), "stop": stop},
    )
    thread.start()
    assert ready.wait(60)
    try:
        yield ports[0]
    finally:
        stop.set()
        thread.join(30)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server whose configurations lead to the resident process."""
    folder: Path = tmp_path_factory.mktemp("configurations")
    with resident() as gadget:
        chain = configuration(connect_node(gadget), readers=f"<readers>{READERS}</readers>")
        (folder / DEFAULT).write_text(chain)
        eight = '<configuration><property name="acceleration" value="8"/></configuration>'
        (folder / "eight.xml").write_text(chain.replace("</external>", f"{eight}</external>"))
        with running_server(folder, allow_client_configs=False, idle_seconds=1.0) as port:
            yield port


def lines(slices: int = 2):
    for index in range(slices):
        yield from lines_of(kspace(seed=index), slice=index)


def plain(port: int) -> list[protocol.Message]:
    """The same scan from a Gadgetron's client."""
    frames = [protocol.config_file(DEFAULT), protocol.header(header())]
    return talk(port, *frames, *map(protocol.encode, lines()), protocol.close())


def scan(port: int, config: str = "openrecon", parameters: object = None) -> Answer:
    return fire_scan(port, config, header(), lines(), parameters)  # type: ignore[arg-type]


def test_gets_the_images_of_any_other_client_but_no_plan(port):
    answer = scan(port)
    assert sorted(scan(port, DEFAULT).series()) == [1, 1, 1000, 1000], "who names a configuration of ours knows plans"
    theirs = [message.item for message in of_kind(plain(port), MessageId.IMAGE)]
    assert sorted(image.image_series_index for image in theirs) == [1, 1, 1000, 1000]
    assert answer.series() == [1, 1]
    images = [image for image in theirs if image.image_series_index in IMAGING]
    for mine, other in zip(answer.images, images, strict=True):
        np.testing.assert_array_equal(mine.data, other.data)
    assert answer.saying("ERR") == []


@pytest.mark.parametrize("config", ["openrecon", "savedata", "nothing.xml", ""])
def test_a_configuration_that_does_not_exist_is_the_default_with_a_warning(port, config):
    answer = scan(port, config)
    assert len(answer.images) == 2
    (warning,) = answer.saying("WRN")
    assert DEFAULT in warning
    assert repr(config) in warning or not config


def test_a_gadgetrons_client_gets_no_other_chain_than_it_names(port):
    frames = [protocol.config_file("default.xml"), protocol.header(header()), protocol.close()]
    (sentence,) = errors(talk(port, *frames))
    assert "no configuration 'default.xml'" in sentence


@pytest.mark.parametrize(
    ("parameters", "used"),
    [
        ({"acceleration": "8"}, round(PE / 8)),
        ({"acceleration": 8}, round(PE / 8)),
        ({"Acceleration": 8.0, "anomaly": "False"}, round(PE / 8)),
        ({"mode": "prospective", "anomaly": True}, PE),
        ({"mode": "Prospective"}, PE),
        ({"config": "eight"}, round(PE / 8)),
        ({"config": "openrecon", "customconfig": "eight.xml"}, round(PE / 8)),
        ({"config": "eight", "acceleration": "3"}, round(PE / 3)),
        ({"config": "openrecon", "customconfig": ""}, round(PE / 4)),
    ],
)
def test_parameters_in_json_act(port, parameters, used):
    answer = scan(port, "openrecon", parameters)
    assert answer.saying("ERR") == []
    assert [image.meta["PASS_lines_used"] for image in answer.images] == [f"{used} of {PE}"] * 2


@pytest.mark.parametrize("name", ["plan_images", "planImages", "PLANIMAGES"])
def test_plans_come_where_they_are_asked_for(port, name):
    assert sorted(scan(port, parameters={name: "True"}).series()) == [1, 1, 1000, 1000]
    assert scan(port, parameters={name: "auto"}).series() == [1, 1]


def test_unknown_parameters_are_told_and_ignored(port):
    answer = scan(port, DEFAULT, {"sendOriginal": "False", "options": "", "acceleration": "8"})
    (warning,) = answer.saying("WRN")
    assert "unknown parameters are ignored: sendOriginal, options; known are bundle, acceleration" in warning
    assert len(answer.images) == 2


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"acceleration": "many"}, "the property 'acceleration' must be a number of at least 1, got 'many'"),
        ({"mode": "sideways"}, "the property 'mode' must be one of"),
        ({"planImages": 3}, "the property 'plan_images' must be on, off or auto"),
        ({"plan_images": "on", "planImages": "off"}, "the parameter 'plan_images' is given twice"),
        ({"bundle": "../../etc"}, "must be the name of a bundle, not a path"),
        ({"bundle": "unicorn"}, "there is no bundle 'unicorn'"),
        ('{"parameters": {"acceleration": 8', "not JSON"),
        ('{"parameters": ["acceleration"]}', "must hold names and values, not a list"),
        ("{" * 100_000, "not JSON"),
    ],
)
def test_a_wrong_value_is_a_sentence_that_the_client_can_read_once_its_scan_is_sent(port, parameters, sentence):
    answer = scan(port, DEFAULT, parameters)
    assert answer.images == []
    (told,) = answer.saying("ERR")
    assert sentence in told


def test_json_alone_tells_that_a_client_is_no_gadgetrons(port):
    frames = [protocol.config_file("openrecon"), protocol.header(header())]
    parameters = protocol.text('{"parameters": {"acceleration": "0"}}')
    answer = talk(port, *frames, parameters, *map(protocol.encode, lines(1)), protocol.close())
    assert [message.id for message in answer] == [MessageId.TEXT] * 2
    assert [message.item[:3] for message in answer] == ["WRN", "ERR"]


def test_other_text_is_no_parameter(port):
    for text in ("good morning", '{"version": "1.1.0"}', ""):
        answer = scan(port, DEFAULT, text)
        assert answer.saying("ERR") == answer.saying("WRN") == []
        assert answer.series().count(1) == 2


def test_what_is_wrong_with_the_data_is_said_and_the_images_come(port):
    broken = list(lines())
    broken[PE // 2].data[0, 0] = np.nan
    answer = fire_scan(port, DEFAULT, header(), broken)
    assert answer.series().count(1) == 2
    assert any("NaN" in text for text in answer.saying("ERR"))


def test_a_header_that_is_none_is_said(port):
    answer = fire_scan(port, DEFAULT, "Dummy XML header", lines())
    (told,) = answer.saying("ERR")
    assert "the ISMRMRD header is not well-formed XML" in told


def test_a_client_that_waits_for_the_sentence_before_it_says_close_gets_it(port):
    from tests.gadgets.server.fire import opening

    with Client(port) as client:
        client.send(opening(DEFAULT, "nonsense"))
        texts = [message.item for message in client.read_to_close()]
    assert len(texts) == 1
    assert texts[0].startswith("ERR")


def test_meta_is_in_both_conventions(port):
    image = scan(port).images[0]
    meta = image.meta
    assert meta["Keep_image_geometry"] == "1"
    assert meta["SequenceDescription"] == "PASS"  # the header names no protocol
    assert meta["SequenceDescriptionAdditional"] == meta["SeriesDescription"] == "PASS magnitude"
    assert meta["ImageComment"][:2] == ["PASS", "CG-SENSE"]
    assert meta["PASS_bundle_reason"].startswith("classical: no bundle for this scan at 4x")
    for ours, theirs in {"WindowCenter": "WindowCenter", "SeriesDescription": "SeqDescription"}.items():
        assert meta[f"GADGETRON_{theirs}"] == meta[ours]
    assert meta["GADGETRON_ScaleRatio"] == meta["PASS_scale"]
    assert "RescaleSlope" not in meta, "windows would have to be in rescaled values then"
