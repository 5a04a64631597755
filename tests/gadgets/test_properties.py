"""Properties: their defaults, how Gadgetron sends them, and what is refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gadgets.properties import Properties, Values, as_text, markdown, table
from pass_recon.types import InputError


def read(inside: str) -> Properties:
    return Properties.from_xml(ElementTree.fromstring(f"<configuration>{inside}</configuration>"))


def test_defaults_without_configuration_and_with_an_empty_one():
    assert Properties.from_xml(None) == read("") == Properties()


def test_attributes_and_children_are_both_read():
    given = read(
        '<property name="bundle" value="brain-t1-4x" /><property name="acceleration" value="8" />'
        '<property name="anomaly" value="off"/><property name="mode" value="closed_loop"/>'
        "<property><name>plan_deadline_ms</name><value>150</value></property>"
        '<property name="device" value="cuda:1"/><property name="fallback" value="off"/>'
    )
    assert given == Properties("brain-t1-4x", 8.0, "closed_loop", False, "cuda:1", 150.0, False)


def test_unknown_property_is_named_and_known_ones_are_listed():
    with pytest.raises(InputError, match=r"unknown property 'acceleraton'; known are bundle, acceleration, mode"):
        read('<property name="acceleraton" value="4"/>')


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("acceleration", "four"),
        ("acceleration", "0.5"),
        ("acceleration", "nan"),
        ("acceleration", "inf"),
        ("mode", "online"),
        ("anomaly", "maybe"),
        ("device", "tpu"),
        ("plan_deadline_ms", "-1"),
        ("fallback", ""),
        ("bundle", " "),
    ],
)
def test_impossible_value_is_refused_with_the_name(name, value):
    with pytest.raises(InputError, match=f"'{name}'"):
        read(f'<property name="{name}" value="{value}"/>')


def test_property_given_twice_or_without_value_is_refused():
    with pytest.raises(InputError, match="'bundle' is given twice: 'a' and 'b'"):
        read('<property name="bundle" value="a"/><property name="bundle" value="b"/>')
    with pytest.raises(InputError, match="lacks its name or its value"):
        read('<property name="bundle"/>')


def test_the_table_says_what_the_gadgets_do():
    for name, row in table().items():
        assert as_text(getattr(Properties.from_text({name: row.default}), name)) == row.default
        with pytest.raises(InputError, match=f"must be {row.values}, got"):
            Properties.from_text({name: ""})


def test_the_documentation_is_that_of_the_table():
    """If this fails: python -m gadgets.properties > docs/properties.md."""
    page = Path(__file__).resolve().parents[2] / "docs" / "properties.md"
    assert page.read_text(encoding="utf-8") == markdown()


def test_a_property_of_one_s_own_is_one_field():
    """As somebody with a stage of her own adds one: checked, read and documented like all others."""

    @dataclass(frozen=True)
    class WithFilter(Properties):
        filter_mm: float = field(
            default=0.0, metadata={"values": Values("a number", float), "about": "width of a filter of the image"}
        )

    given = WithFilter.from_text({"filter_mm": "1.5", "acceleration": "8"})
    assert (given.filter_mm, given.acceleration) == (1.5, 8.0)
    with pytest.raises(InputError, match="'filter_mm' must be a number, got 'wide'"):
        WithFilter.from_text({"filter_mm": "wide"})
    assert table(WithFilter)["filter_mm"].about == "width of a filter of the image"
    assert "filter_mm" not in table()
