"""Reading XML of others: no document types, and no more of it than memory and the stack can bear."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from pass_recon.types import InputError

# The largest real headers have some ten thousand elements, ten deep. An element takes a hundred times the memory of its
# text, and one inside the other as much of the stack.
_MOST, _DEEPEST = 500_000, 200


class _Guarded(ElementTree.TreeBuilder):
    """Refuses a document type, which could define entities that grow without bound, and trees without measure."""

    def __init__(self) -> None:
        super().__init__()
        self._count = self._depth = 0

    def doctype(self, name: str, _public: str | None, _system: str | None) -> None:
        raise InputError(f"a document type is not allowed (<!DOCTYPE {name} …>)")

    def start(self, tag: Any, attrs: Any) -> ElementTree.Element:
        self._count, self._depth = self._count + 1, self._depth + 1
        if self._count > _MOST or self._depth > _DEEPEST:
            raise InputError(f"more than {_MOST} elements, or more than {_DEEPEST} one inside the other")
        return super().start(tag, attrs)

    def end(self, tag: str) -> ElementTree.Element:
        self._depth -= 1
        return super().end(tag)


def parse_xml(document: bytes, what: str, *, encoding: str | None = None) -> ElementTree.Element:
    """The root of an XML document.

    Parameters
    ----------
    document
        The XML.
    what
        What it should be, for the error: ``"the configuration"``.
    encoding
        What its bytes are; by default what it says itself.

    Raises
    ------
    InputError
        If it is malformed, has a DOCTYPE, or is a tree without measure.
    """
    parser = ElementTree.XMLParser(target=_Guarded(), encoding=encoding)
    try:
        parser.feed(document)
        return parser.close()
    except InputError as error:
        raise InputError(f"{what} is refused: {error}") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter two: impossible encodings
        raise InputError(f"{what} is not well-formed XML: {error}") from error
