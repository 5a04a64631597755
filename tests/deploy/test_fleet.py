"""Ten servers behind one load balancer, as `deploy/haproxy.cfg` has it; one of them is killed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from gadgets import protocol
from gadgets.protocol import MessageId
from pass_recon_cli.local_server import LocalProcess
from tests.gadgets.server.tools import Client, acquisition, configuration, scan, talk
from tests.images.engine import wait_until

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "haproxy.cfg"
ECHO = configuration("")
SERVERS = 10


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.mark.slow
@pytest.mark.fleet
def test_a_killed_server_costs_its_own_scan_and_no_other(tmp_path):
    pytest.importorskip("prometheus_client")
    entrance = free_port()
    metrics = [free_port() for _ in range(SERVERS)]
    with ExitStack() as running:
        servers = [
            running.enter_context(
                LocalProcess(
                    *("serve", "-p", "0", "--allow-client-configs", "--metrics-port", str(port)),
                    log=tmp_path / f"{number}.log",
                )
            )
            for number, port in enumerate(metrics)
        ]
        lines = [
            f"    server s{number} 127.0.0.1:{server.port()} check port {metrics[number]}"
            for number, server in enumerate(servers)
        ]
        text = CONFIG.read_text().replace("127.0.0.1:9000", f"127.0.0.1:{entrance}")
        text, count = re.subn(r"^    server one .*$", "\n".join(lines), text, flags=re.MULTILINE)
        assert count == 1
        config = tmp_path / "haproxy.cfg"
        config.write_text(text)
        subprocess.run(["haproxy", "-c", "-f", str(config)], check=True, timeout=30, capture_output=True)
        for port in metrics:
            wait_until(True, port)
        balancer = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
        running.callback(balancer.wait)
        running.callback(balancer.terminate)
        for _ in range(100):
            try:
                Client(entrance).channel.close()
                break
            except OSError:
                time.sleep(0.1)

        clients = [running.enter_context(Client(entrance)) for _ in range(SERVERS)]
        for number, client in enumerate(clients):  # all ten at once: each server gets one
            client.send(scan(ECHO, acquisition(number), close=False))
            assert client.read().id == MessageId.ACQUISITION
        os.kill(servers[3].pid, signal.SIGKILL)
        ended = lost = 0
        for client in clients:
            try:
                client.send(protocol.encode(acquisition(99)), protocol.close())
                messages = client.read_to_close()
            except (OSError, protocol.PeerLost):
                lost += 1
            else:
                ended += [message.id for message in messages] == [MessageId.ACQUISITION]
        assert (ended, lost) == (SERVERS - 1, 1), "leastconn gave each server one scan"
        for number in range(
            2 * SERVERS
        ):  # whoever comes now is served, whether or not the dead one is known to be dead
            answer = talk(entrance, scan(ECHO, acquisition(number)))
            assert [message.id for message in answer] == [MessageId.ACQUISITION]
