"""The scanner against a server that does as little as possible: what is sent, when, and what becomes of faults."""

from __future__ import annotations

import ctypes
import json
import re
import threading
import time

import h5py
import ismrmrd
import numpy as np
import pytest

from gadgets import protocol
from gadgets.mrd.dataset import dataset
from gadgets.mrd.scan_file import ScanFile
from gadgets.scanner.client import ScanSettings, run_scan
from pass_recon.sampling.budget import acs_count, acs_fraction, acs_range, line_budget
from pass_recon.types import InputError
from pass_recon_cli.main import main
from tests.gadgets.scanner.fake_server import FakeServer, plan_image
from tests.gadgets.scans import patient_file, write_scan

PE = 64
ACS = acs_range(PE, acs_count(PE, acs_fraction(4)))


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return patient_file(tmp_path_factory.mktemp("scanner") / "patient.h5")


def every_other_edge(index: int, pe: int) -> list[int]:
    """A plan that no rule would make: the ACS, then the highest lines, moved by one for each slice."""
    extra = line_budget(pe, 4) - len(ACS)
    return [*ACS, *range(pe - 1 - index, pe - 1 - index - extra, -1)]


def run(server, patient, tmp_path, **settings):
    settings = {"closed_loop": True, "port": server.port, "address": "127.0.0.1", "group": "run"} | settings
    with ScanFile(patient) as source:
        return run_scan(source, tmp_path / "out.h5", ScanSettings(**settings))


