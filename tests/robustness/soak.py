"""Scans while everything goes wrong: ``make soak``, ``python -m tests.robustness.soak``.

A server and two resident processes, one with networks, run as commands, and things happen to them and to the network
while scans run: the kinds in `faults`. The table counts what was tried; lost: a fault that costs nothing, a delay or a
killed process, has cost an image or changed it; silent: images are missing and no error was told, or they are not in
the file that is said to hold them; leaked: threads, files, processes or memory that stay. All but the first are to be
zero. Clock jumps need a C compiler, and are left out without one.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from gadgets.converters.image_file import read_images
from gadgets.mrd.scan_file import ScanFile
from gadgets.scanner.client import ScanReport, ScanSettings, run_scan
from gadgets.spool.recording import under_way
from tests.gadgets.scans import patient_file
from tests.robustness.clock import COMPILER, VARIABLE, Clock
from tests.robustness.faults import KINDS, Fault
from tests.robustness.fuzz import show
from tests.robustness.site import Site

BUNDLE = "brain-flair-4x"
SLICES = 2
# What is scanned with, and of how many scans.
SCANS = {"classical.xml": 8, "closed_loop.xml": 2, "networks.xml": 1}
_ALMOST = 0.02  # of the brightest pixel: images that are computed twice differ in the last digits
_MORE_THAN_NOISE = 4  # threads and files that a process may have more of at the end than at the beginning
_MAGNITUDE = 1
_PATIENCE_S = 240.0  # that a busy machine needs to start a gadget in place of one that was killed
Table = dict[str, dict[str, int]]


class Images(NamedTuple):
    """What came of a scan: images by slice, how many the file has, how many it should have, and errors."""

    magnitudes: dict[int, NDArray[np.uint16]]
    stored: int
    told: int
    errors: list[str]


def scanned(path: Path, out: Path, port: int, config: str) -> Images:
    """Scan once."""
    settings = ScanSettings("127.0.0.1", port, config, timeout=_PATIENCE_S, closed_loop=config == "closed_loop.xml")
    with ScanFile(path) as source:
        report = run_scan(source, out, settings)
    return _stored(report)


def _stored(report: ScanReport) -> Images:
    if not report.images:
        return Images({}, 0, 0, report.errors)
    with h5py.File(report.file, "r") as file:
        stored = sum(len(series["data"]) for series in file[report.group].values())
    magnitudes = {image.slice: image.data for image in read_images(report.file, report.group, _MAGNITUDE)}
    return Images(magnitudes, stored, report.images, report.errors)


def _same(one: Images, other: Images) -> bool:
    return all(
        np.abs(image.astype(float) - other.magnitudes[number]).max() <= _ALMOST * other.magnitudes[number].max()
        for number, image in one.magnitudes.items()
    )


def struck(site: Site, fault: Fault, config: str, path: Path, out: Path, draw: random.Random) -> list[Images]:
    """What came of the scans during which something happened."""
    made: list[Images] = []
    with fault.strike(site, draw, path, out) as port:

        def scan(through: int) -> None:
            made.append(scanned(path, out, through, config))

        # The proxy takes one connection: others go around it.
        others = [threading.Thread(target=scan, args=(site.server.port,)) for _ in range(fault.clients - 1)]
        for other in others:
            other.start()
        scan(port)
        for other in others:
            other.join()
    return made


def soak(
    scans: int, seed: int = 0, minutes: float = math.inf, bundle: str = "", kinds: Sequence[str] = tuple(KINDS)
) -> Table:
    """Run so many scans, or for so many minutes; the first are of one kind each.

    Parameters
    ----------
    scans, seed, minutes
        How many, which, and how long at most.
    bundle
        Of the scans with networks; without one they are classical too.
    kinds
        Of `KINDS`, what may happen.
    """
    draw = random.Random(seed)
    table = {kind: {"tried": 0, "lost": 0, "silent": 0, "leaked": 0} for kind in kinds}
    until = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (results := folder / "results").mkdir()
        path = patient_file(folder / "patient.h5", slices=SLICES)
        site = Site(folder, bundle)
        used = {*SCANS, *(KINDS[kind].scan for kind in kinds if KINDS[kind].scan)}
        clean = {config: scanned(path, folder / f"clean-{config}.h5", site.server.port, config) for config in used}
        for config, images in clean.items():
            assert len(images.magnitudes) == SLICES, f"a scan without faults fails: {config}, {images.errors}"
        before = {command: command.holds() for command in site.commands}
        drawn = draw.choices(kinds, [KINDS[kind].weight for kind in kinds], k=scans)
        for number, kind in enumerate([*kinds, *drawn][:scans]):
            if time.monotonic() > until:
                break
            fault, out = KINDS[kind], results / f"{number}.h5"
            config = fault.scan or draw.choices(list(SCANS), list(SCANS.values()))[0]
            for found, trouble in _faults(site, fault, config, path, out, draw, clean[config]):
                table[kind][found] += 1
                sys.stderr.write(f"scan {number}, {kind}, {config}: {found}: {trouble}\n{site.said()}")
            table[kind]["tried"] += fault.clients
            out.unlink(missing_ok=True)
            for command in site.commands:
                if (code := command.process.poll()) is not None:
                    table[kind]["lost"] += 1
                    sys.stderr.write(f"scan {number}, {kind}: {command.arguments[0]} has ended, {code}\n{site.said()}")
                    command.again()
                command.scanned()
        table["none"]["leaked"] += _leaked(site, before, results)
    return table


def _faults(
    site: Site, fault: Fault, config: str, path: Path, out: Path, draw: random.Random, clean: Images
) -> list[tuple[str, str]]:
    """What went wrong that must not, and what is known of it."""
    try:
        made = struck(site, fault, config, path, out, draw)
    except Exception as error:  # noqa: BLE001, whatever a scan raises is a fault that is to be counted
        return [("lost", f"{type(error).__name__}: {error}")]
    found = [] if len(made) == fault.clients else [("lost", "a client has ended without a report")]
    for images in made:
        came = f"{len(images.magnitudes)} of {SLICES} slices, {images.errors}"
        if len(images.magnitudes) < SLICES and not images.errors:
            found.append(("silent", came))
        if images.stored != images.told:
            found.append(("silent", f"{images.stored} images in the file, {images.told} told"))
        if not fault.costs and (len(images.magnitudes) < SLICES or images.errors):
            found.append(("lost", came))
        if not fault.costs and config != "closed_loop.xml" and not _same(images, clean):
            found.append(("lost", "an image is not what it should be"))
    return found


def _leaked(site: Site, before: dict[object, int], results: Path) -> int:
    """Ends all, and counts what stays that should not."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and (
        any(one.holds() > before[one] + _MORE_THAN_NOISE for one in site.commands)
        or any(under_way(recording) for recording in site.spool.glob("*.scan"))
    ):
        time.sleep(0.5)
    leaks = {
        f"threads and files of {one.arguments[0]}": max(one.holds() - before[one] - _MORE_THAN_NOISE, 0)
        for one in site.commands
    }
    leaks |= {f"memory of {one.arguments[0]}": int(one.memory_leaked()) for one in site.commands}
    leaks["files"] = len([left for folder in (results, site.folder) for left in folder.glob(".*")])
    leaks["raw data of scans that never end"] = sum(map(under_way, site.spool.glob("*.scan")))
    leaks["exit codes"] = sum(command.end() != 0 for command in site.commands)
    for what, count in leaks.items():
        if count:
            sys.stderr.write(f"leaked: {count} {what}\n")
    return sum(leaks.values())


def main() -> int:
    """Run it; 0 if nothing was lost, silent or leaked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=40.0, help="stop after so long; default: %(default)g")
    args = parser.parse_args()
    if COMPILER is not None and VARIABLE not in os.environ:  # the clients' clock jumps too
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, **Clock(Path(folder)).environment}
            command = [sys.executable, "-m", "tests.robustness.soak", *sys.argv[1:]]
            return subprocess.run(command, env=environment, check=False).returncode
    began = time.monotonic()
    table = soak(args.scans, args.seed, args.minutes, BUNDLE)
    sys.stdout.write(f"{show(table)}\n{(time.monotonic() - began) / 60:.0f} minutes\n")
    if COMPILER is None:
        sys.stdout.write("without clock jumps: there is no C compiler (cc)\n")
    return int(any(counts[fault] for counts in table.values() for fault in ("lost", "silent", "leaked")))


if __name__ == "__main__":
    raise SystemExit(main())
