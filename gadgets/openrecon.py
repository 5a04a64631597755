"""The label of an Open Recon image: what the scanner's console offers, from the table of properties.

The rules are those of the vendor's label of version 1.1.0, as public Open Recon packages follow them; the vendor's own
schema comes with its development kit and is not here.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Mapping
from datetime import date
from typing import Any, get_args, get_origin, get_type_hints

from gadgets.properties import Properties
from pass_recon.types import InputError

LABEL = "com.siemens-healthineers.magneticresonance.openrecon.metadata:1.1.0"
CONFIGURATION = "openrecon"
"""The one choice of ``config``: ``openrecon.xml`` in the image."""
MOST_PARAMETERS = 14

_ID = re.compile(r"[A-Za-z0-9]+")
_TYPES = frozenset(("int", "double", "string", "boolean", "choice"))
# What the host of a scanner has no say in, or no use for: where images go and who computes is the image's affair, and
# no Open Recon host waits for a plan.
_LEFT_OUT = frozenset(("dicom_to", "device", "plan_deadline_ms", "plan_images"))
_NOT_THERE = frozenset(("closed_loop",))
_MOST_NUMBER = 1e6


def metadata(version: str, vendor: str, gpu_memory_mb: int, memory_mb: int) -> dict[str, Any]:
    """The label's content.

    Parameters
    ----------
    version
        Of the package, ``X.Y.Z``.
    vendor
        Letters and digits.
    gpu_memory_mb, memory_mb
        What it needs; 0 of the first for an image that computes on the CPU.

    Raises
    ------
    InputError
        If the label would break a rule, see `check`.
    """
    made = {
        "general": {
            "name": _said("PASS"),
            "version": version,
            "vendor": vendor,
            "information": _said("Anomaly-aware reconstruction of undersampled 2D Cartesian scans. Research only."),
            "id": "PASS",
            "regulatory_information": {
                "device_trade_name": "PASS, research software, no medical device",
                "production_identifier": version,
                "manufacturer_address": "none",
                "made_in": "none",
                "manufacture_date": f"{date.today():%Y/%m/%d}",
                "material_number": f"PASS_{version}",
                "gtin": "00000000000000",
                "udi": "none",
                "safety_advices": "Not for clinical use.",
                "special_operating_instructions": "none",
                "additional_relevant_information": "none",
            },
        },
        "reconstruction": {
            "transfer_protocol": {"protocol": "ISMRMRD", "version": "1.4.1"},
            "port": 9002,
            "emitter": "raw",
            "injector": "image",
            "can_process_adjustment_data": False,
            "can_use_gpu": gpu_memory_mb > 0,
            "min_count_required_gpus": 0,
            "min_required_gpu_memory": gpu_memory_mb,
            "min_required_memory": memory_mb,
            "min_count_required_cpu_cores": 2,
            "content_qualification_type": "RESEARCH",
        },
        "parameters": parameters(),
    }
    check(made)
    return made


def parameters() -> list[dict[str, Any]]:
    """What the console offers: the configuration, then properties in the order of their table."""
    hints = get_type_hints(Properties)
    offered = [_configuration()]
    for one in dataclasses.fields(Properties):
        if one.name not in _LEFT_OUT and not one.name.startswith("second_look"):
            offered.append(_parameter(one, hints[one.name]))
    return offered[:MOST_PARAMETERS]


def label(made: Mapping[str, Any]) -> str:
    """The label's value: base64 of JSON."""
    return base64.b64encode(json.dumps(made, indent=2).encode()).decode()


