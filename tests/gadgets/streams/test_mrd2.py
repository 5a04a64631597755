"""Streams of MRD 2, made and reconstructed by mrd-python's own tools."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest

import pass_recon_cli.main as command_line
from gadgets.mrd.header_xml import read_header
from gadgets.offline import Account
from gadgets.properties import Properties
from gadgets.streams.mrd2 import acquisition, header_xml, stream
from pass_recon.types import InputError

mrd = pytest.importorskip("mrd", reason="mrd-python is not installed: the extra mrd2")
CLASSICAL = Properties(bundle="classical", device="cpu", mode="prospective")


@pytest.fixture(scope="module")
def phantom() -> bytes:
    """A Shepp-Logan phantom with oversampled readouts, as mrd-python simulates it."""
    command = [sys.executable, "-m", "mrd.tools.phantom", "-m", "64", "-c", "4", "-n", "0"]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


def images_in(content: bytes) -> list:
    with mrd.BinaryMrdReader(io.BytesIO(content)) as reader:
        assert reader.read_header() is not None
        return [item.value for item in reader.read_data()]


def test_same_picture_as_their_reconstruction(phantom):
    command = [sys.executable, "-m", "pass_recon_cli.main", "stream", "--format", "mrd2", "--bundle", "classical"]
    ran = subprocess.run(
        [*command, "--mode", "prospective", "--device", "cpu"], input=phantom, capture_output=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    ours = next(one for one in images_in(ran.stdout) if one.head.image_series_index == 1)
    theirs = subprocess.run(
        [sys.executable, "-m", "mrd.tools.stream_recon"], input=phantom, capture_output=True, check=True, timeout=60
    )
    expected = images_in(theirs.stdout)[0]
    assert ours.data.shape == expected.data.shape == (1, 1, 64, 64)
    one, other = np.asarray(ours.data, float).ravel(), np.asarray(expected.data, float).ravel()
    assert np.corrcoef(one, other)[0, 1] > 0.99
    assert ours.meta["PASS_bundle"][0].value == "classical"


def test_header_and_lines_keep_what_they_say(phantom):
    with mrd.BinaryMrdReader(io.BytesIO(phantom)) as reader:
        header = reader.read_header()
        lines = [item.value for item in reader.read_data()]
    read = read_header(header_xml(header)).encoding[0]
    assert read.encodedSpace.matrixSize.x == header.encoding[0].encoded_space.matrix_size.x == 128
    assert read.reconSpace.fieldOfView_mm.y == header.encoding[0].recon_space.field_of_view_mm.y
    assert read.encodingLimits.kspace_encoding_step_1.maximum == 63
    line = next(one for one in lines if not one.head.flags & mrd.AcquisitionFlags.IS_NOISE_MEASUREMENT)
    made = acquisition(line)
    np.testing.assert_array_equal(made.data, line.data)
    assert made.idx.kspace_encode_step_1 == line.head.idx.kspace_encode_step_1
    assert made.flags == int(line.head.flags)
    assert list(made.phase_dir) == line.head.phase_dir.tolist()


def test_a_stream_that_breaks_off_gives_what_came_and_says_so(phantom):
    sink, account = io.BytesIO(), Account()
    stream(io.BytesIO(phantom[: len(phantom) * 3 // 4]), sink, CLASSICAL, account)
    assert any("breaks off" in failure.message for failure in account.failures)
    assert images_in(sink.getvalue())


def test_what_is_no_such_stream_is_said(tmp_path, capsys):
    with pytest.raises(InputError, match="no stream of MRD 2"):
        stream(io.BytesIO(b"something else"), io.BytesIO(), CLASSICAL, Account())
    (tmp_path / "in").write_bytes(b"")
    assert command_line.main(["stream", "--format", "mrd2", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "o")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
