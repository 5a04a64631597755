"""An MRD header without what tells who was scanned, where and when."""

from __future__ import annotations

from xml.etree import ElementTree

from gadgets.mrd.header_xml import header_root, read_header

_NAMESPACE = "http://www.ismrm.org/ISMRMRD"
# Whole elements, wherever they stand; what is needed to reconstruct and to choose a bundle stays.
_DROPPED = frozenset(
    (
        "subjectInformation",
        "institutionName",
        "stationName",
        "stationID",
        "deviceID",
        "deviceSerialNumber",
        "measurementID",
        "seriesDate",
        "seriesTime",
        "seriesInstanceUIDRoot",
        "frameOfReferenceUID",
        "referencedImageSequence",
        "measurementDependency",
        "userParameterBase64",
    )
)
_KEPT_OF_STUDY = frozenset(("studyDescription", "bodyPartExamined"))
# Of user parameters in words, vendors' converters fill in anything: those that name an examination stay.
_KEPT_STRINGS = frozenset(("seriesdescription", "protocolname", "bodypartexamined"))


def without_identity(header_xml: bytes) -> bytes:
    """The header without subject, study, institution, dates, identifiers and free user parameters.

    Names of protocol and series stay, for the bundle is chosen by them: a site that writes names of people there must
    change that. Time stamps of lines count from midnight or from the start, and stay too.

    Raises
    ------
    InputError
        If it is no MRD header.
    """
    read_header(header_xml)  # whatever is wrong with it is said in one sentence
    ElementTree.register_namespace("", _NAMESPACE)
    root = header_root(header_xml)
    for parent in list(root.iter()):
        for child in list(parent):
            if _identifies(child, _tag(parent)):
                parent.remove(child)
    return ElementTree.tostring(root, "utf-8", xml_declaration=True)


def _identifies(element: ElementTree.Element, parent: str) -> bool:
    name = _tag(element)
    if not name:
        return True  # a comment may say anything
    if parent == "studyInformation":
        return name not in _KEPT_OF_STUDY
    if name == "userParameterString":
        called = next((child.text or "" for child in element if _tag(child) == "name"), "")
        return "".join(letter for letter in called.lower() if letter.isalnum()) not in _KEPT_STRINGS
    return name in _DROPPED


def _tag(element: ElementTree.Element) -> str:
    # Comments have a function for a tag.
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
