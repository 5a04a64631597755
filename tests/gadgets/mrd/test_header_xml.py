"""Headers as scanners and converters write them: what the schema does not know costs nothing."""

from __future__ import annotations

import codecs

import ismrmrd.xsd
import pytest

from gadgets.mrd import ScanContext
from gadgets.mrd.header_xml import read_header, texts_of
from gadgets.properties import Properties
from pass_recon.types import InputError
from tests.gadgets.acquisitions import header
from tests.gadgets.server.tools import HEADER

PLAIN = header(calibration="separate", averages=2)
NAMED = "<subjectInformation><patientName>Müller</patientName></subjectInformation>"
SPACES = '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'


def encoding(text):
    return ScanContext(text, Properties()).first_encoding


@pytest.mark.parametrize("text", [PLAIN, HEADER])
def test_a_header_by_the_schema_is_what_the_librarys_own_reader_reads(text):
    assert read_header(text) == ismrmrd.xsd.CreateFromDocument(text)


def test_recorded_header_is_what_the_librarys_own_reader_reads(recordings):
    dataset = ismrmrd.Dataset(recordings / "small.h5", "dataset", create_if_needed=False)
    text = dataset.read_xml_header()
    dataset.close()
    assert read_header(text) == ismrmrd.xsd.CreateFromDocument(text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("</trajectory>", "</trajectory><fovShifted>true</fovShifted>"),
        ("<encoding>", "<encoding><vendor:x xmlns:vendor='urn:v'><vendor:matrixSize/></vendor:x>"),
        ("<matrixSize>", "<matrixSize><!-- a comment --><?pi?>"),
        ("<matrixSize>", "<matrixSize unit='px'>"),
        ("</ismrmrdHeader>", "<waveformInformation><waveformName>ECG</waveformName><waveformType>ecg</waveformType>"
         "</waveformInformation></ismrmrdHeader>"),
        ("</ismrmrdHeader>", "<waveformInformation><waveformType>a new one</waveformType></waveformInformation>"
         "</ismrmrdHeader>"),
        ("</ismrmrdHeader>", "<studyInformation><studyDate>yesterday</studyDate></studyInformation></ismrmrdHeader>"),
        ("</ismrmrdHeader>", "<measurementInformation/><sequenceParameters><TR>n/a</TR></sequenceParameters>"
         "</ismrmrdHeader>"),
        (SPACES, "<ismrmrdHeader>"),
        (SPACES, "<ismrmrdHeader xmlns='http://www.ismrm.org/ISMRMRD/2'><version>7</version>"),
        (">cartesian<", ">Cartesian<"),
        (">cartesian<", "> CARTESIAN\n<"),
        ("<trajectory>cartesian</trajectory>", ""),
        (">separate<", ">SEPARATE<"),
        ("<x>64</x>", "<x>64.0</x>"),
        ("<x>64</x>", "<x> 6.4e1 </x>"),
        ("<y>48</y>", "<y>47.9999</y>"),
        ("<maximum>47</maximum>", "<maximum>47.0000</maximum>"),
        ("<acquisitionSystemInformation></acquisitionSystemInformation>", ""),
        ("63500000", "63500000.4"),
        ("<experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions>",
         ""),
    ],
)  # fmt: skip
def test_what_is_unknown_missing_or_nearly_right_changes_nothing(old, new):
    assert old in PLAIN
    assert encoding(PLAIN.replace(old, new)) == encoding(PLAIN)


@pytest.mark.parametrize(
    "document",
    [
        PLAIN + "\0",
        PLAIN + " \n\0\0\0",
        "\n  " + PLAIN,
        codecs.BOM_UTF8 + PLAIN.encode(),
        PLAIN.encode("utf-16"),
        ('<?xml version="1.0" encoding="UTF-16"?>' + PLAIN).encode("utf-16"),
        ('<?xml version="1.0" encoding="ISO-8859-1"?>' + PLAIN),
        # A name in Latin-1 although UTF-8 is claimed.
        PLAIN.replace("<experimental", f"{NAMED}<experimental").encode("latin-1"),
    ],
)  # fmt: skip
def test_what_stands_around_the_document_does_not_matter(document):
    assert encoding(document) == encoding(PLAIN)


def test_no_recon_space_no_limits_no_parallel_imaging():
    text = header(oversampling=1.0, limits=None)
    bare = text[: text.index("<reconSpace>")] + "<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
    assert encoding(bare) == encoding(text)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("<x>64</x>", "<x>64.5</x>", "'64.5' for x, which is not an integer"),
        ("<x>64</x>", "<x>many</x>", "'many' for x, which is not an integer"),
        ("<z>5</z>", "<z>nan</z>", "'nan' for z, which is not a number"),
        (">cartesian<", ">rosette<", "'rosette' for trajectory"),
        ("<ismrmrdHeader", "<!DOCTYPE a [<!ENTITY b 'c'>]><ismrmrdHeader", "document type"),
        ("</encoding>", "", "not well-formed XML"),
    ],
)
def test_what_an_image_would_be_wrong_without_is_refused(old, new, sentence):
    with pytest.raises(InputError, match=sentence):
        encoding(PLAIN.replace(old, new, 1))


def test_encoding_without_a_matrix_is_refused():
    text = PLAIN.replace("matrixSize>", "matrix>")
    with pytest.raises(InputError, match="encoding 0 of the header tells no matrixSize"):
        encoding(text)


def test_texts_come_in_the_order_of_their_names():
    text = PLAIN.replace("<encoding>", "<a>one</a><b><C_c>two</C_c></b><encoding>", 1)
    assert texts_of(text, ["cc", "a", "missing"]) == ["two", "one"]
