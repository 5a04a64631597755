"""`pass-recon recon`: the same four stages on files, without a server."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pass_recon_cli.properties import add_memory_option, add_property_options, keep_to_memory, properties_of

if TYPE_CHECKING:
    from gadgets.offline import FileOutcome
    from gadgets.protocol.connection import Failure

DESCRIPTION = """Reconstruct MRD files with the stages that run in the Gadgetron chain, without a server. The images are
stored as the stock Gadgetron client stores them. Whatever can be made of a file is kept; if anything was at fault, it
is said and the exit code is 1. One file with -f, or an archive: many files, shared among processes or a Dask cluster,
their images in files of the same names in the folder that -o names."""
EXAMPLE = """examples:
  pass-recon recon -f patient.h5 -o out.h5 --acceleration 8
  pass-recon recon archive/*.h5 -o images --workers 0
  pass-recon recon archive/*.h5 -o images --dask tcp://scheduler:8786"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `recon` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "recon",
        help="reconstruct MRD files without a server",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="MRD files of an archive")
    parser.add_argument("-f", "--filename", help="one MRD file to read")
    parser.add_argument(
        "-o", "--outfile", help="HDF5 file for the images, default: out.h5; of an archive a folder, default: images"
    )
    parser.add_argument("-g", "--in-group", default="dataset", help="group of the input; default: %(default)s")
    parser.add_argument("-G", "--out-group", help="group of the output; default: the local time")
    parser.add_argument(
        "--workers", type=int, default=1, help="processes for an archive, 0 for one a core; default: %(default)s"
    )
    parser.add_argument(
        "--dask", default="", metavar="ADDRESS", help="Dask scheduler, tcp://…, whose workers reconstruct the archive"
    )
    add_property_options(parser)
    add_memory_option(parser)
    parser.add_argument("--json", action="store_true", help="say what came of it as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")
    return parser


def run(args: argparse.Namespace) -> int:
    """Reconstruct; 0 only if images were made of every file and nothing was at fault."""
    from gadgets.offline import FileJob, reconstruct_file
    from pass_recon.types import InputError

    if bool(args.files) == bool(args.filename):
        raise InputError("give one MRD file with -f, or the files of an archive: pass-recon recon --help has examples")
    keep_to_memory(args)
    if args.files:
        return _archive(args)
    if args.dask or args.workers != 1:
        raise InputError("--dask and --workers share the files of an archive; -f names only one file")
    target = Path(args.outfile or "out.h5")
    if target.resolve() == Path(args.filename).resolve():
        raise InputError(f"{target} holds the scan: its images must go to another file")
    job = FileJob(Path(args.filename), target, properties_of(args), args.in_group, args.out_group)
    outcome = reconstruct_file(job, lambda source: _with_bar(source, quiet=args.quiet or args.json))
    if args.json:
        sys.stdout.write(json.dumps(_as_json(outcome), indent=2, ensure_ascii=False) + "\n")
        return int(outcome.failed)
    write_failures("recon", outcome.messages)
    if outcome.file is None:
        sys.stderr.write(f"pass-recon recon: {target} is not written\n")
    elif not args.quiet:
        sys.stdout.write(f"{outcome.images} images in {outcome.file}:/{outcome.group}\n")
        sys.stdout.write(f"bundle {outcome.bundle}\n" if outcome.bundle else "")
    return int(outcome.failed)


def _archive(args: argparse.Namespace) -> int:
    """Reconstruct many files; what goes wrong with one does not keep the others from being made."""
    from gadgets.offline import FileJob, FileOutcome, archived
    from gadgets.protocol.connection import Failure
    from pass_recon.common.parallel import in_parallel

    folder, properties = Path(args.outfile or "images"), properties_of(args)
    targets = _targets([Path(file) for file in args.files], folder)
    jobs = [FileJob(file.resolve(), target, properties, args.in_group, args.out_group) for file, target in targets]

    def died(job: FileJob, reason: str) -> FileOutcome:
        return FileOutcome(job.source, messages=(Failure(reason, "processing"),))

    outcomes = []
    for outcome in in_parallel(
        archived,
        jobs,
        died,
        workers=args.workers,
        scheduler=args.dask,
        progress=not (args.quiet or args.json),
        unit="file",
    ):
        outcomes.append(outcome)
        if not args.json:
            write_failures("recon", outcome.messages, f"{outcome.source.name}: ")
    failed = sum(outcome.failed for outcome in outcomes)
    if args.json:
        sys.stdout.write(json.dumps([_as_json(one) for one in outcomes], indent=2, ensure_ascii=False) + "\n")
    elif not args.quiet:
        images = sum(outcome.images for outcome in outcomes)
        sys.stdout.write(f"{images} images of {len(jobs) - failed} files in {folder}, {failed} files at fault\n")
    return int(failed > 0)


def _targets(files: Sequence[Path], folder: Path) -> list[tuple[Path, Path]]:
    """Each file, and where its images go."""
    from pass_recon.types import InputError

    targets: dict[Path, Path] = {}
    for file in files:
        target = folder.resolve() / f"{file.stem}.h5"
        if target in targets:
            raise InputError(f"{targets[target]} and {file} would both go to {target}: their names must differ")
        if target == file.resolve():
            raise InputError(f"the images of {file} would take its place: -o must name another folder")
        targets[target] = file
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: of an archive, -o names a folder")
    folder.mkdir(parents=True, exist_ok=True)
    return [(file, target) for target, file in targets.items()]


def _as_json(outcome: FileOutcome) -> dict[str, Any]:
    return {
        "source": str(outcome.source),
        "file": None if outcome.file is None else str(outcome.file),
        "group": outcome.group,
        "images": outcome.images,
        "bundle": outcome.bundle,
        "messages": [{"severity": one.severity, "message": one.message} for one in outcome.messages],
    }


def write_failures(command: str, failures: Iterable[Failure], about: str = "") -> None:
    """Say on stderr what went wrong, a line each."""
    for failure in failures:
        warning = "warning: " if failure.severity == "warning" else ""
        sys.stderr.write(f"pass-recon {command}: {about}{warning}{failure.message}\n")


def _with_bar(source: Any, *, quiet: bool) -> Iterable[Any]:
    from tqdm import tqdm

    hidden = True if quiet else None  # None: unless stderr is a terminal
    return tqdm(source.acquisitions(), total=len(source), unit="line", desc="recon", disable=hidden)
