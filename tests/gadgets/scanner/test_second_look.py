"""The second round through sockets: the scanner at a server that does as little as possible, and at the real chains."""

from __future__ import annotations

import threading

import h5py
import ismrmrd
import numpy as np
import pytest

from gadgets import pipelines, protocol
from gadgets.converters.image_file import read_images
from gadgets.mrd.scan_file import ScanFile
from gadgets.resident import serve_resident
from gadgets.scanner.client import ScanSettings, run_scan
from gadgets.server.server import serve
from pass_recon.pipeline import Pipeline
from pass_recon.sampling.budget import acs_count, acs_fraction, acs_range, line_budget
from pass_recon_cli.local_server import write_configuration
from pass_recon_cli.main import main
from tests.gadgets.scanner.fake_server import FakeServer, plan_image
from tests.gadgets.scanner.test_closed_loop import in_thread
from tests.gadgets.scans import patient_file

PE = 64
ACS = acs_range(PE, acs_count(PE, acs_fraction(4)))


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return patient_file(tmp_path_factory.mktemp("scanner") / "patient.h5")


def run(port, patient, out, **settings):
    given = {"closed_loop": True, "port": port, "address": "127.0.0.1", "group": "run"} | settings
    with ScanFile(patient) as source:
        return run_scan(source, out, ScanSettings(**given))


def highest(index: int, pe: int) -> list[int]:
    return [*ACS, *range(pe - (line_budget(pe, 4) - len(ACS)), pe)]


def sent_lines(server, index):
    return [
        acquisition.idx.kspace_encode_step_1
        for acquisition in server.acquisitions
        if acquisition.idx.slice == index and not acquisition.isFlagSet(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    ]


class TestScanner:
    """What `pass-recon scan --closed-loop` does with a second plan."""

    def test_additional_lines_are_sent_and_no_others(self, patient, tmp_path):
        with FakeServer(highest, acs=len(ACS), second=lambda index: [3, 1] if index == 2 else []) as server:
            report = run(server.port, patient, tmp_path / "out.h5")
        assert report.errors == report.warnings == []
        assert sent_lines(server, 2) == [*highest(2, PE), 3, 1]
        assert sent_lines(server, 0) == highest(0, PE)
        assert [record.additional for record in report.slices] == [[], [3, 1], []], "the slices come as 0, 2, 1"
        assert server.events.index(("second plan", 2)) < len(server.events) - 1 - server.events[::-1].index(("line", 2))
        last = [acquisition for acquisition in server.acquisitions if acquisition.idx.slice == 2][-1]
        assert last.isFlagSet(ismrmrd.ACQ_LAST_IN_SLICE)
        assert not any(one.isFlagSet(ismrmrd.ACQ_LAST_IN_MEASUREMENT) for one in server.acquisitions[: -len(ACS)][:-1])

    def test_line_that_was_sent_already_is_not_sent_again(self, patient, tmp_path):
        with FakeServer(highest, acs=len(ACS), second=lambda index: [ACS[0], 5]) as server:
            report = run(server.port, patient, tmp_path / "out.h5")
        assert [record.additional for record in report.slices] == [[5]] * 3

    def test_answer_that_never_comes_is_a_warning(self, patient, tmp_path, capsys):
        with FakeServer(highest, acs=len(ACS), second=lambda index: None) as server:
            where = ["-a", "127.0.0.1", "-p", str(server.port), "-f", str(patient), "-o", str(tmp_path / "out.h5")]
            assert main(["scan", "-q", "--closed-loop", "--second-plan-timeout", "0.2", *where]) == 0
        said = capsys.readouterr().err
        assert "slice 0: no second plan came within 0.2 s; the image of the first round stands" in said

    def test_scanner_without_second_rounds(self, patient, tmp_path):
        with FakeServer(highest, acs=len(ACS), second=lambda index: [3]) as server:
            report = run(server.port, patient, tmp_path / "out.h5", second_plan_timeout=0)
        assert report.errors == report.warnings == []
        assert report.sent == 1 + 3 * round(PE / 4)

    def test_nobody_waits_for_a_server_that_looks_once(self, patient, tmp_path):
        with FakeServer(highest, acs=len(ACS)) as server:
            report = run(server.port, patient, tmp_path / "out.h5")
        assert report.errors == report.warnings == []

    def test_server_gone_while_its_answer_is_awaited(self, patient, tmp_path):
        total = 1 + 3 * round(PE / 4)

        def hang_up(channel, count):
            if count == total:
                raise ConnectionAbortedError

        with FakeServer(highest, acs=len(ACS), second=lambda index: None, misbehave=hang_up) as server:
            report = run(server.port, patient, tmp_path / "out.h5")
        assert len(report.errors) == 1
        assert report.errors[0].startswith(f"with {total} acquisitions sent, the server went away")
        assert [image.slice for image in read_images(tmp_path / "out.h5", "run", 1)] == [0, 2, 1]

    def test_second_plan_for_another_grid_is_not_followed(self, patient, tmp_path):
        def misbehave(channel, count):
            if count == 2:
                channel.send(protocol.encode(plan_image(0, 96, [1, 2], PASS_round="2")))

        with FakeServer(highest, acs=len(ACS), second=lambda index: [], misbehave=misbehave) as server:
            report = run(server.port, patient, tmp_path / "out.h5")
        assert report.errors == []
        assert report.warnings == ["slice 0: the second plan is for 96 lines, the scan has 64: it is not followed"]

    def test_command_tells_of_the_second_look(self, patient, tmp_path, capsys):
        with FakeServer(highest, acs=len(ACS), second=lambda index: [3, 1] if index == 2 else []) as server:
            where = ["-a", "127.0.0.1", "-p", str(server.port), "-f", str(patient), "-o", str(tmp_path / "out.h5")]
            assert main(["scan", "--closed-loop", *where]) == 0
        said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("slice ")]
        assert ["second look: 2 additional lines" in line for line in said] == [False, True, False]


