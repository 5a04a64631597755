"""What the person who starts the server decides, and how long it waits for others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gadgets.monitoring.observers import Observer


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    Attributes
    ----------
    config_folders
        Where configurations are looked up by name, the first folder that has one wins.
    default_config
        What a FIRE client gets that names a configuration which does not exist.
    allow_client_configs
        Whether clients may send configurations of their own. Such a configuration names Python modules to run.
    allowed_modules
        Modules, or packages of modules, that configurations of clients may start.
    stock_client
        Report errors as Text only. The stock client aborts at an Error message, which a real server never sends it.
    connect_seconds
        How long to try to reach the gadget of a ``<connect>`` node.
    start_seconds
        How long a started gadget may take to connect.
    grace_seconds
        How long a gadget may linger once it has said CLOSE, or once its client is gone, before it is killed.
    idle_seconds
        How long a client whose stream cannot be understood may stay silent before it is cut off, and how long a header
        may take after the configuration before the configuration alone is judged.
    refused_seconds
        The same for a client that was refused, but whose lines still come.
    observers
        Who watches the scans.
    handshake_seconds
        How long a client may be silent before its header has come.
    silence_seconds
        The same in a scan, between two lines.
    message_seconds
        How long a message may take from its first byte to its last, more for a long one.
    sending_seconds
        How long a client may take nothing of what is sent to it.
    max_scans
        Scans at the same time; more are refused.
    drain_seconds
        How long scans may go on once the server was asked to end.
    waiting_bytes
        How much of a scan may wait for each gadget that computes, or for the client; then whoever brings more waits.
    kept_bytes
        How much of a scan is remembered for another gadget, should one be killed.
    """

    config_folders: tuple[Path, ...] = ()
    default_config: str = "pass_recon_plain.xml"
    allow_client_configs: bool = False
    allowed_modules: tuple[str, ...] = ("gadgets",)
    stock_client: bool = False
    connect_seconds: float = 10.0
    start_seconds: float = 60.0
    grace_seconds: float = 5.0
    idle_seconds: float = 5.0
    refused_seconds: float = 60.0
    observers: tuple[Observer, ...] = ()
    handshake_seconds: float = 30.0
    silence_seconds: float = 900.0
    message_seconds: float = 30.0
    sending_seconds: float = 60.0
    max_scans: int = 16
    drain_seconds: float = 0.0
    waiting_bytes: int = 64 << 20
    kept_bytes: int = 1 << 30
