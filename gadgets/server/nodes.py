"""The chain: nodes that hand messages on without ever waiting for the next one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from ismrmrd import Acquisition

from gadgets.monitoring.scan_id import in_this_scan
from gadgets.protocol import WARNING, Message, MessageId, message_of
from gadgets.protocol.bounded import BoundedQueue
from pass_recon.types import InputError

log = logging.getLogger(__name__)

_TORCH_SETTING = threading.Lock()

Report = Callable[[str, str], None]


class Sink(Protocol):
    """Where messages go. Neither call may block before a lot has come: a plan must not wait for what others compute."""

    def put(self, message: Message) -> None:
        """Take a message."""

    def end(self) -> None:
        """Know that no more will come."""


class Node(Sink, Protocol):
    """A sink with something behind it."""

    @property
    def waiting(self) -> int:
        """How many messages wait to be worked on."""

    def start(self) -> None:
        """Begin to work."""

    def abort(self) -> None:
        """Let go of everything; the results are no longer wanted."""

    def kill(self) -> None:
        """Leave nothing behind, at once."""

    def join(self, seconds: float | None = None) -> bool:
        """Wait for the work to end; False if it has not after so many seconds."""


class StockGadget(Protocol):
    """A gadget of the Gadgetron in this process: acquisitions in, acquisitions out.

    Attributes
    ----------
    remarks
        What the client should know though nothing is lost; it only grows.
    """

    @property
    def remarks(self) -> Sequence[str]: ...

    def process(self, acquisition: Acquisition) -> Iterable[Acquisition]:
        """None, one or more for each that comes; the same object where nothing changes."""


class StockNode:
    """Runs a stock gadget in a thread of its own; what is no acquisition passes, in its place in the order."""

    def __init__(self, name: str, gadget: StockGadget, downstream: Sink, report: Report, waiting: int) -> None:
        self._name, self._gadget, self._downstream, self._report = name, gadget, downstream, report
        self._told = 0  # of the gadget's remarks
        self._queue: BoundedQueue[Message | None] = BoundedQueue(waiting)
        self._aborted = False
        self._thread = threading.Thread(target=in_this_scan(self._run), name=name, daemon=True)

    @property
    def waiting(self) -> int:
        """How many messages are queued."""
        return len(self._queue)

    def put(self, message: Message) -> None:
        """Queue a message."""
        self._queue.put(message, len(message.body))

    def end(self) -> None:
        """Queue the end."""
        self._queue.put(None)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def abort(self) -> None:
        """Drop what is queued."""
        self._aborted = True
        self._queue.clear()
        self._queue.put(None)

    def kill(self) -> None:
        """Nothing more to do: a thread of ours holds nothing that outlives it."""

    def join(self, seconds: float | None = None) -> bool:
        """Wait for the thread; False if it still runs."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        _compute_on_one_core()
        while (message := self._queue.get()) is not None and not self._aborted:
            try:
                self._handle(message)
            except InputError as error:
                self._report(self._name, str(error))
            except Exception as error:  # a fault here must reach the client, not end in a dead thread
                log.exception("%s failed", self._name)
                self._report(self._name, f"{type(error).__name__}: {error}")
        self._downstream.end()

    def _handle(self, message: Message) -> None:
        if message.id != MessageId.ACQUISITION:
            self._downstream.put(message)
            return
        for acquisition in self._gadget.process(message.item):
            self._downstream.put(message if acquisition is message.item else message_of(acquisition))
        for remark in self._gadget.remarks[self._told :]:
            self._told += 1
            self._report(self._name, f"{WARNING}{remark}")


def _compute_on_one_core() -> None:
    """Let torch use one core in this thread, and as many as before in all others.

    One readout is too little work to share: waiting for the other cores made a line take 7 ms in place of 0.3 on a busy
    machine. The setting is that of the calling thread, but torch also keeps it for threads to come: hence the second
    call, from another thread.
    """
    import torch

    with _TORCH_SETTING:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        restore = threading.Thread(target=torch.set_num_threads, args=(before,))
        restore.start()
        restore.join()
