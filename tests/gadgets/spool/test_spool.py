"""Raw data that are kept: what a server writes, what is left after a crash, and what `replay` makes of it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest

import pass_recon_cli.main as command_line
from gadgets import protocol
from gadgets.converters.image_file import read_images
from gadgets.mrd.dataset import dataset
from gadgets.mrd.deidentify import without_identity
from gadgets.mrd.header_xml import read_header
from gadgets.mrd.scan_file import ScanFile
from gadgets.protocol import Channel, MessageId
from gadgets.spool.recording import RecordingWriter, recording, under_way
from gadgets.spool.spool import Spool, cut_scans, scans
from pass_recon.types import InputError
from pass_recon_cli.local_server import LocalProcess
from tests.gadgets.scans import patient_file
from tests.gadgets.server.tools import HEADER, acquisition, configuration, running_server, scan, talk

ECHO = configuration("")
GIB, WEEK = 1 << 30, 7 * 86400.0
IDENTIFYING = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<!-- Erika again -->
<subjectInformation><patientName>Mustermann^Erika</patientName><patientID>4711</patientID></subjectInformation>
<studyInformation><studyDate>2026-02-03</studyDate><accessionNumber>99</accessionNumber>
<referringPhysicianName>House</referringPhysicianName><studyDescription>Head</studyDescription></studyInformation>
<measurementInformation><measurementID>m-1</measurementID><seriesDate>2026-02-03</seriesDate>
<patientPosition>HFS</patientPosition><protocolName>t2_flair</protocolName>
<frameOfReferenceUID>1.2.3.4711</frameOfReferenceUID></measurementInformation>
<acquisitionSystemInformation><systemVendor>S</systemVendor><institutionName>Charité</institutionName>
<stationName>MR7</stationName></acquisitionSystemInformation>
<experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions>
<encoding><encodedSpace><matrixSize><x>64</x><y>16</y><z>1</z></matrixSize>
<fieldOfView_mm><x>600</x><y>300</y><z>6</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>32</x><y>16</y><z>1</z></matrixSize>
<fieldOfView_mm><x>300</x><y>300</y><z>6</z></fieldOfView_mm></reconSpace>
<encodingLimits/><trajectory>cartesian</trajectory></encoding>
<userParameters><userParameterString><name>Comment</name><value>Erika, claustrophobic</value></userParameterString>
<userParameterBase64><name>raw</name><value>RXJpa2E=</value></userParameterBase64></userParameters></ismrmrdHeader>"""


ROOT = Path(__file__).resolve().parents[3]
# A limit on the size of files fills a disk without being root: the recording fits, the MRD file does not.
_FULL_DISK = """
import resource, sys, time
from pathlib import Path
from gadgets.protocol import MessageId
from gadgets.server import client
from gadgets.spool.spool import Spool
from tests.gadgets.server.tools import acquisition, configuration, of_kind, running_server, scan, talk
said = []
client.Client.warn = lambda self, location, message: said.append(message)
with running_server(observers=(Spool(Path(sys.argv[1]), 1 << 30, 1e6),)) as port:
    resource.setrlimit(resource.RLIMIT_FSIZE, (140_000, 140_000))
    answer = talk(port, scan(configuration(""), *[acquisition(step, coils=8, samples=512) for step in range(4)]))
    deadline = time.monotonic() + 30
    while not said and time.monotonic() < deadline:
        time.sleep(0.02)
print(len(of_kind(answer, MessageId.ACQUISITION)), "lines back,", *said)
"""


def spool_in(folder: Path, *, size: float = GIB, age: float = WEEK, deidentify: bool = False) -> Spool:
    return Spool(folder, int(size), age, deidentify=deidentify)


def written(path: Path, *frames: bytes) -> Path:
    writer = RecordingWriter(path)
    for frame in frames:
        writer.write(frame)
    writer.close()
    return path


def frames(*items: object, header: str = HEADER) -> list[bytes]:
    return [protocol.config_script("<configuration/>"), protocol.header(header), *map(protocol.encode, items)]


def test_a_complete_scan_becomes_an_mrd_file_that_only_its_owner_reads(tmp_path):
    lines = [acquisition(step) for step in range(5)]
    lines[2].measurement_uid = 77
    with running_server(observers=(spool_in(tmp_path / "spool"),)) as port:
        talk(port, scan(ECHO, *lines))
    (path,) = scans(tmp_path / "spool")
    assert path.suffix == ".h5"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with dataset(path, "dataset", "r") as kept:  # the library's own reader
        assert kept.number_of_acquisitions() == 5
        for number, line in enumerate(lines):
            read = kept.read_acquisition(number)
            assert read.getHead().idx.kspace_encode_step_1 == line.idx.kspace_encode_step_1
            assert read.measurement_uid == line.measurement_uid
            np.testing.assert_array_equal(read.data, line.data)
        assert read_header(kept.read_xml_header()).encoding[0].encodedSpace.matrixSize.x == 64


