"""DICOM objects before the programs of others: dciodvfy, dcmtk, dcm2niix, and Orthanc as a PACS."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from dataclasses import replace
from io import BytesIO

import numpy as np
import pydicom
import pytest

pytest.importorskip("highdicom", reason="DICOM needs the extra dicom")

from pass_recon.report.dicom.export import dicom_objects, write_dicom
from pass_recon.report.dicom.send import Destination, send
from tests.report.scans import PE, RO, geometry, scan_record, slice_record

pytestmark = pytest.mark.dicom_peers

KINDS = [{}, {"enhanced": True}, {"radiological": True}, {"keep_identity": True}]
SAGITTAL = {"read_direction": (0.0, 0.0, -1.0), "phase_direction": (0.1, 0.99498744, 0.0)}


def said(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def knee():
    """Of no examination that is known, with one contrast more and a repetition."""
    slices = (
        slice_record(0),
        slice_record(1, key=(0, 1, 0, 0, 0)),
        slice_record(2, key=(0, 0, 0, 1, 0), anomaly_map=None, findings=(), score=None),
    )
    scan = scan_record(slices=slices)
    assert scan.protocol is not None
    return replace(scan, protocol=replace(scan.protocol, examination="", patient_position="", echo_times=()))


@pytest.mark.parametrize("scan", [scan_record, knee])
@pytest.mark.parametrize("kind", KINDS)
def test_dciodvfy_finds_no_error(tmp_path, kind, scan):
    for path in write_dicom(tmp_path, dicom_objects(scan(), **kind)):
        errors = [line for line in said("dciodvfy", path).splitlines() if line.startswith(("Error", "Abort"))]
        assert errors == [], path


@pytest.mark.parametrize("kind", KINDS)
def test_dcmtk_reads_all_of_it(tmp_path, kind):
    for path in write_dicom(tmp_path, dicom_objects(scan_record(), **kind)):
        done = subprocess.run(["dcmdump", "-q", str(path)], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    tree = said("dsrdump", tmp_path / "report" / "0001.dcm")
    assert "Imaging Measurement Report" in tree
    assert "Long axis" in tree


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("directions", [{}, SAGITTAL])
def test_dcm2niix_gives_the_geometry_of_the_acquisition(tmp_path, kind, directions):
    nibabel = pytest.importorskip("nibabel")
    normal = np.cross(*directions.values()) if directions else np.array(geometry().slice_direction)
    slices = []
    for number in range(4):
        x, y, z = (np.array([5.0, -12.0, 40.0]) + 6.0 * number * normal).tolist()
        place = replace(geometry(), centre=(x, y, z), slice_direction=tuple(normal), **directions)
        slices.append(slice_record(number, 4, geometry=place))
    write_dicom(tmp_path, dicom_objects(scan_record(slices=tuple(slices)), **kind))
    out = tmp_path / "nifti"
    out.mkdir()
    report = said("dcm2niix", "-z", "n", "-b", "n", "-f", "volume", "-o", out, tmp_path / "magnitude")
    (path,) = out.glob("*.nii")
    volume = nibabel.load(path)
    assert sorted(volume.shape) == sorted((RO, PE, 4)), report
    values, back = volume.get_fdata(), np.linalg.inv(volume.affine)
    rng = np.random.default_rng(0)
    for one in slices:
        for readout, phase in zip(rng.integers(0, RO, 20), rng.integers(0, PE, 20), strict=True):
            # NIfTI counts to the right and to the front, DICOM to the left and to the back.
            place = np.array(one.geometry.place(readout, phase, (RO, PE))) * [-1, -1, 1]
            voxel = (back @ [*place, 1])[:3]
            index = np.rint(voxel).astype(int)
            off = volume.affine[:3, :3] @ (voxel - index)
            assert np.abs(off).max() < 0.1, "mm"
            assert values[tuple(index)] == one.levels[readout, phase]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory, orthanc_executable):
    """A PACS of its own: (DICOM port, function that asks its REST interface)."""
    folder = tmp_path_factory.mktemp("orthanc")
    web, dicom = free_port(), free_port()
    configuration = {
        "StorageDirectory": str(folder), "IndexDirectory": str(folder), "Plugins": [], "HttpPort": web,
        "DicomPort": dicom, "DicomAet": "ORTHANC", "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(configuration))

    def ask(path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{web}{path}", timeout=20) as answer:
            return bytes(answer.read())

    with (folder / "log").open("wb") as log:
        command = [orthanc_executable, str(folder / "orthanc.json")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            for _ in range(150):
                try:
                    ask("/system")
                    break
                except OSError:
                    time.sleep(0.2)
            yield dicom, ask
        finally:
            process.terminate()
            process.wait(30)


def test_sent_to_a_pacs_and_read_back(orthanc):
    port, ask = orthanc
    scan = scan_record()
    sent = {name: data for kind in ({}, {"enhanced": True}) for name, data in dicom_objects(scan, **kind).items()}
    sent = {str(data.SOPInstanceUID): data for data in sent.values()}
    destination = Destination("127.0.0.1", port, aec="ORTHANC", aet="PASS")
    assert send(sent.values(), destination) == []
    assert send(sent.values(), destination) == []
    assert json.loads(ask("/statistics"))["CountInstances"] == len(sent), "twice the same is there once"
    assert json.loads(ask("/statistics"))["CountStudies"] == 1
    for instance in json.loads(ask("/instances")):
        back = pydicom.dcmread(BytesIO(ask(f"/instances/{instance}/file")))
        written = BytesIO()
        sent[str(back.SOPInstanceUID)].save_as(written, enforce_file_format=True)
        mine = pydicom.dcmread(BytesIO(written.getvalue()))
        assert list(back) == list(mine)
        if "PixelData" in mine:
            np.testing.assert_array_equal(back.pixel_array, mine.pixel_array)


def test_nobody_there_and_a_pacs_that_takes_no_such_object(tmp_path):
    objects = dicom_objects(scan_record(1))
    port = free_port()
    with pytest.raises(ConnectionError, match=rf"the PACS at 127\.0\.0\.1:{port}, NONE does not answer"):
        send(objects.values(), Destination("127.0.0.1", port, aec="NONE"))
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import MRImageStorage  # type: ignore[attr-defined]

    entity = AE(ae_title="ONLYMR")
    entity.add_supported_context(MRImageStorage)
    entity.require_called_aet = True
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: 0xA700)])
    try:
        refused = send(objects.values(), Destination("127.0.0.1", port, aec="ONLYMR"))
        with pytest.raises(ConnectionError, match="refuses the association"):
            send(objects.values(), Destination("127.0.0.1", port, aec="OTHER"))
    finally:
        server.shutdown()
    assert len(refused) == len(objects)
    assert refused[0] == "PASS magnitude 1 was not stored: status 0xA700"
    assert "No presentation context" in refused[1]
