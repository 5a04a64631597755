"""A server of one's own for the length of a scan: `pass-recon serve`, and `pass-recon resident` behind it if wanted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from pass_recon_cli.configurations import packaged_configurations

_STOP_SECONDS = 10.0


def write_configuration(
    name: str, folder: Path, properties: Mapping[str, str], resident_port: int | None = None
) -> Path:
    """Write one of the packaged configurations with properties, and another port of the resident process."""
    tree = ElementTree.parse(packaged_configurations() / name)
    for node in tree.iter("external"):
        configuration = ElementTree.SubElement(node, "configuration")
        for key, value in properties.items():
            ElementTree.SubElement(configuration, "property", name=key, value=value)
        connect = node.find("connect")
        if connect is not None and resident_port is not None:
            connect.set("port", str(resident_port))
    path = folder / name
    tree.write(path, encoding="utf-8", xml_declaration=True)
    return path


class LocalProcess:
    """`pass-recon` with these arguments, running from the start of the block to its end.

    Parameters
    ----------
    arguments
        A command that announces the port on which it listens, and its options.
    log
        File for what it says.
    """

    def __init__(self, *arguments: str, log: Path) -> None:
        self._name, self._log = arguments[0], log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pass_recon_cli.main", *arguments],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def __enter__(self) -> LocalProcess:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def port(self) -> int:
        """The port on which it listens, once it does.

        Raises
        ------
        OSError
            If it ends before that.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            said = self._log.read_text(errors="replace").strip().splitlines()
            raise OSError(f"pass-recon {self._name} did not start: {said[-1] if said else 'it said nothing'}")
        return int(line.rpartition(":")[2])
