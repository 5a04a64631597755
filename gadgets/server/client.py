"""What goes back to the client: results, answers and errors, in one queue that nobody waits for.

Clients of the python-ismrmrd-server kind, the hosts of scanners among them, know no Error message, and read the kind
of a Text from its first three letters: see `Client.fire`.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter

from gadgets import protocol
from gadgets.monitoring.observers import Observers
from gadgets.protocol import DATA_MESSAGES, Channel, Message, PeerLost, name_of
from gadgets.protocol.bounded import BoundedQueue
from gadgets.protocol.bytes import U16, PeerStalled

log = logging.getLogger(__name__)

_MOST_ERRORS = 50


class Client:
    """Sends to one client from a thread of its own.

    The chain ends here: `put` and `end` are those of the last node.

    Parameters
    ----------
    channel
        Connection to the client.
    waiting
        Bytes of results that may wait for the client to take them; then the chain waits.
    errors_as_text_only
        Leave out the Error messages that repeat the Texts.

    Attributes
    ----------
    observers
        Who watches what is sent.
    fire
        Whether this is a FIRE client, by what it has sent: strings that end with a NUL, or parameters in JSON.
    """

    def __init__(self, channel: Channel, errors_as_text_only: bool, waiting: int = 64 << 20) -> None:
        self.fire = False
        self.writers: frozenset[int] = frozenset()
        self.sent: Counter[str] = Counter()
        self.errors: dict[str, None] = {}  # ordered, without repetitions
        self.observers = Observers((), "", self.warn_of_observer)
        self.lost = threading.Event()
        self.done = threading.Event()
        self._channel = channel
        self._text_only = errors_as_text_only
        self._queue: BoundedQueue[bytes | None] = BoundedQueue(waiting)
        threading.Thread(target=self._run, name="to-client", daemon=True).start()

    def put(self, message: Message) -> None:
        """Pass on what the configuration has a writer for; the rest is dropped without a word, as a Gadgetron does."""
        if message.id in self.writers:
            frame = message.frame
            self._queue.put(frame, len(frame))

    def respond(self, correlation: int, answer: str) -> None:
        """Answer a query."""
        self._queue.put(protocol.response(correlation, answer))

    def report(self, location: str, message: str) -> None:
        """Tell the client of an error: at once as Text, and at the end as Error. What is only a warning stays one."""
        if message.startswith(protocol.WARNING):
            self.warn(location, message.removeprefix(protocol.WARNING))
            return
        content = f"[{location}] ERROR: {message}"
        if content in self.errors:
            return  # the same fault in each of a thousand lines is one error
        log.error("%s", content)
        self.observers.told("error", message)
        if len(self.errors) < _MOST_ERRORS:
            self.errors[content] = None
            self._tell(f"ERR [{location}] {message}" if self.fire else content)

    def warn(self, location: str, message: str) -> None:
        """Tell the client of something odd that stops nothing, as Text."""
        log.warning("[%s] %s", location, message)
        self.observers.told("warning", message)
        self._tell(f"WRN [{location}] {message}" if self.fire else f"[{location}] WARNING: {message}")

    def warn_of_observer(self, message: str) -> None:
        """Somebody who watched this scan has failed, which is no fault of the scan."""
        self.warn("server", message)

    def inform(self, message: str) -> None:
        """Tell a FIRE client, at its console, what is being done; others have asked for it themselves."""
        log.info("%s", message)
        if self.fire:
            self._tell(f"DBG [server] {message}")

    def end(self) -> None:
        """No more results."""
        self._queue.put(None)

    def _tell(self, content: str) -> None:
        self._queue.put(protocol.text(content, terminated=self.fire))

    def _run(self) -> None:
        try:
            while (frame := self._queue.get()) is not None:
                self._send(frame)
            for content in [] if self._text_only or self.fire else list(self.errors):
                self._send(protocol.error(content))
            self._send(protocol.close())
        finally:
            self.done.set()

    def _send(self, frame: bytes) -> None:
        if self.lost.is_set():
            return  # the queue is still emptied, so that the chain can end
        try:
            self._channel.send(frame)
        except PeerLost as error:
            log.warning("the client is given up: %s", error)
            self.lost.set()
            if isinstance(error, PeerStalled):
                self._channel.close()  # nothing else tells whoever still reads from it
            return
        if (identifier := U16.unpack_from(frame)[0]) in DATA_MESSAGES:
            self.sent[name_of(identifier)] += 1
            if self.observers:
                self.observers.sent(Message(identifier, frame[U16.size :]))
