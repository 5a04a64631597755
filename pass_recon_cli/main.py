"""`pass-recon`: finds the command, runs it, and turns what went wrong into one sentence and an exit code.

Exit codes: 0 all is well; 1 bad input, or a scan that failed, with a sentence on stderr; 2 wrong usage; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from pass_recon.common.process import prepare_process
from pass_recon_cli.terminal import plain_output

# One line registers a command: a module with `add_parser(subparsers) -> ArgumentParser` and `run(args) -> int`. These
# modules import nothing heavy at their top, so that `--help` answers at once.
COMMANDS = (
    "pass_recon_cli.demo",
    "pass_recon_cli.simulate",
    "pass_recon_cli.scan",
    "pass_recon_cli.serve",
    "pass_recon_cli.resident",
    "pass_recon_cli.recon",
    "pass_recon_cli.replay",
    "pass_recon_cli.stream",
    "pass_recon_cli.report",
    "pass_recon_cli.dicom",
    "pass_recon_cli.monitor",
    "pass_recon_cli.openrecon",
    "pass_recon_cli.fastmri2mrd",
    "pass_recon_cli.doctor",
    "pass_recon_cli.bundle",
    "pass_recon_cli.evaluate",
    "pass_recon_cli.train",
)

DESCRIPTION = "PASS: anomaly-aware, patient-specific fast MRI as a chain of Gadgetron gadgets. Not for clinical use."
EXAMPLES = """examples:
  pass-recon demo                                        scan and reconstruct a simulated patient, all in one
  pass-recon simulate --anatomy brain --contrast flair -o patient.h5
  pass-recon serve                                       the embedded server, on port 9002
  pass-recon scan --closed-loop -f patient.h5 -o out.h5 -c pass_recon.xml
  pass-recon recon -f patient.h5 -o out.h5               the same stages without a server
  pass-recon report out.h5 -o report.html                the images in the browser
  pass-recon COMMAND --help                              all options of a command
"""


class _Parser(argparse.ArgumentParser):
    """Takes no abbreviated options: what is short for one today is ambiguous with the next option added."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **({"allow_abbrev": False} | options))


class _Version(argparse.Action):
    """Prints the version; reads it only when asked, for it costs an import."""

    def __call__(self, *_args: object, **_options: object) -> NoReturn:
        from pass_recon import __version__

        sys.stdout.write(f"pass-recon {__version__}\n")
        raise SystemExit(0)


class _Completion(argparse.Action):
    """Prints the completions of a shell, made from the parser of all commands."""

    def __call__(self, parser: argparse.ArgumentParser, _namespace: object, shell: Any, *_: object) -> NoReturn:
        import shtab

        sys.stdout.write(shtab.complete(parser, shell) + "\n")
        raise SystemExit(0)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `args.run` is the function to call."""
    parser = _Parser(
        prog="pass-recon",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    parser.add_argument(
        "--completion",
        action=_Completion,
        choices=("bash", "zsh", "fish"),
        help='print completions for a shell and exit; bash: eval "$(pass-recon --completion bash)"',
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", parser_class=_Parser)
    for name in COMMANDS:
        module = import_module(name)
        module.add_parser(subparsers).set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        The arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        The exit code.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    prepare_process()
    with plain_output():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    """Run the command that was chosen; whatever it raises becomes a sentence."""
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        sys.stderr.write("pass-recon: interrupted\n")
        return 130
    except _foreseen() as error:
        if args.debug:
            raise
        sys.stderr.write(f"pass-recon: {_sentence(error)}\n")
        return 1
    except Exception as error:
        if args.debug:
            raise
        what = f"{type(error).__name__}: {_sentence(error)}"
        sys.stderr.write(f"pass-recon: a damaged file, or a fault of the program ({what}; --debug tells where)\n")
        return 1


def _foreseen() -> tuple[type[Exception], ...]:
    # Evaluated only once something was raised, so that a command that needs no torch never waits for it.
    from pass_recon.types import PassError

    return PassError, OSError


def _sentence(error: Exception) -> str:
    from pass_recon.types import printable

    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return printable(" ".join(str(error).split())) or type(error).__name__


if __name__ == "__main__":
    raise SystemExit(main())
