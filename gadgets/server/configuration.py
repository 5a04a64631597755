"""A Gadgetron configuration: XML in, nodes out; and which files a client may name."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gadgets.monitoring.scan_id import with_scan_id
from gadgets.properties import name_value_pairs, table
from gadgets.protocol.bytes import TEXT_LIMIT
from gadgets.protocol.messages import DATA_MESSAGES, RULES
from pass_recon.common.xml import parse_xml
from pass_recon.types import InputError

Element = ElementTree.Element

# A class name of a reader or writer, without "Reader" or "Writer": the messages it stands for. No gadget of the server
# makes image arrays or buckets, and gadgetron-python cannot write buckets; yet configurations that list them are valid.
_READABLE: dict[str, frozenset[int]] = {
    **{name: frozenset({identifier}) for identifier, rule in RULES.items() for name in rule.names},
    "IsmrmrdImageArray": frozenset(),
    "AcquisitionBucket": frozenset(),
}
_PLAN_IMAGES = "plan_images"
_LONGEST_NAME = 200
_NODES = "the embedded server runs <gadget> and <external> nodes"


@dataclass(frozen=True)
class Gadget:
    """A node by its Gadgetron class name."""

    classname: str
    properties: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Execute:
    """A Python module to be started, with the function or class that takes the connection."""

    module: str
    target: str | None


@dataclass(frozen=True)
class Connect:
    """A gadget that already listens.

    Attributes
    ----------
    address, port
        Where.
    fallback
        Whether it is our resident process, so that `WHOLE_CHAIN` can take its place: others' gadgets do not say so.
    """

    address: str
    port: int
    fallback: bool = False


@dataclass(frozen=True)
class External:
    """A node in another process.

    Attributes
    ----------
    action
        How to get there.
    configuration
        The ``<configuration>`` element as a document of its own, as the gadget gets it.
    accepts
        Ids of the messages that go to the process; all others pass by it.
    returns
        Ids of the messages that may come back.
    """

    action: Execute | Connect
    configuration: bytes
    accepts: frozenset[int]
    returns: frozenset[int]


@dataclass(frozen=True)
class Configuration:
    """What a client may send, what it gets back, and the nodes in between."""

    readers: frozenset[int]
    writers: frozenset[int]
    nodes: tuple[Gadget | External, ...]


class UnknownConfiguration(InputError):
    """No folder has a configuration of that name."""


def without_namespaces(document: bytes, what: str) -> Element:
    """The root of an XML document without namespaces; raises InputError as `parse_xml` does."""
    root = parse_xml(document, what)
    for element in root.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]
    return root


def parse(document: bytes) -> Configuration:
    """Read a configuration of version 2 or of the older ``gadgetronStreamConfiguration`` kind.

    Raises
    ------
    InputError
        If it is malformed, or asks for something that the server does not have.
    """
    root = without_namespaces(document, "the configuration")
    if root.tag == "gadgetronStreamConfiguration":
        lists, nodes = root, [_legacy_node(gadget) for gadget in root.findall("gadget")]
        readers, writers = lists.findall("reader"), lists.findall("writer")
    elif root.tag == "configuration" and (root.findtext("version") or "").strip() == "2":
        stream = root.find("stream")
        nodes = [_node(element) for element in ([] if stream is None else _elements(stream))]
        readers, writers = root.findall("readers/reader"), root.findall("writers/writer")
    else:
        raise InputError(f"the configuration is neither version 2 nor gadgetronStreamConfiguration, but <{root.tag}>")
    return Configuration(_ids(readers, "Reader"), _ids(writers, "Writer"), tuple(nodes))


def for_scan(configuration: Configuration, properties: Mapping[str, str], *, plan_images: bool) -> Configuration:
    """The configuration with the properties that a client asks for, on each node of our chain.

    Parameters
    ----------
    configuration
        As it was found.
    properties
        By name, as text; they win over those of the configuration.
    plan_images
        Whether the client can use plans; where not, ``plan_images=auto`` becomes ``off``.
    """
    nodes = tuple(
        replace(node, configuration=_with_properties(node.configuration, properties, plan_images))
        if isinstance(node, External) and _takes_properties(node)
        else node
        for node in configuration.nodes
    )
    return replace(configuration, nodes=nodes)


def of_scan(configuration: Configuration, scan_id: str) -> Configuration:
    """The configuration whose gadgets are told the id of their scan."""
    nodes = tuple(
        replace(node, configuration=with_scan_id(node.configuration, scan_id))
        if isinstance(node, External) and _takes_properties(node)
        else node
        for node in configuration.nodes
    )
    return replace(configuration, nodes=nodes)


def properties_document(configuration: Configuration) -> bytes:
    """The ``<configuration>`` of our chain, as its first node gets it; empty without one."""
    ours = (node for node in configuration.nodes if isinstance(node, External) and _takes_properties(node))
    document = next((node.configuration for node in ours), b"")
    return document if b"<configuration" in document else b""


WHOLE_CHAIN = Execute("gadgets.resident", "whole_chain")
"""All stages in one process, for a scan whose resident process is gone."""


def refuse_other_modules(configuration: Configuration, allowed: Sequence[str]) -> None:
    """Raise InputError if a configuration starts a module that is neither one of these nor in a package of these."""
    for node in configuration.nodes:
        module = node.action.module if isinstance(node, External) and isinstance(node.action, Execute) else ""
        if module and not any(module == name or module.startswith(f"{name}.") for name in allowed):
            raise InputError(
                f"configurations of clients may start {', '.join(allowed) or 'nothing'}, not {module} (--allow-module)"
            )


def takes_properties(configuration: Configuration) -> bool:
    """Whether there is a node of our chain, to which properties mean something."""
    return any(isinstance(node, External) and _takes_properties(node) for node in configuration.nodes)


def _takes_properties(node: External) -> bool:
    return isinstance(node.action, Connect) or node.action.module.startswith("gadgets.")


def _with_properties(document: bytes, properties: Mapping[str, str], plan_images: bool) -> bytes:
    given = {**_properties(document), **properties}
    if not plan_images and given.get(_PLAN_IMAGES, "auto").lower() == "auto":
        given[_PLAN_IMAGES] = "off"
    root = Element("configuration")
    for name, value in given.items():
        ElementTree.SubElement(root, "property", name=name, value=value)
    return _document(root)


def differing_properties(configuration: Configuration) -> Iterator[str]:
    """A sentence for each property in which the stages of our chain differ, for they are meant to be given the same."""
    stages = {
        node.action.module: _properties(node.configuration)
        for node in configuration.nodes
        if isinstance(node, External) and isinstance(node.action, Execute) and node.action.module.startswith("gadgets.")
    }
    for name, row in table().items():
        values = {stage: given.get(name, row.default) for stage, given in stages.items()}
        if len(set(values.values())) > 1:
            told = ", ".join(f"{value} for {stage}" for stage, value in values.items())
            yield f"the nodes of the chain differ in the property {name!r}: {told}"


def _properties(document: bytes) -> dict[str, str]:
    root = (
        without_namespaces(document, "the configuration of a node") if document != _document(None) else Element("none")
    )
    return dict(name_value_pairs(root.iter("property")))


def _elements(parent: Element) -> Iterable[Element]:
    return (child for child in parent if isinstance(child.tag, str))  # without comments


def _ids(elements: Sequence[Element], suffix: str) -> frozenset[int]:
    ids: set[int] = set()
    for element in elements:
        name = (element.findtext("classname") or "").strip()
        message = name.removesuffix(suffix)
        if message == name or message not in _READABLE:
            known = ", ".join(sorted(message + suffix for message in _READABLE))
            raise InputError(f"unknown {suffix.lower()} {name!r}; the embedded server has {known}")
        ids |= _READABLE[message]
    return frozenset(ids)


def _node(element: Element) -> Gadget | External:
    if element.tag == "gadget":
        return _gadget(element)
    if element.tag == "external":
        return _external(element)
    raise InputError(f"<{element.tag}> is not supported; {_NODES}")


def _gadget(element: Element) -> Gadget:
    classname = (element.findtext("classname") or "").strip()
    if not classname:
        raise InputError("a <gadget> without <classname>")
    return Gadget(classname, dict(name_value_pairs(element.findall("property"))))


def _legacy_node(element: Element) -> Gadget | External:
    gadget = _gadget(element)
    if gadget.classname != "PythonGadget":
        return gadget
    configuration = Element("configuration")
    for name, value in gadget.properties.items():
        ElementTree.SubElement(configuration, "property", name=name, value=value)
    action = Execute(_module(gadget.properties.get("python_module")), gadget.properties.get("python_class"))
    return External(action, _document(configuration), DATA_MESSAGES, DATA_MESSAGES)


def _external(element: Element) -> External:
    execute, connect = element.find("execute"), element.find("connect")
    if execute is not None:
        action: Execute | Connect = _execute(execute)
    elif connect is not None:
        action = _connect(connect)
    else:
        raise InputError("an <external> node needs <execute> or <connect>")
    readers, writers = element.findall("readers/reader"), element.findall("writers/writer")
    return External(
        action,
        _document(element.find("configuration")),
        accepts=_ids(writers, "Writer") if writers else DATA_MESSAGES,
        returns=_ids(readers, "Reader") if readers else DATA_MESSAGES,
    )


def _execute(element: Element) -> Execute:
    if (kind := element.get("type", "").lower()) != "python":
        raise InputError(f"<execute type={kind!r}> is not supported; the embedded server starts Python only")
    return Execute(_module(element.get("name")), element.get("target") or None)


def _module(name: str | None) -> str:
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise InputError(f"{name!r} is not the name of a Python module")
    return name


def _connect(element: Element) -> Connect:
    port = element.get("port", "")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InputError(f"<connect port={port!r}> is not a port")
    return Connect(element.get("address") or "localhost", int(port), element.get("fallback") == "on")


def _document(element: Element | None) -> bytes:
    """As the real server writes it: indented by tabs; without the element only the declaration."""
    declaration = b'<?xml version="1.0"?>\n'
    if element is None:
        return declaration
    element.tail = None
    ElementTree.indent(element, "\t")
    return declaration + ElementTree.tostring(element, "utf-8") + b"\n"


def find(name: str, folders: Sequence[Path]) -> bytes:
    """The configuration of this name from the first folder that has it.

    Raises
    ------
    UnknownConfiguration
        If no folder has it.
    InputError
        If the name leads out of them: by "..", as an absolute path or through a symbolic link.
    """
    if len(name) > _LONGEST_NAME:
        raise InputError(f"the name of a configuration has {len(name)} characters, more than {_LONGEST_NAME}")
    if not name or not name.isprintable() or Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{name!r} is not the name of a configuration inside the configuration folders")
    for folder in folders:
        for candidate in (folder / name, folder / f"{name}.xml"):
            if candidate.is_file():
                return _read_inside(candidate, folder, name)
    known = sorted({path.name for folder in folders for path in folder.glob("*.xml")})
    raise UnknownConfiguration(
        f"no configuration {name!r} in the configuration folders; they hold {', '.join(known) or 'none'}"
    )


def _read_inside(path: Path, folder: Path, name: str) -> bytes:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"configuration {name!r} is a link that leaves the configuration folders")
    with path.open("rb") as file:
        document = file.read(TEXT_LIMIT + 1)
    if len(document) > TEXT_LIMIT:
        raise InputError(f"configuration {name!r} is larger than {TEXT_LIMIT} bytes")
    return document
