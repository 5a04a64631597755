"""The header: sizes, centre, partial Fourier, and the scans that are refused."""

from __future__ import annotations

import ismrmrd
import pytest

from gadgets.mrd import ScanContext
from gadgets.properties import Properties
from pass_recon.types import InputError
from tests.gadgets.acquisitions import header, scan


def test_sizes_and_offsets_of_the_grid():
    encoding = scan(limits=(0, 43, 20)).first_encoding
    assert (encoding.sampled_readout, encoding.ro, encoding.pe) == (64, 32, 48)
    # The step through the centre of k-space lies on line pe // 2, whatever it is called.
    assert (encoding.line_of(20), encoding.line_of(0), encoding.reachable) == (24, 4, (4, 47))


def test_missing_limits_mean_a_full_symmetric_grid():
    encoding = scan(limits=None).first_encoding
    assert (encoding.line_of(24), encoding.reachable, encoding.partial_fourier) == (24, (0, 47), None)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((0, 47, 24), None),
        ((0, 46, 24), None),  # undersampling by 2 leaves the last line out
        ((0, 35, 12), 0.75),
        ((0, 35, 24), 0.75),
        ((0, 39, 20), None),  # low phase resolution, cut on both sides
    ],
)
def test_partial_fourier_is_a_one_sided_cut(limits, expected):
    assert scan(limits=limits).first_encoding.partial_fourier == expected


def test_header_without_version_is_read():
    assert "<version>" not in header()
    assert scan().first_encoding.pe == 48


def test_acs_follows_the_acceleration():
    at_4, at_8 = scan({"acceleration": "4"}), scan({"acceleration": "8"})
    assert list(at_4.acs_lines(at_4.first_encoding)) == [22, 23, 24, 25]
    assert list(at_8.acs_lines(at_8.first_encoding)) == [23, 24]


def test_noise_bandwidth_has_the_default_of_gadgetron():
    assert scan().noise_bandwidth == 0.793
    assert scan(bandwidth=0.5).noise_bandwidth == 0.5


STEP_2 = "<kspace_encoding_step_2><minimum>0</minimum><maximum>7</maximum><center>4</center></kspace_encoding_step_2>"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"z": 8}, "z = 8"),
        ({"extra_limits": STEP_2}, "kspace_encoding_step_2 runs from 0 to 7"),
        ({"trajectory": "spiral"}, "'spiral'"),
        ({"trajectory": "epi"}, "'epi'"),
        ({"encodings": 0}, "no encoding"),
        ({"recon": (0, 48)}, "must be positive"),
    ],
)
def test_what_is_not_2d_cartesian_is_refused_with_what_was_found(changes, found):
    with pytest.raises(InputError, match=found):
        scan(**changes)


@pytest.mark.parametrize("text", [b"", b"garbage", b"<a/>", "<ismrmrdHeader xmlns='http://www.ismrm.org/ISMRMRD'/>"])
def test_what_is_no_header_is_refused(text):
    with pytest.raises(InputError, match="header"):
        ScanContext(text, Properties())


def test_encoding_space_that_the_header_lacks():
    with pytest.raises(InputError, match="encoding space 1 is not in the header, which describes 1"):
        scan().encoding(1)


def test_recorded_header(recordings):
    dataset = ismrmrd.Dataset(recordings / "small_acc2_acs16.h5", "dataset", create_if_needed=False)
    encoding = ScanContext(dataset.read_xml_header(), Properties()).first_encoding
    dataset.close()
    assert (encoding.sampled_readout, encoding.oversampling, encoding.ro, encoding.pe) == (128, 2.0, 64, 64)
    assert encoding.separate_calibration is False


@pytest.mark.parametrize("changes", [{"pe": 60000}, {"recon": (65000, 65000)}])
def test_sizes_that_cannot_be_meant_are_refused_by_name(changes):
    with pytest.raises(InputError, match=r"a matrix of 6\d000"):
        scan(**changes)
