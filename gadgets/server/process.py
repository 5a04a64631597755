"""A gadget's own process: started as a Gadgetron starts it, its output logged, always reaped."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

from gadgets.monitoring.scan_id import in_this_scan
from gadgets.server.configuration import Execute

log = logging.getLogger(__name__)

_IMPORTABLE = Path(__file__).resolve().parents[2]  # holds `gadgets` and `pass_recon`, installed or not


class Process:
    """``python -m gadgetron PORT module target``, which connects back to a port of ours."""

    def __init__(self, execute: Execute, port: int) -> None:
        self.name = execute.module
        path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(_IMPORTABLE))))
        arguments = [str(port), execute.module, *([execute.target] if execute.target else [])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gadgetron", *arguments],
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the server, which then ends its gadgets itself
        )
        self._output: deque[str] = deque(maxlen=50)
        self._pump = threading.Thread(target=in_this_scan(self._log_output), name=f"log-{self.name}", daemon=True)
        self._pump.start()
        log.info("started %s as process %d", self.name, self._process.pid)

    def _log_output(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                if text:
                    self._output.append(text)
                    level = logging.DEBUG if " DEBUG " in text else logging.INFO  # as gadgetron-python writes it
                    log.log(level, "%s: %s", self.name, text)

    @property
    def exited(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def wait(self, seconds: float) -> int | None:
        """Its exit code, None if it is still there after that time."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    @property
    def failed(self) -> bool:
        """Whether it has ended with anything but exit code 0."""
        return bool(self._process.poll())

    @property
    def killed(self) -> bool:
        """Whether it has ended by a signal."""
        return (self._process.poll() or 0) < 0

    def terminate(self) -> None:
        """Ask it, and whatever it started, to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and whatever it started."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if not self.exited:  # its id, which is that of the group too, may belong to somebody else afterwards
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def ending(self) -> str:
        """How it ended: exit code or signal, and the last thing it said, which for a Python error is the error."""
        code = self._process.wait()
        self._pump.join(1.0)  # a grandchild may hold the pipe open
        ended = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        return f"{ended}: {self._output[-1]}" if self._output and code else ended
