"""Configurations: what the server makes of them, what it refuses, and which files a client can name."""

from __future__ import annotations

from pathlib import Path

import pytest

from gadgets.protocol import MessageId
from gadgets.server.chain import refuse_missing
from gadgets.server.configuration import Connect, Execute, External, Gadget, differing_properties, find, parse
from pass_recon.types import InputError
from tests.gadgets.server.tools import configuration, connect_node, stock_node

DATA = {MessageId.ACQUISITION, MessageId.WAVEFORM, MessageId.IMAGE, MessageId.RECON_DATA}


@pytest.mark.parametrize("name", ["acquisitions", "recondata", "images"])
def test_the_gadget_gets_byte_for_byte_what_a_real_server_sends(recordings: Path, name: str) -> None:
    parsed = parse((recordings / f"{name}.xml").read_bytes())
    external = parsed.nodes[-1]
    assert isinstance(external, External)
    recorded = (recordings / f"server_to_gadget_{name}.bin").read_bytes()
    assert recorded[6 : 6 + int.from_bytes(recorded[2:6], "little")] == external.configuration


def test_lists_and_nodes(recordings: Path) -> None:
    parsed = parse((recordings / "acquisitions.xml").read_bytes())
    assert parsed.readers == {MessageId.ACQUISITION, MessageId.WAVEFORM}
    assert parsed.writers == {MessageId.IMAGE}
    assert parsed.nodes[:2] == (Gadget("NoiseAdjustGadget"), Gadget("RemoveROOversamplingGadget"))
    external = parsed.nodes[2]
    assert isinstance(external, External)
    assert external.action == Connect("localhost", 18100)
    assert external.accepts == external.returns == DATA


def test_own_lists_of_a_node_replace_the_defaults() -> None:
    writers = "<writer><dll>gadgetron_core_writers</dll><classname>BufferWriter</classname></writer>"
    readers = "<readers><reader><dll>d</dll><classname>ImageReader</classname></reader></readers>"
    action = '<execute name="gadgets.a" target="b" type="Python"/>'
    node = f"<external>{action}{readers}<writers>{writers}</writers></external>"
    external = parse(configuration(node).encode()).nodes[0]
    assert isinstance(external, External)
    assert external.action == Execute("gadgets.a", "b")
    assert external.accepts == {MessageId.RECON_DATA}
    assert external.returns == {MessageId.IMAGE}


def test_text_reaches_a_node_only_if_it_lists_the_writer() -> None:
    writers = "<writer><dll>gadgetron_core_writers</dll><classname>TextWriter</classname></writer>"
    external = parse(configuration(connect_node(1, writers=writers)).encode()).nodes[0]
    assert isinstance(external, External)
    assert external.accepts == {MessageId.TEXT}


def test_without_configuration_the_gadget_gets_the_declaration_only() -> None:
    external = parse(configuration(connect_node(1)).encode()).nodes[0]
    assert isinstance(external, External)
    assert external.configuration == b'<?xml version="1.0"?>\n'


def test_properties_as_attributes_or_children_comments_between() -> None:
    stream = """<!-- first --><gadget><name>n</name><dll>d</dll><classname>NoiseAdjustGadget</classname>
        <property name="a" value="1"/><property><name>b</name><value>2</value></property></gadget>"""
    assert parse(configuration(stream).encode()).nodes == (Gadget("NoiseAdjustGadget", {"a": "1", "b": "2"}),)


