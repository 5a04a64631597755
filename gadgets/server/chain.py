"""From a configuration to running nodes."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from gadgets.protocol import Message
from gadgets.server.configuration import Configuration, External, Gadget
from gadgets.server.external import ExternalNode
from gadgets.server.nodes import Node, Report, Sink, StockNode
from gadgets.server.settings import ServerSettings
from gadgets.server.stock import STOCK_GADGETS
from pass_recon.types import InputError


def refuse_missing(configuration: Configuration) -> None:
    """Raise InputError if the configuration has gadgets that the server lacks."""
    names = [node.classname for node in configuration.nodes if isinstance(node, Gadget)]
    missing = [name for name in dict.fromkeys(names) if name not in STOCK_GADGETS]
    if missing:
        known = ", ".join(sorted(STOCK_GADGETS))
        raise InputError(f"the embedded server has no {', '.join(missing)}; of the stock gadgets it has {known}")


class _Tail:
    """Remembers that the last node has ended; the client is told later, when all processes are gone."""

    def __init__(self, client: Sink) -> None:
        self._client = client
        self.ended = threading.Event()

    def put(self, message: Message) -> None:
        self._client.put(message)

    def end(self) -> None:
        self.ended.set()


class Chain:
    """The nodes of a session, started.

    Parameters
    ----------
    configuration
        Without missing gadgets.
    header_xml, header
        The ISMRMRD header, as it came and parsed.
    client
        Takes what the last node gives.
    report
        Called with the name of a node and what is wrong there.
    settings
        How long to wait for processes.

    Raises
    ------
    InputError
        If a stock gadget cannot work with this header or these properties.
    """

    def __init__(
        self,
        configuration: Configuration,
        header_xml: bytes,
        header: object,
        client: Sink,
        report: Report,
        settings: ServerSettings,
    ) -> None:
        self._tail = _Tail(client)
        self._nodes: list[Node] = []
        sink: Sink = self._tail
        for node in reversed(configuration.nodes):
            if isinstance(node, External):
                sink = ExternalNode(node, header_xml, sink, report, settings)
            else:
                gadget = STOCK_GADGETS[node.classname](header, node.properties)
                sink = StockNode(node.classname, gadget, sink, report, settings.waiting_bytes)
            self._nodes.insert(0, sink)
        self.put, self.end = sink.put, sink.end
        try:
            for started in self._nodes:
                started.start()
        except RuntimeError:  # no more threads
            self.abort()
            raise

    @property
    def nodes(self) -> Sequence[Node]:
        """First to last."""
        return self._nodes

    @property
    def waiting(self) -> int:
        """How many messages wait for a node."""
        return sum(node.waiting for node in self._nodes)

    def wait(self, seconds: float) -> bool:
        """Whether all results have been handed over and all processes are gone, waiting for it so long."""
        return self._tail.ended.wait(seconds) and all(node.join(seconds) for node in self._nodes)

    def abort(self) -> None:
        """Ask all nodes to let go."""
        for node in self._nodes:
            node.abort()

    def kill(self) -> None:
        """Leave no process behind."""
        for node in self._nodes:
            node.kill()
