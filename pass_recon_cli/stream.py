"""`pass-recon stream`: a scan from a pipe, its images into a pipe."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import Any, BinaryIO

from pass_recon_cli.properties import add_property_options, properties_of
from pass_recon_cli.recon import write_failures

DESCRIPTION = """Read a scan from standard input and write its images to standard output while it goes on, as `gadgetron
--from_stream` does. The format is that of the messages on the wire, which ismrmrd's tools and gadgetron's streams have
too; --format mrd2 is that of mrd-python, for Tyger, and needs .[mrd2]."""
EXAMPLE = "example: pass-recon stream < in.mrd > out.mrd"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `stream` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "stream", help="reconstruct a scan from a pipe into a pipe", description=DESCRIPTION, epilog=EXAMPLE
    )
    parser.add_argument("-i", "--input", metavar="FILE", help="read this instead of standard input")
    parser.add_argument("-o", "--output", metavar="FILE", help="write this instead of standard output")
    parser.add_argument(
        "--format", choices=("mrd", "mrd2"), default="mrd", help="of the input and the output; default: %(default)s"
    )
    add_property_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Reconstruct; 0 only if images were made and nothing was at fault."""
    from contextlib import ExitStack

    from gadgets.offline import Account
    from pass_recon.common.files import written_aside

    stream = import_module(f"gadgets.streams.{args.format}").stream
    properties, account = properties_of(args), Account()
    with ExitStack() as opened:
        source = opened.enter_context(open(args.input, "rb")) if args.input else sys.stdin.buffer  # noqa: PTH123
        sink: BinaryIO
        if args.output:
            aside = opened.enter_context(written_aside(args.output))
            sink = opened.enter_context(aside.open("wb"))
        else:
            if sys.stdout.isatty():
                from pass_recon.types import InputError

                raise InputError(
                    "images are not for a terminal: send standard output to a file or a program, or use -o"
                )
            sink = sys.stdout.buffer
        stream(source, sink, properties, account)
        sink.flush()
    write_failures("stream", account.all)
    return int(account.failed)
