"""XML of others."""

from __future__ import annotations

import pytest

from pass_recon.common.xml import parse_xml
from pass_recon.types import InputError


def test_what_is_read():
    assert parse_xml("<?xml version='1.0'?><a><b>é</b></a>".encode(), "it").findtext("b") == "é"


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (b"<a>", "it is not well-formed XML"),
        (b"", "it is not well-formed XML"),
        (b"<?xml version='1.0' encoding='ebcdic-of-mars'?><a/>", "it is not well-formed XML"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "it is refused: a document type is not allowed"),
        (b"<a>" * 100_000, "200 one inside the other"),
        (b"<a>" + b"<b/>" * 600_000 + b"</a>", "more than 500000 elements"),
    ],
)
def test_what_is_refused(document, sentence):
    with pytest.raises(InputError, match=sentence):
        parse_xml(document, "it")