CLOSED = {"mode": "closed_loop", "acceleration": "8", "bundle": "brain-flair-8x", "guard": "off"}
RESIDENT, PLAIN, FULL = "pass_recon_resident.xml", "pass_recon_plain.xml", "pass_recon.xml"
SLOW = pytest.mark.slow

NOISE = 1 << (ismrmrd.ACQ_IS_NOISE_MEASUREMENT - 1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Configures a chain with properties; gives the port of the server and the name of the configuration."""
    folder, stop = tmp_path_factory.mktemp("configs"), threading.Event()
    resident = in_thread(serve_resident, stop=stop)
    port = in_thread(serve, config_folders=[folder], stop=stop)

    def configured(name, **properties):
        written = write_configuration(name, folder, CLOSED | properties, resident)
        return port, written.rename(folder / f"{len(list(folder.iterdir()))}_{name}").name

    yield configured
    stop.set()


@pytest.fixture(scope="module")
def brain(tmp_path_factory):
    return patient_file(tmp_path_factory.mktemp("brain") / "patient.h5", slices=3, coils=6, shape=(64, 96))


def series(out):
    with h5py.File(out) as file:
        return {int(name.partition("_")[2]): len(file["run"][name]["data"]) for name in file["run"]}


@pytest.mark.parametrize(
    ("chain", "look"),
    [(RESIDENT, "slice"), (RESIDENT, "scan"), (PLAIN, "scan"), pytest.param(FULL, "slice", marks=SLOW)],
)
def test_every_slice_that_is_suspicious_comes_twice(server, brain, tmp_path, chain, look):
    port, name = server(chain, second_look=look, second_look_threshold="0")
    report = run(port, brain, tmp_path / "out.h5", config=name, acceleration=8.0)
    assert report.errors == []
    assert series(tmp_path / "out.h5") == {1: 6, 2: 6, 3: 6, 1000: 6}
    expected = Pipeline("brain-flair-8x").population_plan(96).lines
    for record in report.slices:
        assert sorted(record.lines) == expected.nonzero().flatten().tolist()
        assert len(record.lines) + len(record.additional) == 24
    images = read_images(tmp_path / "out.h5", "run", 1)
    twice = [image for image in images if image.meta.get("PASS_round") == "2"]
    assert sorted(image.slice for image in twice) == [0, 1, 2]
    assert {image.meta["PASS_lines_used"] for image in twice} == {"24 of 96"}
    # More lines make the better image: the whole point.
    with h5py.File(brain) as file:
        truth = np.abs(file["truth/image"][()])
    for image in twice:
        (first,) = [one for one in images if one.slice == image.slice and "PASS_round" not in one.meta]
        assert error(image, truth[image.slice]) < error(first, truth[image.slice])


def error(image, truth):
    found = image.data[0, 0].T.astype(float)
    return np.linalg.norm(found * (found * truth).sum() / (found**2).sum() - truth)


@pytest.mark.parametrize(
    ("chain", "look"), [(RESIDENT, "slice"), (RESIDENT, "scan"), pytest.param(PLAIN, "slice", marks=SLOW)]
)
def test_where_nothing_is_seen_every_answer_is_empty(server, brain, tmp_path, chain, look):
    port, name = server(chain, second_look=look, second_look_threshold="1")
    report = run(port, brain, tmp_path / "out.h5", config=name, acceleration=8.0)
    assert report.errors == []
    assert [record.second.order for record in report.slices] == [(), (), ()]
    assert series(tmp_path / "out.h5") == {1: 3, 2: 3, 3: 3, 1000: 6}
    assert report.sent == 1 + 3 * 12


def test_scanner_that_takes_no_second_round_keeps_its_images(server, brain, tmp_path):
    port, name = server(RESIDENT, second_look="slice", second_look_threshold="0")
    report = run(port, brain, tmp_path / "out.h5", config=name, acceleration=8.0, second_plan_timeout=0)
    assert report.errors == []
    # On a busy machine a look may miss its deadline instead, and says so in other words.
    assert sum("the image of the first round stands" in warning for warning in report.warnings) == 3
    assert series(tmp_path / "out.h5")[1] == 3


def test_deadline_answers_while_the_image_is_being_made(server, brain, tmp_path, monkeypatch):
    port, name = server(RESIDENT, second_look="slice", second_look_threshold="0",
                        second_look_deadline_ms="1", anomaly="off")  # fmt: skip
    slow = Pipeline("brain-flair-8x", acceleration=8, anomaly=False)
    release = threading.Event()
    reconstruct = slow.reconstruct

    def wait(*args, **kwargs):
        assert release.wait(60)
        return reconstruct(*args, **kwargs)

    slow.reconstruct = wait
    monkeypatch.setitem(pipelines._loaded, ("brain-flair-8x", pipelines.device_of("auto"), 8.0, False), slow)
    threading.Timer(2.0, release.set).start()
    report = run(port, brain, tmp_path / "out.h5", config=name, acceleration=8.0)
    assert report.errors == []
    assert {record.second.fallback for record in report.slices} == {"no second look within the deadline of 1 ms"}
    assert series(tmp_path / "out.h5") == {1: 3, 1000: 6}


def test_scanner_that_goes_away_in_its_second_round_leaves_nothing_behind(brain):
    """What computes for it ends, and the next scan is served."""
    before = {thread.ident for thread in threading.enumerate()}
    port = in_thread(serve_resident)
    given = CLOSED | {"second_look": "slice", "second_look_threshold": "0"}
    properties = "".join(f'<property name="{key}" value="{value}"/>' for key, value in given.items())
    with ScanFile(brain) as source:
        for _ in range(2):
            channel = protocol.Channel.connect("127.0.0.1", port)
            channel.socket.settimeout(60)
            channel.send(protocol.config_script(f"<configuration>{properties}</configuration>"))
            channel.send(protocol.header(source.header_xml))
            lines = Pipeline("brain-flair-8x").population_plan(96).order
            for place, line in enumerate(lines):
                (number,) = [
                    number
                    for number, head in enumerate(map(ismrmrd.AcquisitionHeader.from_buffer_copy, source.heads()))
                    if head.idx.slice == 0 and head.idx.kspace_encode_step_1 == line and not head.flags & NOISE
                ]
                acquisition = source.acquisition(number)
                acquisition.clearAllFlags()
                if place == len(lines) - 1:
                    acquisition.setFlag(ismrmrd.ACQ_LAST_IN_SLICE)
                channel.send(protocol.encode(acquisition))
            while not (image := channel.read_message().item).meta.get("PASS_round"):
                pass
            assert image.data.sum() == 12
            channel.close()
    working = [one for one in threading.enumerate() if one.ident not in before and one.name in ("slices", "session")]
    for thread in working:
        thread.join(30)
        assert not thread.is_alive()
