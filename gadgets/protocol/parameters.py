"""Parameters of a scan as the host of a scanner sends them (FIRE, OpenRecon): Text after the header that is JSON.

``{"parameters": {NAME: VALUE, …}}``; values may be strings. Names are those of the table of properties, but an
OpenRecon identifier holds neither underscore nor hyphen: ``planImages`` is ``plan_images``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gadgets.properties import Properties, as_text, table
from pass_recon.types import InputError

CONFIGURATIONS = ("customconfig", "config")
"""Parameters that name a configuration of the server; the first that is given wins."""


# Where images are sent to is for who runs the server to say, not for who sends a scan.
_OF_THE_SITE = ("dicom_to",)


def parameters_in(text: str) -> dict[str, str] | None:
    """The parameters that a Text holds, as text; None if it is another text.

    Raises
    ------
    InputError
        If it begins as such JSON and is not.
    """
    if not text.lstrip().startswith("{"):
        return None
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"the parameters of the scan are not JSON: {error}") from error
    except RecursionError:
        raise InputError("the parameters of the scan are not JSON of this kind: nested too deeply") from None
    parameters = content.get("parameters")
    if parameters is None:
        return None
    if not isinstance(parameters, dict):
        raise InputError(f'"parameters" must hold names and values, not a {type(parameters).__name__}')
    return {str(name): _as_text(value) for name, value in parameters.items()}


def known_and_unknown(parameters: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The parameters that are properties, checked, by the property's name; and the names of all others.

    Raises
    ------
    InputError
        If one has a value that the property cannot have, or comes twice.
    """
    names = {_bare(name): name for name in table() if name not in _OF_THE_SITE}
    known: dict[str, str] = {}
    for given, value in parameters.items():
        if (name := names.get(_bare(given))) is None:
            continue
        if name in known:
            raise InputError(f"the parameter {name!r} is given twice: {known[name]!r} and {value!r}")
        known[name] = value
    Properties.from_text(known)
    bundle = known.get("bundle", "")
    if "/" in bundle or "\\" in bundle or bundle.startswith("."):
        # A scan says which bundle, not where on this machine files are.
        raise InputError(f"the parameter 'bundle' must be the name of a bundle, not a path: {bundle!r}")
    return known, [name for name in parameters if _bare(name) not in names and name not in CONFIGURATIONS]


def _bare(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _as_text(value: Any) -> str:
    return as_text(value) if isinstance(value, bool | float) else str(value)
