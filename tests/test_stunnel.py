"""The proxy of docs/how_to/secure.md: with the key a scan works, with another one nobody is reached."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gadgets.server.tools import acquisition, configuration, running_server, scan, talk

PAGE = Path(__file__).resolve().parents[1] / "docs/how_to/secure.md"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return int(unused.getsockname()[1])


@contextlib.contextmanager
def stunnel(text: str, path: Path, port: int) -> Iterator[None]:
    path.write_text(text)
    with subprocess.Popen(["stunnel", str(path)], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            yield
        finally:
            process.terminate()


@pytest.mark.skipif(shutil.which("stunnel") is None, reason="no stunnel on PATH (make peers)")
@pytest.mark.parametrize("right", [True, False])
def test_the_key_is_the_way_in(tmp_path: Path, right: bool) -> None:
    secret, server_side, client_side = re.findall(r"```(?:text|ini)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for name, text in (("server", secret), ("client", secret if right else secret.replace("0f1e", "1111"))):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    outside, inside = free_port(), free_port()
    with running_server() as port:
        server_side = server_side.replace("0.0.0.0:9443", f"127.0.0.1:{outside}").replace("9002", str(port))
        client_side = client_side.replace("SERVER:9443", f"127.0.0.1:{outside}").replace("9002", str(inside))
        server_side = server_side.replace("/etc/stunnel/pass.secrets", str(tmp_path / "server"))
        client_side = client_side.replace("/etc/stunnel/pass.secrets", str(tmp_path / "client"))
        with stunnel(server_side, tmp_path / "s.conf", outside), stunnel(client_side, tmp_path / "c.conf", inside):
            if right:
                assert len(talk(inside, scan(configuration(""), acquisition()))) == 1
            else:
                with pytest.raises(OSError):  # noqa: PT011, the connection ends, however the system calls it
                    talk(inside, scan(configuration(""), acquisition()))
