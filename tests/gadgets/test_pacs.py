"""The property dicom_to: what a PACS gets of a scan, and what becomes of the scan where there is none."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("pynetdicom", reason="DICOM needs the extra dicom")

from ismrmrd import Image
from pynetdicom import AE, AllStoragePresentationContexts, evt

from gadgets.acs_buffer import buffer_lines
from gadgets.anomaly_overlay import overlay
from gadgets.mask_feedback import feed_back
from gadgets.pacs import sent_to_pacs
from gadgets.pass_reconstruction import reconstruct
from gadgets.properties import Properties
from gadgets.protocol.connection import Failure
from gadgets.protocol.parameters import known_and_unknown
from pass_recon.types import InputError
from tests.gadgets.acquisitions import kspace, lines_of, scan
from tests.gadgets.pipelines import Detecting


@pytest.fixture
def pacs():
    """A storage of its own: (port, objects that came)."""
    stored = []

    def store(event):
        stored.append(event.dataset)
        return 0x0000

    entity = AE(ae_title="STORE")
    entity.require_called_aet = True
    entity.supported_contexts = AllStoragePresentationContexts
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    yield server.socket.getsockname()[1], stored
    server.shutdown()


def scanned(destination):
    the_scan, pipeline = scan({"dicom_to": destination}), Detecting()
    acquisitions = (line for number in range(2) for line in lines_of(kspace(), slice=number))
    slices = feed_back(buffer_lines(acquisitions, the_scan), the_scan, pipeline)
    return list(sent_to_pacs(overlay(reconstruct(slices, the_scan, pipeline)), the_scan))


def test_a_scan_is_in_the_pacs_when_it_is_over(pacs):
    port, stored = pacs
    outputs = scanned(f"127.0.0.1:{port}/STORE")
    assert not [item for item in outputs if isinstance(item, Failure)]
    kinds = [data.SOPClassUID.name for data in stored]
    assert sorted(set(kinds)) == [
        "Comprehensive SR Storage", "MR Image Storage", "Secondary Capture Image Storage", "Segmentation Storage",
    ]  # fmt: skip
    assert kinds.count("MR Image Storage") == 2
    assert {data.PatientIdentityRemoved for data in stored} == {"YES"}
    magnitudes = [one for one in outputs if isinstance(one, Image) and one.image_series_index == 1]
    by_number = {data.InstanceNumber: data for data in stored if data.SOPClassUID.name == "MR Image Storage"}
    assert by_number[1].PixelData == magnitudes[0].data[0, 0].tobytes()


@pytest.mark.parametrize(("title", "reason"), [("WRONG", "refuses the association"), ("", "refuses the association")])
def test_a_pacs_that_does_not_want_it(pacs, title, reason):
    port, stored = pacs
    *images, failure = scanned(f"127.0.0.1:{port}/{title}".rstrip("/"))
    assert len(images) == 8, "plan, magnitude, map and overlay of both slices"
    assert all(isinstance(item, Image) for item in images)
    assert isinstance(failure, Failure)
    assert reason in failure.message
    assert stored == []


def test_no_pacs():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    *images, failure = scanned(f"127.0.0.1:{port}/STORE")
    assert len(images) == 8
    assert "does not answer" in failure.message


def test_off_by_default_and_checked():
    assert Properties().dicom_to == "off"
    for wrong in ("pacs", "pacs:x", "pacs:104/A TITLE", "pacs:104/" + "A" * 17):
        with pytest.raises(InputError, match="off or HOST:PORT/TITLE"):
            Properties.from_text({"dicom_to": wrong})


def test_a_scan_cannot_say_where_images_go():
    assert known_and_unknown({"dicomTo": "elsewhere:104/X", "acceleration": "8"}) == (
        {"acceleration": "8"},
        ["dicomTo"],
    )
