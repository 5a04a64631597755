"""The properties a user may set on the nodes of a chain: one table, from which checks, options and documentation come.

To add a property is to add a field to `Properties`. ``python -m gadgets.properties`` prints ``docs/properties.md``.
"""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from xml.etree.ElementTree import Element

from pass_recon.sampling.budget import SUSPICIOUS
from pass_recon.types import InputError

Mode = Literal["closed_loop", "retrospective", "prospective"]
Guard = Literal["off", "first", "warn", "replace"]
Precision = Literal["auto", "float32", "bfloat16"]
PlanImages = Literal["on", "off", "auto"]
SecondLook = Literal["off", "slice", "scan"]

_SWITCH = {"on": True, "true": True, "off": False, "false": False}


@dataclass(frozen=True)
class Values:
    """What a property may be: said in words, and read from text; reading anything else raises ValueError."""

    words: str
    read: Callable[[str], Any]


def _one_of(*names: str) -> Values:
    known = {name: name for name in names}
    return Values(f"one of {', '.join(names)}", lambda text: known[text.lower()])


def _switch_or(*names: str) -> Values:
    """On, off or one of some names; read as a word."""
    known = {text: "on" if value else "off" for text, value in _SWITCH.items()} | {name: name for name in names}
    return Values(f"on, off or {' or '.join(names)}", lambda text: known[text.lower()])


def _number(*, at_least: float, at_most: float = math.inf, words: str = "", names: tuple[str, ...] = ()) -> Values:
    """A finite number; or one of some names, which stays a word unless it is ``inf``."""

    def read(text: str) -> Any:
        if text.lower() in names:
            return math.inf if text.lower() == "inf" else text.lower()
        if not (math.isfinite(value := float(text)) and at_least <= value <= at_most):
            raise ValueError(text)
        return value

    bounds = f"at least {at_least:g}" if at_most == math.inf else f"{at_least:g} to {at_most:g}"
    return Values(" or ".join((words or f"a number of {bounds}", *names)), read)


