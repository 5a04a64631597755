"""The scanner at the embedded server with the real chain: closed loop, plain scan, the same images by every door."""

from __future__ import annotations

import threading
import time

import h5py
import numpy as np
import pytest

from gadgets.converters.image_file import read_images
from gadgets.mrd.scan_file import ScanFile
from gadgets.resident import serve_resident
from gadgets.scanner.client import ScanSettings, run_scan
from gadgets.server.server import serve
from pass_recon.pipeline import Pipeline
from pass_recon.sampling.budget import acs_count, acs_fraction, acs_range
from pass_recon_cli.local_server import write_configuration
from pass_recon_cli.main import main
from tests.gadgets.scans import patient_file, write_scan

CHAINS = ("pass_recon.xml", "pass_recon_plain.xml", "pass_recon_resident.xml")
RESIDENT = "pass_recon_resident.xml"
SLOW_SECONDS = 1.0  # several times what a plan with its detector takes


def in_thread(function, **arguments):
    """Start a server in this process; gives its port."""
    ports: list[int] = []
    ready = threading.Event()

    def announce(port):
        ports.append(port)
        ready.set()

    threading.Thread(target=function, kwargs={"port": 0, "ready": announce, **arguments}, daemon=True).start()
    assert ready.wait(60)
    return ports[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Port of an embedded server with a resident process behind it; `closed_8x.xml` plans for 8×."""
    folder, stop = tmp_path_factory.mktemp("configs"), threading.Event()
    resident = in_thread(serve_resident, stop=stop)
    (write_configuration(RESIDENT, folder, {"acceleration": "8"}, resident)).rename(folder / "closed_8x.xml")
    for name in CHAINS:
        write_configuration(name, folder, {}, resident)
    yield in_thread(serve, config_folders=[folder], stop=stop)
    stop.set()


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return patient_file(tmp_path_factory.mktemp("closed_loop") / "patient.h5", slices=4, coils=6, shape=(64, 96))


def run(server, patient, out, config=RESIDENT, **settings):
    with ScanFile(patient) as source:
        return run_scan(source, out, ScanSettings("127.0.0.1", server, config, group="run", **settings))


def planned_by_server(out):
    """For each slice the lines of the plan, as the server's message says."""
    return {image.slice: image.data.ravel().nonzero()[0].tolist() for image in read_images(out, "run", 1000)}


@pytest.mark.parametrize(("config", "acceleration", "lines"), [(RESIDENT, 4.0, 24), ("closed_8x.xml", 8.0, 12)])
def test_exactly_the_planned_lines_are_sent(server, patient, tmp_path, config, acceleration, lines):
    report = run(server, patient, tmp_path / "out.h5", config, closed_loop=True, acceleration=acceleration)
    assert (report.errors, report.warnings) == ([], [])
    assert report.sent == 1 + 4 * lines
    plans = planned_by_server(tmp_path / "out.h5")
    acs = acs_range(96, acs_count(96, acs_fraction(acceleration)))
    for record in report.slices:
        assert sorted(record.lines) == plans[record.key.slice]
        assert len(record.lines) == round(96 / acceleration) == lines
        assert record.lines[: len(acs)] == list(acs)
        assert record.answered is not None
        assert record.asked < record.answered <= record.first_planned
    # What came is what was planned, so the server need not correct itself with a plan of what was acquired.
    with h5py.File(tmp_path / "out.h5") as file:
        assert {name: len(file["run"][name]["data"]) for name in file["run"]} == {
            "image_1": 4, "image_2": 4, "image_3": 4, "image_1000": 4,
        }  # fmt: skip
    for image in read_images(tmp_path / "out.h5", "run", 1):
        assert image.meta["PASS_lines_used"] == f"{lines} of 96"


def test_plans_arrive_while_another_slice_is_being_reconstructed(server, patient, tmp_path, monkeypatch):
    """Reconstructing takes a second more here, and no plan waits for it."""
    reconstruct = Pipeline.reconstruct

    def slowly(self, *arguments, **options):
        time.sleep(SLOW_SECONDS)
        return reconstruct(self, *arguments, **options)

    monkeypatch.setattr(Pipeline, "reconstruct", slowly)
    report = run(server, patient, tmp_path / "out.h5", closed_loop=True)
    assert report.errors == []
    images = {arrival.key[0]: arrival.seconds for arrival in report.arrivals if arrival.series == 1}
    first, *others = report.slices
    assert images[first.key.slice] - first.last_planned >= SLOW_SECONDS
    # The second slice's ACS goes out before the first's planned lines; the others' while the first is reconstructed.
    for record in others[1:]:
        assert record.answered is not None
        assert record.answered - record.asked < SLOW_SECONDS / 2
        assert record.answered < images[first.key.slice]


def test_scanner_and_server_that_disagree_on_the_acceleration(server, patient, tmp_path):
    """The server wants fewer ACS lines than the scanner sends and plans 12 lines; the scanner follows and says so."""
    report = run(server, patient, tmp_path / "out.h5", "closed_8x.xml", closed_loop=True, acceleration=4.0)
    assert len(report.warnings) == 4
    assert "has 12 lines, not 24" in report.warnings[0]
    assert report.errors == []


def test_images_are_of_the_patient_and_in_place(server, patient, tmp_path):
    run(server, patient, tmp_path / "out.h5", closed_loop=True)
    with h5py.File(patient) as file:
        truth = np.abs(file["truth/image"][()])
    for image in read_images(tmp_path / "out.h5", "run", 1):
        found = image.data[0, 0].T.astype(float)
        wanted = truth[image.slice]
        # Which slice it is shows in the correlation: it is highest with the truth of the same slice.
        likeness = [np.corrcoef(found.ravel(), other.ravel())[0, 1] for other in truth]
        assert int(np.argmax(likeness)) == image.slice
        scaled = found * (found * wanted).sum() / (found**2).sum()
        assert np.linalg.norm(scaled - wanted) < 0.2 * np.linalg.norm(wanted)


def test_repetitions_and_averages(server, tmp_path):
    """Two repetitions of one slice, each line twice: the next repetition's ACS waits until this one is over."""
    rng = np.random.default_rng(0)
    kspace = rng.standard_normal((2, 4, 32, 48)) + 1j * rng.standard_normal((2, 4, 32, 48))
    path = write_scan(tmp_path / "scan.h5", kspace.astype(np.complex64))
    with h5py.File(path, "a") as file:
        xml = file["dataset/xml"][0]
        limits = b"<average><minimum>0</minimum><maximum>1</maximum><center>0</center></average></encodingLimits>"
        file["dataset/xml"][0] = xml.replace(b"</encodingLimits>", limits)
        rows = file["dataset/data"][:]
        rows["head"]["idx"]["repetition"] = rows["head"]["idx"]["slice"]
        rows["head"]["idx"]["slice"] = 0
        again = rows.copy()
        again["head"]["idx"]["average"] = 1
        del file["dataset/data"]
        file["dataset/data"] = np.concatenate([rows, again])
    report = run(server, path, tmp_path / "out.h5", closed_loop=True)
    assert report.errors == []
    assert report.sent == 2 * 2 * 12
    assert [(image.slice, image.repetition) for image in read_images(tmp_path / "out.h5", "run", 1)] == [(0, 0), (0, 1)]
    assert {one.meta["PASS_lines_used"] for one in read_images(tmp_path / "out.h5", "run", 1)} == {"12 of 48"}


@pytest.mark.parametrize(
    "chains", [("pass_recon.xml", RESIDENT), pytest.param(("pass_recon_plain.xml",), marks=pytest.mark.slow)]
)
def test_every_door_gives_the_same_images(server, patient, tmp_path, chains):
    """Four gadget processes, with the stock gadgets and without, the resident process, and no server at all."""
    for name in chains:
        assert run(server, patient, tmp_path / name, name).errors == []
    command = ["recon", "-q", "-f", str(patient), "-o", str(tmp_path / "recon"), "-G", "run"]
    assert main(command) == 0
    for series in (1, 2, 3, 1000):
        wanted = {image.slice: image for image in read_images(tmp_path / "recon", "run", series)}
        assert sorted(wanted) == [0, 1, 2, 3]
        for name in chains:
            found = {image.slice: image for image in read_images(tmp_path / name, "run", series)}
            assert sorted(found) == sorted(wanted)
            for index, image in wanted.items():
                scale = float(image.meta.get("PASS_scale", 1.0))
                assert float(found[index].meta.get("PASS_scale", 1.0)) == pytest.approx(scale, rel=1e-6)
                difference = np.abs(found[index].data.astype(float) - image.data.astype(float)).max()
                assert difference <= 1e-5 * max(1, image.data.max())
                assert found[index].position[:] == image.position[:]


class TestFaultsReachTheUser:
    """`pass-recon scan` at the server: one sentence a fault, exit code 1, no half-written file."""

    @pytest.fixture
    def complaint(self, server, tmp_path, capsys):
        def scan_command(path, *options, config=RESIDENT):
            out = tmp_path / "results" / "out.h5"
            out.parent.mkdir()
            where = ["-a", "127.0.0.1", "-p", str(server), "-c", config, "-f", str(path), "-o", str(out)]
            assert main(["scan", "-q", *where, *options]) == 1
            assert list(out.parent.iterdir()) == []
            said = capsys.readouterr().err
            assert "Traceback" not in said
            return said

        return scan_command

    def test_unknown_configuration(self, complaint, patient):
        assert "nowhere.xml" in complaint(patient, config="nowhere.xml")

    def test_configuration_of_the_client(self, complaint, patient, tmp_path):
        (tmp_path / "mine.xml").write_text("<configuration/>")
        said = complaint(patient, "-C", str(tmp_path / "mine.xml"))
        assert "configurations sent by clients are refused" in said

    @pytest.mark.parametrize("closed_loop", [[], ["--closed-loop"]])
    def test_three_dimensional_scan(self, complaint, patient, tmp_path, closed_loop):
        path = tmp_path / "scan.h5"
        path.write_bytes(patient.read_bytes())
        with h5py.File(path, "a") as file:
            file["dataset/xml"][0] = file["dataset/xml"][0].replace(b"<z>1</z>", b"<z>8</z>")
        assert "only 2D scans are supported" in complaint(path, *closed_loop)

    def test_no_server(self, tmp_path, patient, capsys):
        command = ["scan", "-q", "-a", "127.0.0.1", "-p", "1", "-f", str(patient), "-o", str(tmp_path / "out.h5")]
        assert main(command) == 1
        assert "no server answers at 127.0.0.1:1" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
