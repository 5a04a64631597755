"""Scans through a bad network, with processes killed meanwhile: ``make soak``, ``python -m tests.robustness.soak``.

A server and a resident process run as commands; each scan goes through a proxy that delays, splits, cuts, duplicates or
garbles, and now and then the resident process is killed. The table counts what was tried; lost: a fault that costs
nothing, a delay or a killed process, has cost an image; silent: images are missing and no error was told; leaked:
threads, files or processes of the server that stay. All but the first are to be zero.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from gadgets.mrd.scan_file import ScanFile
from gadgets.scanner.client import ScanSettings, run_scan
from pass_recon_cli.local_server import write_configuration
from tests.gadgets.scans import patient_file
from tests.robustness.fuzz import show
from tests.robustness.proxy import FAULTS, Proxy

CONFIG = "pass_recon_resident.xml"
KILLED = "resident killed"
HARMLESS = ("none", "delayed", "split", "slow reader", KILLED)
_KILLED_OF = 30  # scans to one during which the resident process is killed
_MORE_THAN_NOISE = 4  # threads and files that a server may have more of at the end than at the beginning


class Command:
    """`pass-recon` with a command that announces its port."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pass_recon_cli.main", *arguments, "-q"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        with self.process.stdout as announced:
            self.port = int(announced.readline().rpartition(":")[2])

    def holds(self) -> int:
        """Threads, open files and children of the process."""
        of = Path(f"/proc/{self.process.pid}")
        children = sum(len((task / "children").read_text().split()) for task in (of / "task").iterdir())
        return len(list((of / "task").iterdir())) + len(list((of / "fd").iterdir())) + children

    def end(self, number: int = signal.SIGTERM) -> int:
        """The exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(60)


def scanned(path: Path, out: Path, port: int) -> tuple[int, list[str]]:
    """Images and errors of one scan."""
    with ScanFile(path) as source:
        report = run_scan(source, out, ScanSettings("127.0.0.1", port, CONFIG, timeout=60.0))
    return report.images, report.errors


def soak(scans: int, seed: int = 0, minutes: float = math.inf) -> dict[str, dict[str, int]]:
    """Run so many scans, or for so many minutes; returns the counts of each fault."""
    draw = random.Random(seed)
    table = {fault: {"tried": 0, "lost": 0, "silent": 0, "leaked": 0} for fault in (*FAULTS, KILLED)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = patient_file(folder / "patient.h5", slices=2)
        resident = Command("resident", "--port", "0", "--bundle", "classical", "--device", "cpu")
        port = resident.port
        properties = {"bundle": "classical", "device": "cpu", "mode": "retrospective"}
        write_configuration(CONFIG, folder, properties, port)
        server = Command("serve", "--port", "0", "--configs", str(folder))
        wanted, errors = scanned(path, folder / "clean.h5", server.port)
        assert wanted > 0, f"a scan without faults fails: {errors}"
        before = server.holds()
        until = time.monotonic() + 60 * minutes
        for number in range(scans):
            if time.monotonic() > until:
                break
            fault = KILLED if number % _KILLED_OF == _KILLED_OF - 1 else draw.choice(FAULTS)
            counts = table[fault]
            counts["tried"] += 1
            out = folder / f"{number}.h5"
            with Proxy(server.port, "delayed" if fault == KILLED else fault, seed=number) as through:
                in_mid_scan = threading.Timer(draw.random() / 2, resident.process.kill)
                if fault == KILLED:
                    in_mid_scan.start()
                images, errors = scanned(path, out, through)
                if fault == KILLED:
                    in_mid_scan.join()
                    resident.process.wait()
            if fault == KILLED:
                resident = Command("resident", "--port", str(port), "--bundle", "classical", "--device", "cpu")
            counts["silent"] += images < wanted and not errors
            counts["lost"] += fault in HARMLESS and images < wanted
            if images < wanted and (fault in HARMLESS or not errors):
                sys.stderr.write(f"scan {number}, {fault}: {images} of {wanted} images, {errors}\n")
            out.unlink(missing_ok=True)
        deadline = time.monotonic() + 90
        while server.holds() > before + _MORE_THAN_NOISE and time.monotonic() < deadline:
            time.sleep(0.5)
        table["none"]["leaked"] += max(server.holds() - before - _MORE_THAN_NOISE, 0)
        table["none"]["leaked"] += sum(os.fspath(left).endswith((".partial", ".lock")) for left in folder.iterdir())
        for command in (server, resident):
            table["none"]["leaked"] += command.end() != 0
    return table


def main() -> int:
    """Run it; 0 if nothing was lost, silent or leaked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=40.0, help="stop after so long; default: %(default)g")
    args = parser.parse_args()
    table = soak(args.scans, args.seed, args.minutes)
    sys.stdout.write(show(table) + "\n")
    return int(any(counts[fault] for counts in table.values() for fault in ("lost", "silent", "leaked")))


if __name__ == "__main__":
    raise SystemExit(main())
