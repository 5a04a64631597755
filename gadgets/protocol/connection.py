"""The guarded connection of a gadget to its server, and how errors reach the user.

What the protocol needs and the library does not do:

- **Never stop reading.** A server forwards messages that are none of our business from the thread that writes to us; if
  we compute and let the socket fill, plans wait. So a thread of its own drains the socket into a queue that only
  memory bounds.
- **Errors are messages.** An exception that leaves a gadget looks like a normal end to the client. A scan-wide fault is
  sent at once; a `Failure` that leaves something to show is kept until all input has come, because a server that
  receives an Error gives that gadget nothing more.
- **A lost peer ends the process**, with one line in the log, even while something is being computed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, NoReturn
from xml.etree import ElementTree

import ismrmrd
import numpy as np
from gadgetron.external.connection import Connection
from gadgetron.types.recon_data import ReconData

from gadgets import protocol
from gadgets.monitoring.scan_id import META, scan_id_of
from gadgets.mrd import ScanContext
from gadgets.properties import Properties
from gadgets.protocol import MessageId, name_of
from gadgets.protocol.bounded import BoundedQueue
from gadgets.protocol.parameters import known_and_unknown, parameters_in
from pass_recon.common.memory import keep_to_what_was_told, limit
from pass_recon.common.process import prepare_process
from pass_recon.common.xml import parse_xml
from pass_recon.types import PassError

_log = logging.getLogger(__name__)

# The server refuses int16, int32, uint8 and bool; int64 would be written under a wrong id and corrupt the stream.
_IMAGE_TYPES = tuple(np.dtype(kind) for kind in ("uint16", "uint32", "float32", "complex64"))
_ABANDON_AFTER_S = 3.0
_LINGER_S = 2.0
_HANDSHAKE_S = 30.0
# Of lines alone, which no plan comes after: as much as keeps a reader busy.
_LINES_AHEAD = 64 << 20
_MAXIMUM_REPORTS = 20


@dataclass(frozen=True)
class Failure:
    """Something went wrong that did not stop the scan: a sentence for the user, sent as an Error message.

    Attributes
    ----------
    message
        What happened, with the slice and the value.
    severity
        ``"input"``: the data are at fault. ``"processing"``: a model or the device. ``"warning"``: nothing is lost,
        though it is not what was asked for; the Error message says that it is none.
    """

    message: str
    severity: Literal["input", "processing", "warning"]


def _said(failure: Failure) -> str:
    return f"{protocol.WARNING}{failure.message}" if failure.severity == "warning" else failure.message


# A stage: what comes in, the scan → what goes out. `prepare(scan)` may take long, and makes the stage.
Stage = Callable[[Iterator[Any]], Iterable[Any]]


class GadgetConnection:
    """A gadget's end of a conversation: items in from a queue that fills by itself, items out in one write each.

    Parameters
    ----------
    channel
        Connected, with the handshake done.
    config, header
        The node's ``<configuration>`` (None without one) and the ISMRMRD header.
    on_lost
        Called on the reading thread when the peer goes away without CLOSE.
    patient
        Keep an error that ends the scan until all input has come: behind ``<connect>`` a server that receives an Error
        hangs up on its client while that still sends, and the client never reads the sentence.
    ahead
        Bytes to read ahead; by default up to where the machine would suffer.

    Attributes
    ----------
    texts
        What came as Text.
    scan_id
        Told with each image; empty to tell none.
    on_sent
        Called with each message that went out.
    """

    def __init__(
        self,
        channel: protocol.Channel,
        config: ElementTree.Element | None,
        header: bytes,
        on_lost: Callable[[], None] = lambda: None,
        *,
        patient: bool = False,
        ahead: int | None = None,
    ) -> None:
        # A server hands on what its client sent, and some clients count a NUL into the length.
        self.config, self.header = config, header.partition(b"\0")[0]
        self.texts: list[str] = []
        self.scan_id = scan_id_of(config)
        self.on_sent: Callable[[bytes], None] | None = None
        self._patient = patient
        self.forward: Callable[[Any], bool] | None = None
        self._channel, self._on_lost = channel, on_lost
        # See above why not to read is the lesser evil only when the machine would suffer, or nothing passes through us.
        most = limit() // 4 if ahead is None else min(ahead, limit() // 4)
        self._queue: BoundedQueue[protocol.Message | Exception | None] = BoundedQueue(most)
        self._failures: list[Failure] = []
        self._unreadable = False
        threading.Thread(target=self._drain, name="reader", daemon=True).start()

    @classmethod
    def adopt(cls, connection: Connection, on_lost: Callable[[], None] = lambda: None) -> GadgetConnection:
        """Take over the connection that ``python -m gadgetron`` has opened."""
        channel = protocol.Channel(connection.socket.socket)
        adopted = cls(channel, connection.config, connection.raw_bytes.header, on_lost)
        connection.socket = _AlreadyClosed()
        return adopted

    @classmethod
    def accept(cls, connected: socket.socket) -> GadgetConnection:
        """Read the handshake of a server that has connected to us; raises PeerLost, ProtocolError."""
        channel = protocol.Channel(connected)
        channel.expect(silence=_HANDSHAKE_S, within=_HANDSHAKE_S)
        parts = []
        for expected in (MessageId.CONFIG_SCRIPT, MessageId.HEADER):
            message = channel.read_message()
            if message.id != expected:
                raise protocol.ProtocolError(f"expected {expected.name} in the handshake, got message {message.id}")
            parts.append(message.item)
        # Inside <distributed> a server sends an empty configuration, elsewhere a declaration alone where there is none.
        empty = not re.sub(rb"<\?xml[^>]*\?>", b"", parts[0]).strip()
        config = None if empty else parse_xml(parts[0], "the configuration")
        channel.expect(silence=math.inf, within=math.inf)  # how long a scanner may pause is for the server to say
        return cls(channel, config, parts[1], patient=True, ahead=_LINES_AHEAD)

    @property
    def failures(self) -> Sequence[Failure]:
        """What went wrong so far."""
        return self._failures

    @property
    def waiting(self) -> int:
        """How many messages came that nobody has taken yet."""
        return len(self._queue)

    def items(self) -> Iterator[Any]:
        """What the server sends, until it sends CLOSE.

        Raises
        ------
        PeerLost
            The server went away.
        ProtocolError
            It sent what cannot be understood.
        """
        while (entry := self._queue.get()) is not None:
            if isinstance(entry, Exception):
                raise entry
            yield entry.item
        self._queue.put(None)  # the end stays the end for whoever asks again

    def send(self, item: Any) -> None:
        """Send an item in one write; a `Failure` is logged and kept for the end. Any thread may call this.

        Raises
        ------
        TypeError
            If the server would refuse the item.
        PeerLost
            If nobody is there to take it.
        """
        if isinstance(item, Failure):
            _log.warning("%s", item.message)
            self._failures.append(item)
        else:
            check_types(item)
            if self.scan_id and isinstance(item, ismrmrd.Image):
                item.meta[META] = self.scan_id
            self._channel.send(frame := protocol.encode(item))
            if self.on_sent is not None:
                self.on_sent(frame)

    def finish(self) -> None:
        """Tell the failures, say CLOSE and hang up; never raises, because nothing more can be done about it."""
        messages = list(dict.fromkeys(_said(failure) for failure in self._failures))
        if len(messages) > _MAXIMUM_REPORTS:
            messages[_MAXIMUM_REPORTS:] = [f"and {len(messages) - _MAXIMUM_REPORTS} more failures, see the log"]
        try:
            for message in messages:
                self._channel.send(protocol.error(message))
            self._channel.send(protocol.close())
        except protocol.PeerLost as error:
            _log.warning("could not say CLOSE: %s", error)
        self.hang_up()

    def hang_up(self) -> None:
        """Close the socket without a word."""
        self._channel.close()

    def fail(self, sentence: str) -> None:
        """Report a fault that ends the scan, then read on until CLOSE: the server must not be stuck writing to us."""
        _log.error("%s", sentence)
        if not self._patient:
            self._report(sentence)
        while self._queue.get() is not None:
            pass
        if self._patient:
            self._report(sentence)
        if self._unreadable:
            self._linger()
        self.finish()

    def _report(self, sentence: str) -> None:
        try:
            self._channel.send(protocol.error(sentence))
        except protocol.PeerLost as error:
            _log.warning("could not report it: %s", error)

    def _linger(self) -> None:
        """Take bytes that nobody understands for a while: hanging up on them would destroy what we have sent."""
        until = time.monotonic() + _LINGER_S
        with contextlib.suppress(OSError):
            self._channel.socket.settimeout(_LINGER_S)
            while time.monotonic() < until and self._channel.socket.recv(1 << 16):
                pass

    def _drain(self) -> None:
        try:
            while (message := self._channel.read_message()).id != MessageId.CLOSE:
                if message.id in protocol.DATA_MESSAGES:
                    self._deliver(message)
                else:
                    _log.info("%s from the server: %s", name_of(message.id), message.item)
                    if message.id == MessageId.TEXT:
                        self.texts.append(message.item)
        except protocol.ProtocolError as error:
            self._unreadable = True
            self._queue.put(error)
        except (protocol.PeerLost, OSError) as error:
            self._queue.clear()  # nobody waits for what could still be made of it
            self._queue.put(protocol.PeerLost(str(error)))
            self._on_lost()
        except Exception as error:  # noqa: BLE001, a thread that ends in silence would look like the end of the scan
            self._unreadable = True
            self._queue.put(PassError(f"what the server sent could not be taken: {type(error).__name__}: {error}"))
        finally:
            self._queue.put(None)

    def _deliver(self, message: protocol.Message) -> None:
        # A message that is to be passed on goes at once, from here: it must not wait for what is being computed.
        if self.forward is not None and self.forward(message.item):
            self._channel.send(message.frame)
        else:
            self._queue.put(message, len(message.body))


def run_gadget(
    connection: Connection, prepare: Callable[[ScanContext], Stage], *, forward: Callable[[Any], bool] | None = None
) -> NoReturn:
    """Run a stage in a process of its own, as ``python -m gadgetron PORT module target`` starts it.

    Parameters
    ----------
    connection
        What Gadgetron's main program hands over.
    prepare
        Makes the stage; meanwhile messages queue up.
    forward
        Messages that are passed on untouched, as soon as they come.

    Notes
    -----
    Does not return: the process exits with status 0, or with 1 if the peer was lost or the scan failed, which the log
    has said in one line.
    """
    run_to_exit(connection, lambda guarded: converse(guarded, prepare, forward=forward))


def run_to_exit(connection: Connection, hold: Callable[[GadgetConnection], bool]) -> NoReturn:
    """The same with the conversation that ``hold`` holds, see `converse`."""
    prepare_process()
    keep_to_what_was_told()
    guarded = GadgetConnection.adopt(connection, on_lost=_abandon_later)
    try:
        succeeded = hold(guarded)
    except protocol.PeerLost as error:
        _log.error("the server is gone: %s", error)
        succeeded = False
    # The server waits for us to exit, and so does the client: Python would spend a third of a second on taking torch
    # apart, and a late plan that is still being computed on its daemon thread could crash in the middle of it.
    logging.shutdown()
    os._exit(0 if succeeded else 1)


def converse(
    connection: GadgetConnection,
    prepare: Callable[[ScanContext], Stage],
    *,
    forward: Callable[[Any], bool] | None = None,
    whole_chain: bool = False,
) -> bool:
    """Hold one conversation to its end; False if the scan failed and the client was told so.

    Parameters
    ----------
    connection, prepare, forward
        As for `run_gadget`.
    whole_chain
        Whether the stage is all there is of the chain, so that parameters sent as Text before the data count. One stage
        of four gets them alone, and could only disagree with the others.

    Raises
    ------
    PeerLost
        If there is nobody left to tell.
    """
    try:
        properties = Properties.from_xml(connection.config)
        stage, fault = _prepared(connection, prepare, properties)
        connection.forward = forward if stage is not None else None
        items = connection.items()
        first = next(items, None)
        if given := _parameters(connection, whole_chain=whole_chain):
            stage, fault = _prepared(connection, prepare, replace(properties, **given))
        # Of the nodes of a chain only the one that is given something says what is wrong: once is enough.
        if fault is not None and first is not None:
            raise fault
        if stage is not None:  # also where nothing came: then it is the stage that says so
            for item in stage(items if first is None else chain([first], items)):
                connection.send(item)
            for _ in items:  # a stage may end early, but to hang up before CLOSE would break the server's pipe
                pass
    except protocol.PeerLost:
        connection.hang_up()
        raise
    except PassError as error:
        connection.fail(str(error))
        return False
    except Exception as error:  # noqa: BLE001, the boundary: otherwise the client would see a normal end
        _log.debug("traceback", exc_info=True)
        connection.fail(f"{type(error).__name__}: {error}")
        return False
    connection.finish()
    return True


def check_types(item: Any) -> None:
    """Refuse what the server would refuse, or what would corrupt the stream; raises TypeError."""
    if isinstance(item, ismrmrd.Image) and item.data.dtype not in _IMAGE_TYPES:
        known = ", ".join(kind.name for kind in _IMAGE_TYPES)
        raise TypeError(f"an image of {item.data.dtype} cannot be sent, only {known}")
    if isinstance(item, ReconData):
        for buffer in (buffer for bit in item for buffer in (bit.data, bit.ref) if buffer is not None):
            if buffer.data.dtype != np.complex64:
                raise TypeError(f"a buffer of {buffer.data.dtype} cannot be sent, only complex64")


def _prepared(
    connection: GadgetConnection, prepare: Callable[[ScanContext], Stage], properties: Properties
) -> tuple[Stage | None, PassError | None]:
    try:
        return prepare(ScanContext(connection.header, properties)), None
    except PassError as error:
        return None, error


def _parameters(connection: GadgetConnection, *, whole_chain: bool) -> dict[str, Any]:
    """Properties that came as Text before the data, by name."""
    parameters: dict[str, str] = {}
    for text in connection.texts:
        parameters |= parameters_in(text) or {}
    if parameters and not whole_chain:
        _log.warning("parameters of the scan are ignored: they reach this stage of the chain only: %s", parameters)
        return {}
    known, unknown = known_and_unknown(parameters)
    if unknown:
        _log.warning("unknown parameters of the scan are ignored: %s", ", ".join(unknown))
    asked = Properties.from_text(known)
    return {name: getattr(asked, name) for name in known}


def _abandon_later() -> None:
    # Whatever is being computed has no reader any more, and torch cannot be interrupted.
    timer = threading.Timer(_ABANDON_AFTER_S, os._exit, args=(1,))
    timer.daemon = True
    timer.start()


class _AlreadyClosed:
    """Stands in for the library's socket, which would send CLOSE into a closed one when its ``with`` block is left."""

    def close(self) -> None:
        """Nothing is left to close."""
