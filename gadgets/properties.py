"""The properties a user may set on each node of the chain, checked before any data is touched."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, cast, get_args
from xml.etree.ElementTree import Element

from pass_recon.types import InputError

Mode = Literal["closed_loop", "retrospective", "prospective"]

_SWITCH = {"on": True, "true": True, "off": False, "false": False}
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class Properties:
    """Settings of a scan; the four gadgets of a chain are given the same ones.

    Attributes
    ----------
    bundle
        Name or path of the bundle; ``"auto"`` chooses from the header, ``"classical"`` uses none.
    acceleration
        R; a plan holds exactly round(pe / R) lines.
    mode
        ``"closed_loop"``: a scanner waits for the plan and sends those lines. ``"retrospective"``: all lines come, the
        unplanned are ignored. ``"prospective"``: what came is what there is, no planning.
    anomaly
        Whether to look for anomalies and to send the anomaly map and the overlay.
    device
        Where to compute, as torch names it; ``"auto"`` takes a GPU where there is one.
    plan_deadline_ms
        Time after which the population plan is sent instead of a personal one that is not ready.
    fallback
        Whether a failure leads to the population plan and the CG-SENSE image, or to the error message alone.
    """

    bundle: str = "auto"
    acceleration: float = 4.0
    mode: Mode = "retrospective"
    anomaly: bool = True
    device: str = "auto"
    plan_deadline_ms: float = 2000.0
    fallback: bool = True

    @classmethod
    def from_xml(cls, configuration: Element | None) -> Properties:
        """Read each ``<property name="…" value="…"/>`` of a node's ``<configuration>``, None where it has none.

        Raises
        ------
        InputError
            If a property is unknown, comes twice, or has a value it cannot have.
        """
        given: dict[str, str] = {}
        for element in () if configuration is None else configuration.iter("property"):
            # Gadgetron accepts both spellings: attributes, and <name>, <value> children as in its older files.
            name = element.get("name", element.findtext("name"))
            value = element.get("value", element.findtext("value"))
            if name is None or value is None:
                raise InputError("a <property> of the configuration lacks its name or its value")
            if name in given:
                raise InputError(f"the property {name!r} is given twice: {given[name]!r} and {value!r}")
            given[name] = value
        return cls.from_text(given)

    @classmethod
    def from_text(cls, given: Mapping[str, str]) -> Properties:
        """Check and convert properties given as text.

        Raises
        ------
        InputError
            If a property is unknown or has a value it cannot have.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise InputError(f"unknown property {name!r}; known are {', '.join(known)}")
        text = {name: value.strip() for name, value in given.items()}
        defaults = cls()
        return cls(
            bundle=_bundle(text.get("bundle", defaults.bundle)),
            acceleration=_number("acceleration", text, defaults.acceleration, at_least=1.0),
            mode=_mode(text.get("mode", defaults.mode)),
            anomaly=_switch("anomaly", text, defaults.anomaly),
            device=_device(text.get("device", defaults.device)),
            plan_deadline_ms=_number("plan_deadline_ms", text, defaults.plan_deadline_ms, at_least=0.0),
            fallback=_switch("fallback", text, defaults.fallback),
        )


def _bundle(text: str) -> str:
    if not text:
        raise InputError("the property 'bundle' is empty; it must be a name, a path, 'auto' or 'classical'")
    return text


def _mode(text: str) -> Mode:
    if text not in get_args(Mode):
        raise InputError(f"the property 'mode' must be one of {', '.join(get_args(Mode))}, got {text!r}")
    return cast(Mode, text)


def _device(text: str) -> str:
    if not _DEVICE.fullmatch(text):
        raise InputError(f"the property 'device' must be auto, cpu, cuda, cuda:N or mps, got {text!r}")
    return text


def _switch(name: str, text: Mapping[str, str], default: bool) -> bool:
    if name not in text:
        return default
    value = _SWITCH.get(text[name].lower())
    if value is None:
        raise InputError(f"the property {name!r} must be on or off, got {text[name]!r}")
    return value


def _number(name: str, text: Mapping[str, str], default: float, *, at_least: float) -> float:
    if name not in text:
        return default
    try:
        value = float(text[name])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= at_least):
        raise InputError(f"the property {name!r} must be a number of at least {at_least:g}, got {text[name]!r}")
    return value
