"""Options that set properties of the chain: their names, defaults and help come from the one table."""

from __future__ import annotations

import argparse

from gadgets.properties import Properties, table


def add_property_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """An option for each of these properties, for all of them if none is named."""
    for name in names or table():
        row = table()[name]
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=row.default,
            help=f"{row.about}; {row.values}; default: %(default)s",
        )


def properties_of(args: argparse.Namespace) -> Properties:
    """The properties that these options give; raises InputError for a value that one cannot have."""
    return Properties.from_text({name: getattr(args, name) for name in table() if hasattr(args, name)})
