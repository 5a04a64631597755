"""Options that set properties of the chain: their names, defaults and help come from the one table."""

from __future__ import annotations

import argparse
from typing import Any

from gadgets.properties import Properties, table


def add_property_options(parser: argparse.ArgumentParser, *names: str, otherwise: str = "") -> None:
    """An option for each of these properties, for all of them if none is named.

    ``otherwise`` says in words where a property comes from that is not given; without it, it has its default.
    """
    for name in names or table():
        row = table()[name]
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=argparse.SUPPRESS if otherwise else row.default,
            help=f"{row.about}; {row.values}; default: {otherwise or '%(default)s'}",
        )


def properties_of(args: argparse.Namespace) -> Properties:
    """The properties that these options give; raises InputError for a value that one cannot have."""
    return Properties.from_text({name: getattr(args, name) for name in table() if hasattr(args, name)})


def given_properties(args: argparse.Namespace) -> dict[str, Any]:
    """Only those that the user gives, where the options have no defaults; raises InputError."""
    given = {name: getattr(args, name) for name in table() if hasattr(args, name)}
    read = Properties.from_text(given)
    return {name: getattr(read, name) for name in given}