def test_a_scan_whose_client_goes_away_stays_as_it_came(tmp_path):
    with running_server(observers=(spool_in(tmp_path),)) as port:
        channel = Channel.connect("127.0.0.1", port)
        channel.send(scan(ECHO, acquisition(0), acquisition(1), close=False))
        channel.read_message()
        channel.close()
        for _ in range(200):
            if cut_scans(tmp_path):
                break
            time.sleep(0.05)
    (path,) = scans(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with recording(path) as kept:
        assert [message.id for message in kept.messages()] == [MessageId.ACQUISITION] * 2
        assert not kept.complete


@pytest.mark.parametrize("missing", [1, 100, 2000])
def test_a_recording_that_ends_anywhere_is_read_as_far_as_it_is_whole(tmp_path, missing):
    path = written(tmp_path / "a.scan", *frames(acquisition(0), acquisition(1), acquisition(2)))
    os.truncate(path, path.stat().st_size - missing)
    with recording(path) as kept:
        lines = [message.item for message in kept.messages()]
    expected = 3 - -(-missing // len(protocol.encode(acquisition(0))))
    assert len(lines) == expected
    np.testing.assert_array_equal(lines[0].data, acquisition(0).data)


def test_what_is_no_recording_is_said(tmp_path):
    (tmp_path / "a.scan").write_bytes(b"\x02\x00")
    with pytest.raises(InputError, match=r"a\.scan holds no scan"), recording(tmp_path / "a.scan"):
        pass
    (tmp_path / "b.scan").write_bytes(b"PK\x03\x04 something else altogether")
    with pytest.raises(InputError, match=r"b\.scan is no recording"), recording(tmp_path / "b.scan"):
        pass


def test_identity_is_left_out_and_what_reconstruction_needs_stays():
    told = without_identity(IDENTIFYING.encode())
    for secret in (b"Erika", b"4711", b"House", b"2026", b"99", b"m-1", b"Charit", b"MR7", b"RXJ"):
        assert secret not in told, secret
    before, after = read_header(IDENTIFYING), read_header(told)
    assert after.encoding == before.encoding
    assert after.measurementInformation.protocolName == "t2_flair"
    assert after.studyInformation.studyDescription == "Head"


def test_raw_data_are_kept_without_identity_on_request(tmp_path):
    with running_server(observers=(spool_in(tmp_path, deidentify=True),)) as port:
        sent = [protocol.config_script(ECHO), protocol.header(IDENTIFYING), protocol.encode(acquisition(0))]
        talk(port, b"".join([*sent, protocol.close()]))
    (path,) = scans(tmp_path)
    assert b"Erika" not in path.read_bytes()
    with h5py.File(path) as file:
        assert b"t2_flair" in file["dataset/xml"][0]


def test_the_oldest_go_when_the_spool_is_full_and_the_old_when_they_are(tmp_path):
    for number in range(4):
        path = written(tmp_path / f"2026010{number}T000000-a.scan", b"x" * 1000)
        os.utime(path, (time.time() - 100 * (4 - number),) * 2)
    spool_in(tmp_path, size=2500)
    assert [path.name[:8] for path in scans(tmp_path)] == ["20260102", "20260103"]
    spool_in(tmp_path, age=150)
    assert [path.name[:8] for path in scans(tmp_path)] == ["20260103"]


def test_a_full_spool_costs_no_scan_and_is_said(tmp_path):
    with running_server(observers=(spool_in(tmp_path, size=3000),)) as port:
        answer = talk(port, scan(ECHO, *[acquisition(step, samples=512) for step in range(4)]))
    assert [message.id for message in answer].count(MessageId.ACQUISITION) == 4
    (warning,) = [message.item for message in answer if message.id == MessageId.TEXT]
    assert "the spool is full" in warning
    assert sum(path.stat().st_size for path in scans(tmp_path)) <= 3000


def test_what_is_being_received_is_neither_replayed_nor_removed(tmp_path):
    writer = RecordingWriter(tmp_path / "20200101T000000-a.scan")
    writer.write(b"x" * 100)
    assert under_way(writer.path)
    assert cut_scans(tmp_path) == []
    spool_in(tmp_path, size=10, age=0.0)
    assert writer.path.exists()
    writer.close()
    assert cut_scans(tmp_path) == [writer.path]


def test_replay_waits_for_the_lock_of_a_server_that_is_dying(tmp_path, capsys):
    patient = patient_file(tmp_path / "patient.h5", slices=1)
    with ScanFile(patient) as source:
        lines = [protocol.encode(line) for line in source.acquisitions()]
        header = protocol.header(source.header_xml)
    (tmp_path / "spool").mkdir()
    writer = RecordingWriter(tmp_path / "spool" / "a.scan")
    for frame in (protocol.config_script("<configuration/>"), header, *lines):
        writer.write(frame)
    threading.Timer(0.5, writer.close).start()
    arguments = ["replay", str(tmp_path / "spool"), "--bundle", "classical", "--device", "cpu"]
    assert command_line.main(arguments) in (0, 1)
    assert "images in" in capsys.readouterr().out


def test_a_recording_that_goes_while_room_is_made_is_no_fault(tmp_path, monkeypatch):
    gone = tmp_path / "20260101T000000-a.scan"
    monkeypatch.setattr("gadgets.spool.spool.scans", lambda folder: [gone])
    assert spool_in(tmp_path).make_room(10)
    assert not under_way(gone)
    assert cut_scans(tmp_path) == []


def test_a_full_disk_keeps_the_recording_and_the_server(tmp_path):
    """HDF5 would end the process: nothing is begun that has no room."""
    command = [sys.executable, "-c", _FULL_DISK, str(tmp_path / "spool")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("4 lines back, no room for ")
    (kept,) = scans(tmp_path / "spool")
    with recording(kept) as scan_kept:
        assert len(list(scan_kept.messages())) == 4
        assert scan_kept.complete


def test_no_two_scans_write_to_one_file(tmp_path):
    written(tmp_path / "a.scan", b"x")
    with pytest.raises(FileExistsError):
        RecordingWriter(tmp_path / "a.scan")


def test_a_killed_server_leaves_a_scan_that_replay_reconstructs(tmp_path, capsys):
    patient = patient_file(tmp_path / "patient.h5", slices=1)
    spool = tmp_path / "spool"
    with ScanFile(patient) as source:
        header, lines = source.header_xml, list(source.acquisitions())
    came = lines[: len(lines) * 3 // 4]
    with LocalProcess("serve", "-p", "0", "--spool", str(spool), log=tmp_path / "log") as server:
        channel = Channel.connect("127.0.0.1", server.port())
        channel.send(protocol.config_file("pass_recon_plain.xml") + protocol.header(header))
        sender = threading.Thread(target=lambda: [channel.send(protocol.encode(line)) for line in came])
        sender.start()
        sender.join()
        for _ in range(600):
            if (kept := scans(spool)) and kept[0].stat().st_size > 0.99 * sum(
                len(protocol.encode(one)) for one in came
            ):
                break
            time.sleep(0.05)
        os.kill(server.pid, signal.SIGKILL)
        channel.close()
    assert command_line.main(["replay", str(spool), "-o", str(tmp_path / "out"), "--device", "cpu"]) in (0, 1)
    said = capsys.readouterr()
    made = list((tmp_path / "out").glob("*.h5"))
    assert len(made) == 1, (said, scans(spool), (tmp_path / "log").read_text(encoding="utf-8"))
    images = made[0]
    assert stat.S_IMODE(images.stat().st_mode) == 0o600
    with h5py.File(images) as file:
        (group,) = file
    (image,) = read_images(images, group, 1)
    assert image.data.std() > 0
    assert "images in" in said.out
    # The same lines through `recon` give the same pixels.
    part = tmp_path / "part.h5"
    dataset = ismrmrd.Dataset(str(part), "dataset")
    dataset.write_xml_header(header)
    for line in came:
        dataset.append_acquisition(line)
    dataset.close()
    command_line.main(["recon", "-f", str(part), "-o", str(tmp_path / "recon.h5"), "-G", "g", "-q", "--device", "cpu"])
    (expected,) = read_images(tmp_path / "recon.h5", "g", 1)
    np.testing.assert_array_equal(image.data, expected.data)


def test_replay_of_complete_scans_has_their_properties_and_leaves_the_raw_data(tmp_path, capsys):
    patient = patient_file(tmp_path / "patient.h5", slices=1)
    with ScanFile(patient) as source:
        lines = [protocol.encode(line) for line in source.acquisitions()]
        header = protocol.header(source.header_xml)
    asked = '<configuration><property name="bundle" value="classical"/></configuration>'
    spool = tmp_path / "spool"
    spool.mkdir()
    kept = written(spool / "a.scan", protocol.config_script(asked), header, *lines, protocol.close())
    assert command_line.main(["replay", str(spool), "--device", "cpu"]) == 0
    assert kept.exists()
    with h5py.File(spool / "images" / "a.h5") as file:
        (group,) = file
    (image,) = read_images(spool / "images" / "a.h5", group, 1)
    assert image.meta["PASS_bundle"] == "classical"
    assert command_line.main(["replay", str(tmp_path / "none")]) == 1
    assert "no such spool" in capsys.readouterr().err


def test_one_bad_recording_does_not_cost_the_others(tmp_path, capsys):
    written(tmp_path / "a.scan", b"nonsense of some length")
    patient = patient_file(tmp_path / "patient.mrd", slices=1)
    with ScanFile(patient) as source:
        lines = [protocol.encode(line) for line in source.acquisitions()]
        header = protocol.header(source.header_xml)
    written(tmp_path / "b.scan", protocol.config_script("<configuration/>"), header, *lines, protocol.close())
    arguments = ["replay", str(tmp_path), "-o", str(tmp_path / "out"), "--bundle", "classical", "--device", "cpu"]
    assert command_line.main([*arguments, "--json"]) == 1
    said = capsys.readouterr()
    assert "a.scan is no recording" in said.err
    first, second = json.loads(said.out)
    assert (first["scan"], first["images"], first["file"], first["faulty"]) == ("a.scan", 0, None, True)
    assert (second["images"] > 0, second["file"]) == (True, str(tmp_path / "out" / "b.h5"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.h5"]
