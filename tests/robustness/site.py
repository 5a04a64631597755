"""A server with its resident processes, as commands, which things happen to; and a clock for them that can jump."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pass_recon_cli.local_server import write_configuration
from tests.robustness.clock import Clock

_MORE_MEMORY_MB = 200  # that a process may have at the end than when it was young
_YOUNG_SCANS = 30


class Command:
    """`pass-recon` with a command that announces its port."""

    def __init__(self, *arguments: str, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.arguments, self._environment, self.log = arguments, environment or {}, log
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start it, on the port that it had if it had one."""
        port = ["--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pass_recon_cli.main", *self.arguments, *port, "-q"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **self._environment, "PYTHONFAULTHANDLER": "1"},
            )
        self._scans, self._young = 0, 0
        assert self.process.stdout is not None
        with self.process.stdout as announced:
            self.port = int(announced.readline().rpartition(":")[2])

    def again(self) -> None:
        """Start it again, once it is dead."""
        self.process.wait()
        self.start()

    def children(self) -> list[int]:
        """Ids of the processes that it has started."""
        of = Path(f"/proc/{self.process.pid}/task")
        return [int(one) for task in of.iterdir() for one in (task / "children").read_text().split()]

    def holds(self) -> int:
        """Threads, open files and children of the process."""
        of = Path(f"/proc/{self.process.pid}")
        return len(list((of / "task").iterdir())) + len(list((of / "fd").iterdir())) + len(self.children())

    def scanned(self) -> None:
        """Note the memory that it takes when it is no longer new."""
        self._scans += 1
        if self._scans == _YOUNG_SCANS:
            self._young = self._megabytes()

    def memory_leaked(self) -> bool:
        """Whether it has grown since."""
        return bool(self._young) and self._megabytes() > self._young + _MORE_MEMORY_MB

    def _megabytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20

    def end(self, number: int = signal.SIGTERM) -> int:
        """The exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(60)


class Site:
    """What a soak happens to.

    Parameters
    ----------
    folder
        For configurations, the clock and the spool.
    bundle
        Of the resident process with networks.
    """

    def __init__(self, folder: Path, bundle: str = "") -> None:
        self.folder, self.spool = folder, folder / "spool"
        self.clock = Clock(folder)
        configurations = folder / "configurations"
        configurations.mkdir()
        self.resident = self._resident("classical")
        self.networks = self._resident(bundle) if bundle else self.resident
        for name, packaged, of, port in (
            ("classical.xml", "pass_recon_resident.xml", "classical", self.resident.port),
            ("closed_loop.xml", "pass_recon_resident.xml", "classical", self.resident.port),
            ("networks.xml", "pass_recon_resident.xml", bundle or "classical", self.networks.port),
            ("gadgets.xml", "pass_recon_plain.xml", "classical", None),
        ):
            mode = "closed_loop" if name == "closed_loop.xml" else "retrospective"
            properties = {"bundle": of, "device": "cpu", "mode": mode}
            write_configuration(packaged, configurations, properties, port).rename(configurations / name)
        arguments = ["serve", "--configs", str(configurations), "--spool", str(self.spool), "--spool-gb", "0.1"]
        self.server = Command(*arguments, log=folder / "log", environment=self.clock.environment)

    def _resident(self, bundle: str) -> Command:
        arguments = ["resident", "--bundle", bundle, "--device", "cpu"]
        return Command(*arguments, log=self.folder / "log", environment=self.clock.environment)

    @property
    def commands(self) -> list[Command]:
        """All, the server first."""
        return list(dict.fromkeys([self.server, self.resident, self.networks]))

    def said(self) -> str:
        """The end of what all processes have said."""
        return "".join(f"    {line}\n" for line in (self.folder / "log").read_text(errors="replace").splitlines()[-40:])
