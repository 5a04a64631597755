"""Which bundle a scan gets: by name, or with `auto` by what its header says it is."""

from __future__ import annotations

import pytest

from gadgets.mrd import ScanContext
from gadgets.pipelines import chosen_bundle, pipeline_for, second_pipeline
from gadgets.properties import Properties
from tests.gadgets.pipelines import Detecting

HEADER = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">{study}
<measurementInformation><patientPosition>HFS</patientPosition><protocolName>{protocol}</protocolName>
</measurementInformation>
<experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions>
<encoding><encodedSpace>{space}</encodedSpace><reconSpace>{space}</reconSpace><encodingLimits/>
<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""
SPACE = (
    "<matrixSize><x>64</x><y>64</y><z>1</z></matrixSize><fieldOfView_mm><x>240</x><y>240</y><z>5</z></fieldOfView_mm>"
)


def examination(protocol: str, body_part: str = "") -> str:
    """What the header of such a scan is taken for."""
    study = (
        f"<studyInformation><bodyPartExamined>{body_part}</bodyPartExamined></studyInformation>" if body_part else ""
    )
    return ScanContext(HEADER.format(protocol=protocol, study=study, space=SPACE), Properties()).examination


@pytest.mark.parametrize(
    ("protocol", "body_part", "expected"),
    [
        ("brain_t1", "", "brain-t1"),
        ("brain_flair", "", "brain-flair"),
        ("knee_pd", "", "knee-pd"),
        ("AXT1", "", "brain-t1"),
        ("AXT1POST", "", "brain-t1"),
        ("AX FLAIR", "", "brain-flair"),
        ("AX T2 FLAIR", "", "brain-flair"),
        ("CORPD_FBK", "", "knee-pd"),
        ("t1_se_tra", "HEAD", "brain-t1"),
        ("pd_tse_cor", "KNEE", "knee-pd"),
        # Not what the bundles were trained for.
        ("CORPDFS_FBK", "", ""),
        ("pd_tse_fs_cor", "KNEE", ""),
        ("AXT2", "", ""),
        ("t2_tse_tra", "HEAD", ""),
        ("t1_se_sag", "SPINE", ""),
        ("t1_se_tra", "", ""),
        ("localizer", "HEAD", ""),
    ],
)
def test_headers_tell_anatomy_and_contrast(protocol, body_part, expected):
    assert examination(protocol, body_part) == expected


@pytest.mark.parametrize(
    "said",
    [
        "<measurementInformation><seriesDescription>t1_se_tra</seriesDescription></measurementInformation>"
        "<studyInformation><bodyPartExamined>HEAD</bodyPartExamined></studyInformation>",
        "<measurementInformation><sequenceName>brain_t1</sequenceName></measurementInformation>",
        # A vendor's own element, an element of a later schema, in another namespace, and user parameters.
        "<measurementInformation><bodyPartExamined>BRAIN</bodyPartExamined><protocolName>t1</protocolName>"
        "</measurementInformation>",
        "<v:exam xmlns:v='urn:vendor'><v:Series_Description>AX T1 brain</v:Series_Description></v:exam>",
        "<userParameters><userParameterString><name>BodyPartExamined</name><value>Brain</value></userParameterString>"
        "<userParameterString><name>ProtocolName</name><value>t1_mprage</value></userParameterString></userParameters>",
        "<studyInformation><studyDescription>MR BRAIN T1</studyDescription></studyInformation>",
    ],
)
def test_examination_is_found_wherever_the_header_tells_it(said):
    text = HEADER[: HEADER.index("{study}")] + said + HEADER[HEADER.index("<experimental") :].format(space=SPACE)
    scan = ScanContext(text, Properties())
    assert scan.examination == "brain-t1"
    assert "brain" in scan.examination_reason
    # The body part vetoes wherever it stands.
    vetoed = text.replace("<experimental", "<x><bodyPartExamined>LIVER</bodyPartExamined></x><experimental", 1)
    vetoed = vetoed.replace(">HEAD<", "><").replace(">BRAIN<", "><").replace(">Brain<", "><")
    assert ScanContext(vetoed, Properties()).examination == ""


def test_auto_takes_the_shipped_bundle_of_the_examination_whose_acceleration_is_nearest(monkeypatch):
    monkeypatch.setattr("pass_recon.bundles.shipped_bundles", lambda: ("brain-t1-4x", "knee-pd-4x", "knee-pd-8x"))
    assert chosen_bundle(Properties(), "brain-t1") == "brain-t1-4x"
    assert chosen_bundle(Properties(acceleration=8.0), "brain-t1") == "brain-t1-4x"
    assert chosen_bundle(Properties(acceleration=8.0), "knee-pd") == "knee-pd-8x"
    assert chosen_bundle(Properties(acceleration=5.0), "knee-pd") == "knee-pd-4x"
    assert chosen_bundle(Properties(acceleration=6.0), "knee-pd") == "knee-pd-8x"
    assert chosen_bundle(Properties(acceleration=1.5), "knee-pd") is None
    assert chosen_bundle(Properties(acceleration=12.0), "knee-pd") is None
    assert chosen_bundle(Properties(), "") is None


def test_a_bundle_that_was_asked_for_is_taken_whatever_the_header_says():
    assert chosen_bundle(Properties(bundle="./mine"), "knee-pd") == "./mine"
    assert chosen_bundle(Properties(bundle="classical"), "brain-t1") is None


@pytest.mark.parametrize(
    ("bundle", "acceleration", "second", "expected"),
    [
        ("auto", "8", "4", "knee-pd-4x"),
        ("knee-pd-8x", "8", "4", "knee-pd-4x"),
        ("knee-pd-8x", "8", "6", "knee-pd-8x"),
        ("classical", "8", "4", "classical"),
    ],
)
def test_additional_lines_go_to_the_shipped_bundle_of_their_acceleration(bundle, acceleration, second, expected):
    given = {"bundle": bundle, "acceleration": acceleration, "second_look_acceleration": second, "device": "cpu"}
    given |= {"mode": "closed_loop", "second_look": "slice"}
    scan = ScanContext(HEADER.format(space=SPACE, study="", protocol="knee_pd"), Properties.from_text(given))
    first = pipeline_for(scan)
    found = second_pipeline(scan, first)
    assert found.name == expected
    assert (found is first) == (expected == first.name == "classical")
    assert found.acceleration == (float(acceleration) if found is first else float(second))
    assert first.first is None, "the pipeline is shared with other scans"


def test_a_bundle_of_ones_own_is_for_both_rounds():
    given = Properties.from_text({"mode": "closed_loop", "second_look": "slice", "acceleration": "8"})
    scan = ScanContext(HEADER.format(space=SPACE, study="", protocol="pd"), given)
    first = Detecting()
    assert second_pipeline(scan, first) is first
