"""Reading the MRD header as scanners and converters write it, which is not always as its schema wants it.

A reader by the schema stops at the first element that it does not know, at a count written as ``128.0`` or at a NUL at
the end. What is not understood is left out here, so that a newer schema or a vendor's own elements cost nothing.
"""

from __future__ import annotations

import codecs
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any
from xml.etree import ElementTree

from ismrmrd import xsd
from xsdata.models.datatype import XmlDate, XmlTime

from pass_recon.common.xml import parse_xml
from pass_recon.types import InputError

# A count that is further from an integer than this is none.
_NEARLY = 1e-3
# Elements whose values must be understood.
_ESSENTIAL = ("encodedSpace", "reconSpace", "encodingLimits", "trajectory")


def read_header(document: bytes | str) -> xsd.ismrmrdHeader:
    """The parsed header, whatever its namespaces and schema version.

    Unknown elements and values that cannot be read are left out, but not what an image would be wrong without: matrix,
    field of view, limits, trajectory. ``reconSpace`` is as ``encodedSpace``, and the trajectory Cartesian, where they
    are missing.

    Raises
    ------
    InputError
        If it is no XML, no ISMRMRD header, or a size in it is no number.
    """
    root = header_root(document)
    if _name(root) != "ismrmrdheader":
        raise InputError(f"not an ISMRMRD header: the document is a <{root.tag.rpartition('}')[2]}>")
    header = _read(root, xsd.ismrmrdHeader)
    for number, encoding in enumerate(header.encoding):
        _complete(encoding, number)
    return header


def texts_of(document: bytes | str, names: Sequence[str]) -> list[str]:
    """What a header says under some names, wherever it says it: as elements or as user parameters, in their order.

    Parameters
    ----------
    document
        The XML.
    names
        In small letters and without marks: ``seriesdescription`` also finds ``Series_Description``. The texts of the
        first name come first.
    """
    found: list[tuple[str, str]] = []
    for element in header_root(document).iter():
        children = {_name(child): (child.text or "").strip() for child in element}
        found.append((_letters(_name(element)), (element.text or "").strip()))
        found.append((_letters(children.get("name", "")), children.get("value", "")))
    return [text for name in names for key, text in found if key == name and text]


def plain_xml(document: bytes | str) -> bytes:
    """The document without what some clients put around it: a byte order mark, blanks, NUL bytes at the end."""
    if isinstance(document, str):
        document = document.encode()
    if document.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        # A declaration of UTF-16 is ignored by the parser once it is told the encoding.
        document = document.decode("utf-16", errors="replace").encode()
    return document.removeprefix(codecs.BOM_UTF8).strip(b" \t\r\n\0")


def header_root(document: bytes | str) -> ElementTree.Element:
    """The root of the document, whatever its bytes are; raises InputError if it is no XML."""
    plain = plain_xml(document)
    # Names of patients in Latin-1 in a header that claims to be UTF-8, as every header does, are no reason to stop.
    for encoding in ("utf-8", "latin-1"):
        try:
            plain.decode(encoding)
        except UnicodeDecodeError:
            continue
        return parse_xml(plain, "the ISMRMRD header", encoding=encoding)
    raise AssertionError("every byte is Latin-1")


def _complete(encoding: xsd.encodingType, number: int) -> None:
    encoding.encodedSpace = encoding.encodedSpace or encoding.reconSpace
    encoding.reconSpace = encoding.reconSpace or encoding.encodedSpace
    for space in (encoding.encodedSpace, encoding.reconSpace):
        for part in ("matrixSize", "fieldOfView_mm"):
            if getattr(space, part, None) is None:
                raise InputError(f"encoding {number} of the header tells no {part}")
    encoding.encodingLimits = encoding.encodingLimits or xsd.encodingLimitsType()
    encoding.trajectory = encoding.trajectory or xsd.trajectoryType.CARTESIAN


def _read(element: ElementTree.Element, kind: type, *, strict: bool = False) -> Any:
    """An object of one of the schema's classes from what an element holds of it."""
    given: dict[str, Any] = {}
    for field in fields(kind):
        of, several = _types(kind)[field.name]
        name = field.metadata.get("name", field.name)
        exact = strict or name in _ESSENTIAL
        values = [_value(child, of, strict=exact) for child in _children(element, name)]
        values = [value for value in values if value is not None]
        if several:
            given[field.name] = values
        elif values:
            given[field.name] = values[0]
        elif not _has_default(field):
            given[field.name] = None
    return kind(**given)


def _value(element: ElementTree.Element, of: Any, *, strict: bool) -> Any:
    """What an element says; None where that cannot be read, or InputError if ``strict``."""
    if is_dataclass(of):
        return _read(element, typing.cast(type, of), strict=strict)
    text = (element.text or "").strip()
    try:
        return _scalar(text, of)
    except ValueError:
        if strict and text:
            name = element.tag.rpartition("}")[2]
            raise InputError(f"the header has {text!r} for {name}, which is not {_WANTED.get(of, 'known')}") from None
        return None


_WANTED: Mapping[Any, str] = {int: "an integer", float: "a number"}


def _scalar(text: str, of: Any) -> Any:
    if of is int:
        value = float(text)
        if not math.isfinite(value) or abs(value - round(value)) > _NEARLY:
            raise ValueError(text)
        return round(value)
    if of is float:
        if not math.isfinite(value := float(text)):
            raise ValueError(text)
        return value
    if of is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower())
    if isinstance(of, type) and issubclass(of, Enum):
        return _member(text, of)
    if of in (XmlDate, XmlTime):
        return of.from_string(text)
    return text.encode() if of is bytes else text


def _member(text: str, of: type[Enum]) -> Enum:
    known = {str(member.value).lower(): member for member in of}
    if text.lower() not in known:
        raise ValueError(text)
    return known[text.lower()]


@cache
def _types(kind: type) -> dict[str, tuple[Any, bool]]:
    """For each field of a class of the schema: the type of its values, and whether there can be several."""
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        found[name] = (parts[0] if parts else hint, typing.get_origin(hint) is list)
    return found


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _children(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [child for child in element if _name(child) == name.lower()]


def _name(element: ElementTree.Element) -> str:
    # Comments and processing instructions have a function for a tag.
    return element.tag.rpartition("}")[2].lower() if isinstance(element.tag, str) else ""


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