def _matching(pattern: re.Pattern[str], words: str) -> Values:
    def read(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(text)
        return text

    return Values(words, read)


_ON_OR_OFF = Values("on or off", lambda text: _SWITCH[text.lower()])


def _described(values: Values, about: str) -> dict[str, Any]:
    return {"values": values, "about": about}


@dataclass(frozen=True)
class Properties:
    """Settings of a scan; the nodes of a chain are given the same ones."""

    bundle: str = field(
        default="auto",
        metadata=_described(
            _matching(re.compile(r".+"), "a name, a path, auto or classical"),
            "trained networks to use; auto chooses by the header, classical uses none",
        ),
    )
    acceleration: float = field(
        default=4.0, metadata=_described(_number(at_least=1), "R; a plan holds exactly round(pe / R) lines")
    )
    mode: Mode = field(
        default="retrospective",
        metadata=_described(
            _one_of(*get_args(Mode)),
            "closed_loop: a scanner waits for the plan and sends those lines; retrospective: all lines come, the "
            "unplanned are ignored; prospective: what came is what there is, no planning",
        ),
    )
    anomaly: bool = field(
        default=True,
        metadata=_described(_ON_OR_OFF, "look for anomalies and send the anomaly map and the overlay"),
    )
    device: str = field(
        default="auto",
        metadata=_described(
            _matching(re.compile(r"auto|cpu|mps|cuda(:\d+)?"), "auto, cpu, cuda, cuda:N or mps"),
            "where to compute; auto takes a GPU if there is one",
        ),
    )
    plan_deadline_ms: float = field(
        default=2000.0,
        metadata=_described(
            _number(at_least=0),
            "closed loop only: time after which the population plan is sent in place of a late personal one",
        ),
    )
    fallback: bool = field(
        default=True,
        metadata=_described(
            _ON_OR_OFF, "answer a failure with the population plan and the CG-SENSE image, not only with an error"
        ),
    )
    second_look: SecondLook = field(
        default="off",
        metadata=_described(
            _one_of(*get_args(SecondLook)),
            "closed loop only: look at each slice once its lines have come, and ask for more lines where something is "
            "seen; slice: of that slice; scan: of all slices, as soon as one is suspicious",
        ),
    )
    second_look_threshold: float = field(
        default=SUSPICIOUS,
        metadata=_described(_number(at_least=0, at_most=1), "anomaly score from which a slice is suspicious"),
    )
    second_look_acceleration: float | Literal["auto"] = field(
        default="auto",
        metadata=_described(
            _number(at_least=1, names=("auto",)),
            "R of a slice with its additional lines, below acceleration; auto: half of acceleration",
        ),
    )
    second_look_deadline_ms: float = field(
        default=10000.0,
        metadata=_described(
            _number(at_least=0),
            "time from the last line of a slice, or of a scan of them, after which an empty second plan is sent in "
            "place of a late one",
        ),
    )
    second_look_max_extra: float = field(
        default=math.inf,
        metadata=_described(
            _number(at_least=0, words="a number of lines, at least 0", names=("inf",)),
            "most additional lines of a whole scan; with second_look=scan every slice gets the same share",
        ),
    )
    plan_images: PlanImages = field(
        default="auto",
        metadata=_described(
            _switch_or("auto"),
            "send each plan as an image of series 1000; auto: not to the host of a FIRE scanner, which would make a "
            "series of them (it sends parameters in JSON, or names no configuration as NAME.xml)",
        ),
    )
    guard: Guard = field(
        default="first",
        metadata=_described(
            _one_of(*get_args(Guard)),
            "hold the network's image against lines that it was not made from, and against CG-SENSE, which about "
            "doubles the time; first: that of a scan's first slice; warn: each; replace: each, and send "
            "CG-SENSE's where the network's does not stand",
        ),
    )
    precision: Precision = field(
        default="auto",
        metadata=_described(
            _one_of(*get_args(Precision)),
            "of the reconstructing network's convolutions; auto: bfloat16 on a CPU that multiplies it three times as "
            "fast (AMX), which changes images by less than 0.02 dB",
        ),
    )
    dicom_to: str = field(
        default="off",
        metadata=_described(
            _matching(re.compile(r"off|\S+:\d+(/[^\s/]{1,16})?"), "off or HOST:PORT/TITLE of a PACS"),
            "once a scan is over, send its images as DICOM, without names and dates; needs the extra dicom; set in the "
            "configuration only, never by the scan's parameters",
        ),
    )

    def __post_init__(self) -> None:
        if self.looks_again and self.second_acceleration >= self.acceleration:
            raise InputError(
                f"the property 'second_look_acceleration' must be below acceleration, which is {self.acceleration:g}, "
                f"got {self.second_acceleration:g}"
            )

    @property
    def looks_again(self) -> bool:
        """Whether slices may have a second round: a scanner waits, and is told."""
        return self.second_look != "off" and self.mode == "closed_loop" and self.plan_images != "off"

    @property
    def second_acceleration(self) -> float:
        """R of a slice with its additional lines."""
        given = self.second_look_acceleration
        return max(self.acceleration / 2, 1.0) if given == "auto" else float(given)

    @classmethod
    def from_xml(cls, configuration: Element | None) -> Properties:
        """Read each ``<property name="…" value="…"/>`` of a node's ``<configuration>``, None where it has none.

        Raises
        ------
        InputError
            If a property is unknown, comes twice, or has a value it cannot have.
        """
        given: dict[str, str] = {}
        for name, value in () if configuration is None else name_value_pairs(configuration.iter("property")):
            if name in given:
                raise InputError(f"the property {name!r} is given twice: {given[name]!r} and {value!r}")
            given[name] = value
        return cls.from_text(given)

    @classmethod
    def from_text(cls, given: Mapping[str, str]) -> Properties:
        """Check and convert properties given as text; what is absent has its default.

        Raises
        ------
        InputError
            If a property is unknown or has a value it cannot have.
        """
        known = {one.name: one.metadata["values"] for one in dataclasses.fields(cls)}
        return cls(**{name: _read(name, text.strip(), known) for name, text in given.items()})


@dataclass(frozen=True)
class Row:
    """One property as users see it: its name, its default as text, what it may be and what it does."""

    name: str
    default: str
    values: str
    about: str


def table(of: type[Properties] = Properties) -> dict[str, Row]:
    """All properties by name; those of a chain of your own, which adds some, by its class."""
    return {
        one.name: Row(one.name, as_text(one.default), one.metadata["values"].words, one.metadata["about"])
        for one in dataclasses.fields(of)
    }


def as_text(value: Any) -> str:
    """A value as it is written in a configuration."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_texts(properties: Properties) -> dict[str, str]:
    """All properties as they are written in a configuration."""
    return {one.name: as_text(getattr(properties, one.name)) for one in dataclasses.fields(properties)}


def name_value_pairs(elements: Iterable[Element]) -> Iterator[tuple[str, str]]:
    """Names and values of ``<property>`` elements, in both spellings that a Gadgetron accepts: attributes and children.

    Raises
    ------
    InputError
        If one lacks its name or its value.
    """
    for element in elements:
        name = element.get("name", element.findtext("name"))
        value = element.get("value", element.findtext("value"))
        if name is None or value is None:
            raise InputError("a <property> of the configuration lacks its name or its value")
        yield name.strip(), value.strip()


def markdown() -> str:
    """The table for the documentation."""
    rows = [f"| `{row.name}` | `{row.default}` | {row.values} | {row.about} |" for row in table().values()]
    return "\n".join(
        [
            "# Properties of the chain",
            "",
            "Set on the nodes of a configuration, the same on all nodes of a chain. What is absent has its default:",
            "",
            "```xml",
            '<configuration><property name="acceleration" value="8"/></configuration>',
            "```",
            "",
            "| property | default | values | what it does |",
            "|---|---|---|---|",
            *rows,
            "",
            "This page is written by `python -m gadgets.properties`.",
            "",
        ]
    )


def _read(name: str, text: str, known: Mapping[str, Values]) -> Any:
    if name not in known:
        raise InputError(f"unknown property {name!r}; known are {', '.join(known)}")
    try:
        return known[name].read(text)
    except (ValueError, KeyError):
        raise InputError(f"the property {name!r} must be {known[name].words}, got {text!r}") from None


if __name__ == "__main__":
    sys.stdout.write(markdown())
