"""Containers for tests: podman with runc, on the host's network, with the limits that a nested machine needs."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any

PODMAN = ("podman", "--runtime", "runc")
_LIMITS = ("--network", "host", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")


def podman(*arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run podman and keep what it says."""
    return subprocess.run(
        [*PODMAN, *arguments],
        check=check,
        capture_output=True,
        text=True,
        timeout=options.pop("timeout", 120),
        **options,
    )


def exists(image: str) -> bool:
    """Whether an image has been built here."""
    return podman("image", "exists", image, check=False).returncode == 0


class Container:
    """A running container, read-only and as its own user, removed at the end of the block.

    Parameters
    ----------
    image
        Its image.
    name
        Its name.
    command
        What to run instead of the image's command.
    options
        More options of `podman run`.
    """

    def __init__(self, image: str, name: str, *command: str, options: tuple[str, ...] = ()) -> None:
        self.name = name
        self._run = ("run", "-d", "--name", name, "--read-only", "--tmpfs", "/tmp", *_LIMITS, *options, image, *command)

    def __enter__(self) -> Container:
        podman("rm", "-f", self.name, check=False)
        podman(*self._run)
        return self

    def __exit__(self, *_error: object) -> None:
        podman("rm", "-f", self.name, check=False)

    def logs(self) -> str:
        """All that it has said."""
        done = podman("logs", self.name, check=False)
        return done.stdout + done.stderr

    def execute(self, *command: str) -> str:
        """What a command inside it prints."""
        return podman("exec", self.name, *command).stdout

    def stop(self, seconds: int = 60) -> int:
        """Send SIGTERM, wait, and return the exit code."""
        podman("stop", "-t", str(seconds), self.name, timeout=seconds + 60)
        return int(podman("inspect", self.name, "--format", "{{.State.ExitCode}}").stdout)

    def start(self) -> None:
        """Start it again."""
        podman("start", self.name)


def readiness(port: int) -> dict[str, Any]:
    """What /readyz answers; empty while nobody does."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        with error:
            return dict(json.load(error))
    except OSError:
        return {}


def wait_until(ready: bool, port: int, seconds: float = 120) -> dict[str, Any]:
    """Wait until /readyz says so."""
    until = time.monotonic() + seconds
    while (told := readiness(port)).get("ready") is not ready:
        assert time.monotonic() < until, f"after {seconds:g} s /readyz still says {told or 'nothing'}"
        time.sleep(0.2)
    return told