def test_older_configurations_with_a_namespace_and_a_python_gadget() -> None:
    parsed = parse(
        b"""<?xml version="1.0" encoding="utf-8"?>
    <gadgetronStreamConfiguration xmlns="http://gadgetron.org/gadgetron">
      <reader><slot>1008</slot><dll>gadgetron_mricore</dll><classname>GadgetIsmrmrdAcquisitionMessageReader</classname></reader>
      <writer><slot>1022</slot><dll>gadgetron_mricore</dll><classname>MRIImageWriter</classname></writer>
      <gadget><name>R</name><dll>gadgetron_mricore</dll><classname>RemoveROOversamplingGadget</classname></gadget>
      <gadget><name>P</name><dll>gadgetron_python</dll><classname>PythonGadget</classname>
        <property><name>python_module</name><value>some.module</value></property>
        <property><name>python_class</name><value>Thing</value></property></gadget>
    </gadgetronStreamConfiguration>"""
    )
    assert (parsed.readers, parsed.writers) == ({MessageId.ACQUISITION}, {MessageId.IMAGE})
    assert parsed.nodes[0] == Gadget("RemoveROOversamplingGadget")
    external = parsed.nodes[1]
    assert isinstance(external, External)
    assert external.action == Execute("some.module", "Thing")
    assert b'<property name="python_class" value="Thing" />' in external.configuration


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ("<configuration><version>2</version>", "not well-formed XML"),
        ("", "not well-formed XML"),
        ("<configuration><version>1</version></configuration>", "neither version 2"),
        ("<html/>", "but <html>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><configuration><version>2</version>&b;</configuration>', "<!DOCTYPE a"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><configuration/>', "<!DOCTYPE a"),
        (configuration("<distributed/>"), "<distributed> is not supported"),
        (configuration("<parallel/>"), "<parallel> is not supported"),
        (configuration("<gadget/>"), "without <classname>"),
        (configuration("<external/>"), "needs <execute> or <connect>"),
        (configuration('<external><execute name="m" type="matlab"/></external>'), "starts Python only"),
        (configuration('<external><execute name="-c" type="python"/></external>'), "not the name of a Python module"),
        (configuration('<external><execute name="a b" type="python"/></external>'), "not the name of a Python module"),
        (configuration('<external><connect port="99999"/></external>'), "is not a port"),
        (configuration('<external><connect port="²"/></external>'), "is not a port"),
        (configuration(stock_node("X")[:-9] + "<property/></gadget>"), "lacks its name or its value"),
        (
            configuration("", writers="<writer><dll>d</dll><classname>FooWriter</classname></writer>"),
            "unknown writer 'FooWriter'.*ImageWriter",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_sentence(document: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse(document.encode())


def test_nested_entities_never_expand() -> None:
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    bomb = f'<!DOCTYPE x [<!ENTITY e0 "ha">{entities}]><configuration><version>2</version>&e9;</configuration>'
    with pytest.raises(InputError, match="document type"):
        parse(bomb.encode())


def test_missing_gadgets_are_named_together_with_those_there_are(recordings: Path) -> None:
    with pytest.raises(InputError) as caught:
        refuse_missing(parse((recordings / "images.xml").read_bytes()))
    sentence = str(caught.value)
    for name in ("AcquisitionAccumulateTriggerGadget", "BucketToBufferGadget", "SimpleReconGadget", "ExtractGadget"):
        assert name in sentence.split(";")[0]
    for name in ("NoiseAdjustGadget", "RemoveROOversamplingGadget", "AsymmetricEchoAdjustROGadget"):
        assert name in sentence.split(";")[1]


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    (tmp_path / "secret.xml").write_text("<secret/>")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.xml").write_text(f"<{folder}/>")
        (tmp_path / folder / "both.xml").write_text(f"<both-{folder}/>")
    (tmp_path / "two" / "deep").mkdir()
    (tmp_path / "two" / "deep" / "er.xml").write_text("<deeper/>")
    (tmp_path / "one" / "escape.xml").symlink_to(tmp_path / "secret.xml")
    (tmp_path / "one" / "inside.xml").symlink_to(tmp_path / "one" / "one.xml")
    (tmp_path / "one" / "out").symlink_to(tmp_path)
    return [tmp_path / "one", tmp_path / "two"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("one.xml", b"<one/>"),
        ("two.xml", b"<two/>"),
        ("two", b"<two/>"),
        ("both.xml", b"<both-one/>"),
        ("deep/er.xml", b"<deeper/>"),
        ("inside.xml", b"<one/>"),
    ],
)
def test_names_are_found_in_the_first_folder_that_has_them(folders: list[Path], name: str, content: bytes) -> None:
    assert find(name, folders) == content


@pytest.mark.parametrize(
    "name", ["../secret.xml", "deep/../../secret.xml", "escape.xml", "out/secret.xml", "", ".", "one.xml\0.txt", "deep"]
)
def test_nothing_outside_the_folders_can_be_read(folders: list[Path], name: str) -> None:
    with pytest.raises(InputError, match="configuration"):
        find(name, folders)


def test_absolute_paths_are_refused_even_inside(folders: list[Path]) -> None:
    with pytest.raises(InputError, match="not the name of a configuration"):
        find(str(folders[0] / "one.xml"), folders)


def test_an_unknown_name_lists_the_known_ones(folders: list[Path]) -> None:
    with pytest.raises(InputError, match=r"no configuration 'pass\.xml'.*both\.xml.*two\.xml"):
        find("pass.xml", folders)


def stage(name: str, given: str = "") -> str:
    """A stage of our chain with properties."""
    return f'<external><execute name="gadgets.{name}" target="{name}" type="python"/>{given}</external>'


def test_stages_that_differ_in_a_property_are_named() -> None:
    at_8 = '<configuration><property name="acceleration" value="8"/></configuration>'
    document = configuration(stage("acs_buffer", at_8) + stage("mask_feedback"))
    assert list(differing_properties(parse(document.encode()))) == [
        "the nodes of the chain differ in the property 'acceleration': 8 for gadgets.acs_buffer, "
        "4 for gadgets.mask_feedback"
    ]
    alike = configuration(stage("acs_buffer", at_8) + stage("mask_feedback", at_8))
    assert not list(differing_properties(parse(alike.encode())))