def imaging_lines(server, index):
    return [
        acquisition.idx.kspace_encode_step_1
        for acquisition in server.acquisitions
        if acquisition.idx.slice == index and not acquisition.isFlagSet(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    ]


def test_closed_loop_sends_the_lines_of_the_plan_and_no_others(patient, tmp_path):
    with FakeServer(every_other_edge, acs=len(ACS)) as server:
        report = run(server, patient, tmp_path)
    assert report.errors == []
    for index in range(3):
        assert imaging_lines(server, index) == every_other_edge(index, PE)
        assert len(imaging_lines(server, index)) == round(PE / 4)
    assert [record.lines for record in report.slices] == [every_other_edge(index, PE) for index in (0, 2, 1)]
    assert report.sent == 1 + 3 * round(PE / 4)


def test_plan_arrives_before_any_of_its_lines_is_sent(patient, tmp_path):
    with FakeServer(every_other_edge, acs=len(ACS), delay=0.05) as server:
        report = run(server, patient, tmp_path)
    for index in range(3):
        assert server.events.index(("plan", index)) < server.events.index(("line", index))
    for record in report.slices:
        assert record.answered is not None
        assert record.asked < record.answered <= record.first_planned <= record.last_planned
        assert record.seconds_to_plan >= 0.05


def test_acs_of_the_next_slice_goes_out_while_a_plan_is_made(patient, tmp_path):
    with FakeServer(every_other_edge, acs=len(ACS)) as server:
        run(server, patient, tmp_path)
    first, second, _ = (0, 2, 1)
    assert server.events.index(("acs", second)) < server.events.index(("line", first))


def test_flags_tell_where_a_slice_and_the_measurement_end(patient, tmp_path):
    with FakeServer(every_other_edge, acs=len(ACS)) as server:
        run(server, patient, tmp_path)
    assert server.acquisitions[0].isFlagSet(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    for index in range(3):
        lines = [a for a in server.acquisitions[1:] if a.idx.slice == index]
        assert [a.isFlagSet(ismrmrd.ACQ_LAST_IN_SLICE) for a in lines] == [False] * (len(lines) - 1) + [True]
        assert [a.isFlagSet(ismrmrd.ACQ_FIRST_IN_SLICE) for a in lines] == [True] + [False] * (len(lines) - 1)
        calibration = [a.isFlagSet(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING) for a in lines]
        assert calibration == [a.idx.kspace_encode_step_1 in ACS for a in lines]
    ends = [a.isFlagSet(ismrmrd.ACQ_LAST_IN_MEASUREMENT) for a in server.acquisitions]
    assert ends == [False] * (len(ends) - 1) + [True]


def test_data_are_those_of_the_file(patient, tmp_path):
    with FakeServer(every_other_edge, acs=len(ACS)) as server:
        run(server, patient, tmp_path)
    with ScanFile(patient) as source:
        stored = {(a.idx.slice, a.idx.kspace_encode_step_1): a.data for a in list(source.acquisitions())[1:]}
    for sent in server.acquisitions[1:]:
        np.testing.assert_array_equal(sent.data, stored[sent.idx.slice, sent.idx.kspace_encode_step_1])


def test_variable_density_lines_when_the_server_stays_silent(patient, tmp_path):
    with FakeServer() as server:
        began = time.perf_counter()
        report = run(server, patient, tmp_path, plan_timeout=0.2)
    assert time.perf_counter() - began < 30
    for record in report.slices:
        assert record.plan is not None
        assert (record.plan.source, record.answered) == ("variable density", None)
        assert len(imaging_lines(server, record.key.slice)) == round(PE / 4)
        assert set(ACS) <= set(imaging_lines(server, record.key.slice))


def test_a_plan_for_another_grid_is_refused(patient, tmp_path):
    def misbehave(channel, count):
        if count == 1:
            channel.send(protocol.encode(plan_image(0, 32, [1, 2, 3])))

    with FakeServer(misbehave=misbehave) as server, pytest.raises(InputError, match="plan is for 32 lines"):
        run(server, patient, tmp_path)


def test_budget_follows_the_acceleration(patient, tmp_path):
    with FakeServer() as server:
        report = run(server, patient, tmp_path, acceleration=8.0, plan_timeout=0.05)
    assert [len(record.lines) for record in report.slices] == [8, 8, 8]
    assert len(imaging_lines(server, 0)) == 8


def test_plain_scan_sends_the_file_as_it_is(patient, tmp_path):
    with FakeServer() as server:
        report = run(server, patient, tmp_path, closed_loop=False, config="pass_recon.xml")
    with ScanFile(patient) as source:
        stored = list(source.acquisitions())
    assert server.acquisitions == stored
    assert report.sent == len(stored) == 1 + 3 * PE
    assert server.config is not None
    assert (server.config.id, server.config.item) == (protocol.MessageId.CONFIG_FILE, "pass_recon.xml")
    assert report.images == 3


def test_local_configuration_is_sent_as_a_script(patient, tmp_path):
    with FakeServer() as server:
        run(server, patient, tmp_path, closed_loop=False, config_script=b"<configuration/>")
    assert server.config is not None
    assert (server.config.id, server.config.item) == (protocol.MessageId.CONFIG_SCRIPT, b"<configuration/>")


def test_header_goes_out_without_its_version(recordings, tmp_path):
    with h5py.File(recordings / "small.h5") as file:
        assert b"<version>" in file["dataset/xml"][0]
    with FakeServer() as server:
        run(server, recordings / "small.h5", tmp_path, closed_loop=False)
    assert b"version>" not in server.header
    assert ismrmrd.xsd.CreateFromDocument(server.header).encoding[0].encodedSpace.matrixSize.x == 128


def test_waveforms_are_merged_by_time(patient, tmp_path):
    source = tmp_path / "waves.h5"
    source.write_bytes(patient.read_bytes())
    with dataset(source, "dataset", "a") as file:
        for stamp in (0, 10_000, 10**9):
            wave = ismrmrd.Waveform.from_array(np.ones((1, 4), dtype=np.uint32))
            wave.time_stamp = stamp
            file.append_waveform(wave)
    with FakeServer() as server:
        run(server, source, tmp_path, closed_loop=False)
    assert [wave.time_stamp for wave in server.waveforms] == [0, 10_000, 10**9]
    with ScanFile(source) as opened:
        order = [getattr(m, "time_stamp", None) for m in opened.messages()]
    assert 0 < order.index(10_000) < len(order) - 2
    assert order[-1] == 10**9


def test_repetition_time_paces_the_lines(patient, tmp_path):
    with FakeServer(every_other_edge, acs=len(ACS)) as server:
        report = run(server, patient, tmp_path, repetition_time=0.01)
    assert report.seconds >= 0.01 * (report.sent - 1)


def test_output_is_laid_out_as_the_stock_client_does(patient, tmp_path, recordings):
    with FakeServer(every_other_edge, acs=len(ACS)) as server:
        run(server, patient, tmp_path)
    with h5py.File(tmp_path / "out.h5") as ours, h5py.File(recordings / "out_default.h5") as theirs:
        mine, stock = ours["run/image_1"], theirs["out/image_0"]
        assert set(mine) == set(stock)
        assert mine["header"].dtype == stock["header"].dtype
        assert h5py.check_string_dtype(mine["attributes"].dtype).length is None
        assert h5py.check_string_dtype(stock["attributes"].dtype).length is None
        assert (mine["data"].shape, mine["data"].dtype) == ((3, 1, 1, 8, 6), np.uint16)
        assert stock["data"].ndim == 5
        assert mine["header"].maxshape == stock["header"].maxshape == (None,)
        assert mine["header"]["slice"].tolist() == [0, 2, 1]
        assert ours["run/image_1000/data"].shape == (3, 1, 1, 1, PE)


def test_error_of_the_server_is_reported_and_images_are_kept(patient, tmp_path):
    def misbehave(channel, count):
        if count == 70:
            channel.send(protocol.error("the GPU is on fire"))

    with FakeServer(misbehave=misbehave) as server:
        report = run(server, patient, tmp_path, closed_loop=False)
    assert report.errors == ["the GPU is on fire"]
    assert report.images == 3
    assert (tmp_path / "out.h5").exists()


def test_error_in_the_form_of_a_real_server(patient, tmp_path):
    def misbehave(channel, count):
        if count == 2:
            channel.send(protocol.text("[gadget.cpp:12] ERROR: no such gadget"))

    with FakeServer(misbehave=misbehave) as server:
        report = run(server, patient, tmp_path, closed_loop=False)
    assert report.errors == ["[gadget.cpp:12] ERROR: no such gadget"]


def test_server_gone_in_mid_scan_keeps_what_came(patient, tmp_path):
    def misbehave(channel, count):
        if count == 1 + 2 * (PE // 4):
            raise ConnectionAbortedError

    with FakeServer(every_other_edge, acs=len(ACS), misbehave=misbehave) as server:
        report = run(server, patient, tmp_path, plan_timeout=5)
    assert len(report.errors) == 1
    assert "acquisitions sent, the server went away: " in report.errors[0]
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["run/image_1/header"]["slice"].tolist() == [0]


def broken_meta(value=1):
    """An image whose meta is cut off in the middle, as it goes over the wire."""
    image = ismrmrd.Image.from_array(
        np.full((8, 6), value, dtype=np.uint16), transpose=False, slice=1, image_series_index=1
    )
    frame, head = protocol.encode(image), 2 + ctypes.sizeof(ismrmrd.ImageHeader)
    meta = b"<ismrmrdMeta><meta><na"
    return frame[:head] + len(meta).to_bytes(8, "little") + meta + frame[head + 8 :]


def test_an_image_whose_meta_is_no_xml_is_stored_and_said(patient, tmp_path):
    def misbehave(channel, count):
        if count == 20:
            channel.send(broken_meta())

    with FakeServer(misbehave=misbehave) as server:
        report = run(server, patient, tmp_path, closed_loop=False)
    (error,) = report.errors
    assert "unreadable IMAGE" in error
    assert "of series 1 has no meta" in error
    assert report.images == 4, "all that came are stored, those after it too"


def test_a_plan_that_contradicts_itself_is_said_and_nothing_is_lost(patient, tmp_path):
    def misbehave(channel, count):
        if count == 5:
            channel.send(protocol.encode(plan_image(0, PE, [1, 2, 3], PASS_lines=["1", "2", "x"])))

    with FakeServer(misbehave=misbehave) as server:
        report = run(server, patient, tmp_path, closed_loop=False)
    assert len(report.errors) == 1
    assert "names lines that are no numbers" in report.errors[0]
    assert report.images == 4


def test_whatever_ends_the_receiver_is_said(patient, tmp_path, monkeypatch):
    def full(self, image):
        raise RuntimeError("no space left in the file")

    monkeypatch.setattr("gadgets.scanner.receiver.ImageFile.append", full)
    with FakeServer() as server:
        report = run(server, patient, tmp_path, closed_loop=False)
    assert "RuntimeError: no space left in the file" in report.errors[0]


def test_a_server_that_never_says_close_is_given_up_and_its_images_are_kept(patient, tmp_path):
    release = threading.Event()

    def misbehave(channel, count):
        if count == 1 + 3 * PE:
            release.wait(30)

    with FakeServer(misbehave=misbehave) as server:
        report = run(server, patient, tmp_path, closed_loop=False, timeout=0.5)
        release.set()
    assert report.errors == [
        f"with {1 + 3 * PE} acquisitions sent, the server is given up: 0.5 s without a word, "
        "while its images or its CLOSE were awaited"
    ]
    with h5py.File(tmp_path / "out.h5") as file:
        assert len(file["run/image_1/header"]) == 3


def test_a_server_that_stops_reading_is_given_up(tmp_path):
    release = threading.Event()
    # 40 MB, more than the sockets hold.
    large = write_scan(tmp_path / "large.h5", np.ones((10, 32, 256, 64), dtype=np.complex64))
    (tmp_path / "results").mkdir()
    with FakeServer(misbehave=lambda channel, count: release.wait(60)) as server:
        report = run(server, large, tmp_path / "results", closed_loop=False, timeout=0.5)
        release.set()
    (error,) = report.errors
    assert error.endswith("acquisitions sent, the server is given up: it took no line for 0.5 s")


def test_a_late_plan_is_told_and_no_error(patient, tmp_path, capsys):
    def late(channel, count):
        if count == len(ACS) + 1:
            reason = "no personal plan within the deadline of 50 ms"
            plan = plan_image(0, PE, every_other_edge(0, PE), PASS_source="population", PASS_fallback=reason)
            channel.send(protocol.encode(plan))

    with FakeServer(misbehave=late) as server:
        where = ["-a", "127.0.0.1", "-p", str(server.port), "--closed-loop", "--plan-timeout", "0.3"]
        assert main(["scan", *where, "-f", str(patient), "-o", str(tmp_path / "out.h5")]) == 0
    said = capsys.readouterr()
    assert "population (no personal plan within the deadline of 50 ms)" in said.out
    assert "deadline" not in said.err


def test_what_images_say_of_themselves_is_a_warning(patient, tmp_path, capsys):
    def misbehave(channel, count):
        if count == 20:
            image = ismrmrd.Image.from_array(
                np.ones((8, 6), dtype=np.uint16), transpose=False, slice=1, image_series_index=1
            )
            image.meta = {"PASS_fallback": "no coil maps", "PASS_quality": "spike", "PASS_quality_reason": "coil 2"}
            channel.send(protocol.encode(image))
            channel.send(protocol.encode(image))

    with FakeServer(misbehave=misbehave) as server:
        where = ["-a", "127.0.0.1", "-p", str(server.port)]
        assert main(["scan", "-q", *where, "-f", str(patient), "-o", str(tmp_path / "out.h5")]) == 0
    assert capsys.readouterr().err == (
        "pass-recon scan: warning: slice 1: no coil maps\npass-recon scan: warning: slice 1: spike: coil 2\n"
    )


def test_no_image_leaves_no_file(patient, tmp_path):
    def misbehave(channel, count):
        raise ConnectionAbortedError

    with FakeServer(misbehave=misbehave) as server:
        report = run(server, patient, tmp_path, closed_loop=False)
    assert report.images == 0
    assert report.errors
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_a_sentence(patient, tmp_path):
    with ScanFile(patient) as source, pytest.raises(ConnectionError, match=r"no server answers at 127\.0\.0\.1:1 "):
        run_scan(source, tmp_path / "out.h5", ScanSettings(address="127.0.0.1", port=1))
    assert list(tmp_path.iterdir()) == []


def test_interrupted_scan_keeps_whole_images(patient, tmp_path):
    def progress(sent, total):
        assert total == 1 + 3 * (PE // 4)
        if sent == 45:
            time.sleep(0.2)  # for the first image to arrive
            raise KeyboardInterrupt

    with FakeServer(every_other_edge, acs=len(ACS)) as server, ScanFile(patient) as source:
        settings = ScanSettings("127.0.0.1", server.port, group="run", closed_loop=True)
        with pytest.raises(KeyboardInterrupt):
            run_scan(source, tmp_path / "out.h5", settings, progress=progress)
    with h5py.File(tmp_path / "out.h5") as file:
        assert 0 in file["run/image_1/header"]["slice"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]


class TestCommand:
    """`pass-recon scan`, with the flags of the stock client."""

    def test_closed_loop(self, patient, tmp_path, capsys):
        out = tmp_path / "out.h5"
        with FakeServer(every_other_edge, acs=len(ACS)) as server:
            flags = ["-a", "127.0.0.1", "-p", str(server.port), "-f", str(patient), "-o", str(out), "-c", "x.xml"]
            assert main(["scan", *flags, "-G", "/mine", "-g", "/dataset", "--closed-loop", "--tr", "0.5"]) == 0
        assert server.config is not None
        assert server.config.item == "x.xml"
        said = capsys.readouterr()
        assert f"49 acquisitions sent, 6 images in {out}:/mine" in said.out
        assert said.out.count("16 lines, personal, plan after") == 3
        with h5py.File(out) as file:
            assert set(file["mine"]) == {"image_1", "image_1000"}

    def test_told_in_json(self, patient, tmp_path, capsys):
        out = tmp_path / "out.h5"
        with FakeServer(every_other_edge, acs=len(ACS)) as server:
            flags = ["-a", "127.0.0.1", "-p", str(server.port), "-f", str(patient), "-o", str(out), "-c", "x.xml"]
            assert main(["scan", *flags, "-G", "mine", "--closed-loop", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["sent"], told["images"], told["file"], told["errors"]) == (49, 6, str(out), [])
        assert [(one["lines"], one["source"]) for one in told["slices"]] == [(16, "personal")] * 3
        assert all(one["seconds_to_plan"] > 0 for one in told["slices"])

    def test_default_group_is_the_time_as_with_the_stock_client(self, patient, tmp_path):
        with FakeServer() as server:
            where = ["-a", "127.0.0.1", "-p", str(server.port)]
            assert main(["scan", "-q", *where, "-f", str(patient), "-o", str(tmp_path / "out.h5")]) == 0
        assert server.config is not None
        assert server.config.item == "default.xml"
        with h5py.File(tmp_path / "out.h5") as file:
            (group,) = file
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", group)

    def test_errors_are_told_and_decide_the_exit_code(self, patient, tmp_path, capsys):
        def misbehave(channel, count):
            if count == 5:
                channel.send(protocol.text("[gadget] ERROR: out of memory"))
                channel.send(protocol.error("[gadget] ERROR: out of memory"))

        with FakeServer(misbehave=misbehave) as server:
            where = ["-a", "127.0.0.1", "-p", str(server.port)]
            assert main(["scan", "-q", *where, "-f", str(patient), "-o", str(tmp_path / "out.h5")]) == 1
        assert capsys.readouterr().err == "pass-recon scan: [gadget] ERROR: out of memory\n"
        assert (tmp_path / "out.h5").exists()

    def test_missing_local_configuration(self, patient, tmp_path, capsys):
        assert main(["scan", "-f", str(patient), "-C", str(tmp_path / "mine.xml")]) == 1
        assert "No such file or directory: " in capsys.readouterr().err
