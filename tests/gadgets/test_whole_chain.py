"""The shipped configurations on the embedded server: four processes, one warm process and one thread agree."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import ismrmrd
import numpy as np
import pytest

from gadgets import wire
from gadgets.chain import run_chain
from gadgets.properties import Properties
from gadgets.resident import serve_resident
from gadgets.server.configuration import parse
from gadgets.wire import MessageId
from tests.gadgets.scans import patient_file
from tests.gadgets.server_tools import running_server, talk

CONFIGURATIONS = Path(__file__).resolve().parents[2] / "xml_configs"
NAMES = ["pass_recon.xml", "pass_recon_plain.xml", "pass_recon_resident.xml"]


@pytest.fixture(scope="module")
def patient(tmp_path_factory) -> tuple[bytes, list[ismrmrd.Acquisition]]:
    """Header and acquisitions of three interleaved slices with a noise scan and readout oversampling."""
    path = patient_file(tmp_path_factory.mktemp("patient") / "patient.h5")
    dataset = ismrmrd.Dataset(path, "dataset", create_if_needed=False)
    made = [dataset.read_acquisition(number) for number in range(dataset.number_of_acquisitions())]
    header = dataset.read_xml_header()
    dataset.close()
    return header, made


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[int]:
    """An embedded server with the shipped configurations, and a resident process that one of them connects to."""
    folder, ports = tmp_path_factory.mktemp("configurations"), []
    ready, stop = threading.Event(), threading.Event()

    def note(port: int) -> None:
        ports.append(port)
        ready.set()

    thread = threading.Thread(target=serve_resident, args=("127.0.0.1", 0), kwargs={"ready": note, "stop": stop})
    thread.start()
    assert ready.wait(60)
    for name in NAMES:
        text = (CONFIGURATIONS / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace('port="18100"', f'port="{ports[0]}"'), encoding="utf-8")
    with running_server(folder) as port:
        yield port
    stop.set()
    thread.join(5)


def by_key(images) -> dict[tuple[int, int], ismrmrd.Image]:
    found = {(image.image_series_index, image.slice): image for image in images}
    assert len(found) == len(images)
    return found


@pytest.fixture(scope="module")
def expected(patient):
    header, made = patient
    return by_key(list(run_chain(made, header, Properties())))


def test_one_thread_plans_and_shows_each_slice(expected):
    assert sorted(expected) == [(series, number) for series in (1, 2, 3, 1000) for number in range(3)]


@pytest.mark.parametrize("name", NAMES)
def test_all_ways_give_the_same_images(name, patient, server, expected):
    header, made = patient
    messages = talk(server, wire.config_file(name), wire.header(header), *map(wire.encode, made), wire.close())
    assert {message.id for message in messages} == {MessageId.IMAGE}
    found = by_key([message.item for message in messages])
    assert found.keys() == expected.keys()
    for key, image in expected.items():
        head, wanted = found[key].getHead(), image.getHead()
        assert tuple(head.position) == tuple(wanted.position)
        assert found[key].meta["PASS_slice"] == image.meta["PASS_slice"]
        # Whole numbers with a peak of 4095; whitening in numpy or torch may fall on either side of a half.
        assert np.abs(found[key].data.astype(int) - image.data).max() <= (1 if key[0] == 1 else 255 * (key[0] == 3))
        if key[0] == 1:
            scales = [float(shown.meta["PASS_scale"]) for shown in (found[key], image)]
            assert scales[0] == pytest.approx(scales[1], rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_each_node_lists_exactly_what_it_takes(name):
    """So that a plan bypasses reconstructions: with the default lists it would wait in line behind them."""
    nodes = [node for node in parse((CONFIGURATIONS / name).read_bytes()).nodes if hasattr(node, "accepts")]
    taken = [{MessageId(identifier).name for identifier in node.accepts} for node in nodes]
    if "resident" in name:
        assert taken == [{"ACQUISITION", "TEXT"}]
    else:
        assert taken == [{"ACQUISITION", "TEXT"}, {"RECON_DATA"}, {"RECON_DATA"}, {"IMAGE"}]
