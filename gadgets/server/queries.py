"""Answers to what a client may ask about the server."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.metadata import version

from gadgets.server.stock import STOCK_GADGETS
from pass_recon import __version__

# The release whose protocol and configurations this server follows.
GADGETRON_VERSION = "4.7.2"


def _memory() -> str:
    return str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _information() -> str:
    lines = {
        "PASS embedded server": __version__,
        "compatible with Gadgetron": GADGETRON_VERSION,
        "ISMRMRD": version("ismrmrd"),
        "Python": sys.version.split()[0],
        "gadgets": ", ".join(sorted(STOCK_GADGETS)),
    }
    return "".join(f"  -- {name:<26}: {value}\n" for name, value in lines.items())


_ANSWERS: dict[str, Callable[[], str]] = {
    "ismrmrd::version": lambda: version("ismrmrd"),
    "gadgetron::version": lambda: GADGETRON_VERSION,
    "gadgetron::build": lambda: f"pass-recon {__version__}",
    "gadgetron::info": _information,
    "gadgetron::info::memory": _memory,
    "gadgetron::info::python": lambda: "1",
    "gadgetron::info::matlab": lambda: "0",
    "gadgetron::info::cuda": lambda: "0",  # the server itself; its gadgets choose their devices
    "gadgetron::cuda::devices": lambda: "0",
}


def answer(query: str) -> str:
    """The answer to a query, in the words of a Gadgetron where it has none."""
    return _ANSWERS[query]() if query in _ANSWERS else "Unknown query"
