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


def add_memory_option(parser: argparse.ArgumentParser) -> None:
    """An option for the memory that a process may take."""
    parser.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="most memory for a process, such as 8G; what needs more is refused; default: four fifths of the machine's",
    )


def keep_to_memory(args: argparse.Namespace) -> None:
    """Heed that option; raises InputError where it is no amount of memory."""
    from pass_recon.common.memory import bytes_of, keep_to

    if args.max_memory is not None:
        keep_to(bytes_of(args.max_memory))


def properties_of(args: argparse.Namespace) -> Properties:
    """The properties that these options give; raises InputError for a value that one cannot have."""
    return Properties.from_text({name: getattr(args, name) for name in table() if hasattr(args, name)})


def given_properties(args: argparse.Namespace) -> dict[str, Any]:
    """Only those that the user gives, where the options have no defaults; raises InputError."""
    given = {name: getattr(args, name) for name in table() if hasattr(args, name)}
    read = Properties.from_text(given)
    return {name: getattr(read, name) for name in given}