def check(made: Mapping[str, Any]) -> None:
    """Hold a label against the rules.

    Raises
    ------
    InputError
        That names the first thing that a console would refuse.
    """
    general, reconstruction, offered = (made.get(part) for part in ("general", "reconstruction", "parameters"))
    if not isinstance(general, Mapping) or not isinstance(reconstruction, Mapping) or not isinstance(offered, list):
        raise InputError("a label has general, reconstruction and a list of parameters")
    if not re.fullmatch(r"\d+\.\d+\.\d+", str(general.get("version"))):
        raise InputError(f"the version of an Open Recon package is X.Y.Z, not {general.get('version')!r}")
    for name in ("vendor", "id"):
        if not _ID.fullmatch(str(general.get(name))):
            raise InputError(
                f"{name} {general.get(name)!r} of an Open Recon package has other signs than letters and digits"
            )
    protocol = reconstruction.get("transfer_protocol")
    if protocol != {"protocol": "ISMRMRD", "version": "1.4.1"}:
        raise InputError(f"the transfer protocol is ISMRMRD 1.4.1, not {protocol}")
    for point, known in (("emitter", ("raw", "image")), ("injector", ("raw", "image", "compleximage"))):
        if reconstruction.get(point) not in known:
            raise InputError(f"the {point} is one of {', '.join(known)}, not {reconstruction.get(point)!r}")
    if len(offered) > MOST_PARAMETERS:
        raise InputError(f"{len(offered)} parameters, of which there may be {MOST_PARAMETERS}")
    ids = [str(one.get("id")) for one in offered]
    if repeated := [name for name in ids if ids.count(name) > 1]:
        raise InputError(f"the parameter {repeated[0]!r} comes twice")
    if [one.get("type") for one in offered if one.get("id") == "config"] != ["choice"]:
        raise InputError("there is exactly one choice named 'config'")
    for one in offered:
        _check_parameter(one)


def _check_parameter(one: Mapping[str, Any]) -> None:
    name, kind, default = one.get("id"), one.get("type"), one.get("default")
    if not _ID.fullmatch(str(name)):
        raise InputError(f"the parameter {name!r} has other signs than letters and digits in its id")
    if kind not in _TYPES:
        raise InputError(f"the parameter {name!r} is of the unknown type {kind!r}")
    if not all(isinstance(one.get(text), Mapping) and one[text].get("en") for text in ("label", "information")):
        raise InputError(f"the parameter {name!r} has no label or no information in English")
    if kind == "choice":
        values = [value.get("id") for value in one.get("values", [])]
        if default not in values or not all(_ID.fullmatch(str(value)) for value in values):
            raise InputError(
                f"the choice {name!r} needs values of letters and digits, its default {default!r} among them"
            )
    expected = {"boolean": bool, "string": str, "choice": str, "int": int, "double": (int, float)}[str(kind)]
    if not isinstance(default, expected):  # type: ignore[arg-type]
        raise InputError(f"the default {default!r} of the parameter {name!r} is no {kind}")
    if kind in ("int", "double") and not one["minimum"] <= default <= one["maximum"]:
        raise InputError(f"the default {default:g} of the parameter {name!r} is not from minimum to maximum")


def _configuration() -> dict[str, Any]:
    return {
        "id": "config",
        "label": _said("Configuration"),
        "type": "choice",
        "values": [{"id": CONFIGURATION, "name": _said("PASS")}],
        "default": CONFIGURATION,
        "information": _said("The chain that reconstructs"),
    }


def _parameter(one: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    words = one.name.split("_")
    made: dict[str, Any] = {
        "id": words[0] + "".join(word.title() for word in words[1:]),
        "label": _said(" ".join(words).capitalize()),
        "information": _said(f"{one.metadata['about']}; {one.metadata['values'].words}"),
    }
    if hint is bool:
        return made | {"type": "boolean", "default": one.default}
    if hint in (int, float):
        default = hint(one.default)
        kind = "double" if hint is float else "int"
        return made | {"type": kind, "default": default, "minimum": 0, "maximum": max(_MOST_NUMBER, default)}
    values = [value for value in get_args(hint) if value not in _NOT_THERE] if get_origin(hint) is not None else []
    if values and all(isinstance(value, str) and _ID.fullmatch(value) for value in values):
        choices = [{"id": value, "name": _said(value)} for value in values]
        return made | {"type": "choice", "values": choices, "default": one.default}
    return made | {"type": "string", "default": str(one.default)}


def _said(text: str) -> dict[str, str]:
    return {"en": text}
