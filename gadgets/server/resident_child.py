"""The resident process beside the server: started, watched, and started again when it dies."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_HEALTHY_SECONDS = 60.0
_STOP_SECONDS = 5.0


class ResidentChild:
    """``pass-recon resident`` as a child process, from the start of the block to its end.

    Parameters
    ----------
    options
        Of the command.

    Notes
    -----
    The child's standard input is a pipe that closes with this process, however it ends: so it never outlives us nor
    keeps the port. After each death the pause before the next start doubles, up to half a minute.
    """

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._command = [sys.executable, "-m", "pass_recon_cli.main", "resident", "--until-stdin-closes", *options]
        self._process: subprocess.Popen[str] | None = None
        self._why_not = "the resident process is being started"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resident", daemon=True)

    def __enter__(self) -> ResidentChild:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()
        self._thread.join(_STOP_SECONDS)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._thread.join(_STOP_SECONDS)

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def why_not_ready(self) -> str:
        """Empty while it is warm and listens."""
        if not self._why_not and self.pid is None:
            return "the resident process has died"  # and the thread that waits for it has not noticed yet
        return self._why_not

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            started = time.monotonic()
            code = self._run_once()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _HEALTHY_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            self._why_not = f"the resident process ended with {code}; it is started again"
            log.error("%s in %g s", self._why_not, pause)
            self._stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _run_once(self) -> int:
        process = self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        if self._stopping.is_set():  # it came between the question and the start
            process.terminate()
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:  # the first says that it listens
                log.info("%s (process %d)", line.strip(), process.pid)
                self._why_not = ""
        code = process.wait()
        if process.stdin is not None:
            process.stdin.close()
        return code
