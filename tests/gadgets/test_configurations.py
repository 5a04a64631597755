"""The shipped configurations: what each node takes, and that all agree with the gadgets. Not run here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gadgets.protocol import MessageId
from gadgets.server.configuration import Execute, External, parse

CONFIGURATIONS = sorted((Path(__file__).resolve().parents[2] / "xml_configs").glob("*.xml"))
pytestmark = pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)


def nodes(path: Path) -> list[External]:
    return [node for node in parse(path.read_bytes()).nodes if isinstance(node, External)]


def names(identifiers) -> set[str]:
    return {MessageId(identifier).name for identifier in identifiers}


def test_each_node_lists_exactly_what_it_takes_and_gives(path):
    """So that a plan bypasses reconstructions: with the default lists it would wait in line behind them."""
    lists = [(names(node.accepts), names(node.returns)) for node in nodes(path)]
    if path.name == "pass_recon_resident.xml":
        assert lists == [({"ACQUISITION", "TEXT"}, {"IMAGE"})]
    else:
        assert lists == [
            ({"ACQUISITION", "TEXT"}, {"RECON_DATA"}),
            ({"RECON_DATA"}, {"RECON_DATA", "IMAGE"}),
            ({"RECON_DATA"}, {"IMAGE"}),
            ({"IMAGE"}, {"IMAGE"}),
        ]


def test_client_may_send_all_it_has_and_gets_images_only(path):
    configuration = parse(path.read_bytes())
    assert names(configuration.readers) == {"ACQUISITION", "WAVEFORM", "TEXT"}
    # A stock client is killed by an acquisition or a waveform that comes back.
    assert names(configuration.writers) == {"IMAGE"}


def test_no_node_repeats_a_default(path):
    assert not list(ElementTree.parse(path).iter("property"))


def test_modules_and_targets_exist(path):
    for node in nodes(path):
        if isinstance(node.action, Execute):
            assert callable(getattr(import_module(node.action.module), node.action.target))
