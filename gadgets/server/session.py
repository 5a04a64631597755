"""One client: configuration, header, data, results, in the order in which a Gadgetron expects them."""

from __future__ import annotations

import contextlib
import logging
import math
import selectors
import threading
import time
from collections import Counter
from typing import Any

import ismrmrd.xsd

from gadgets.protocol import DATA_MESSAGES, Channel, Message, MessageId, PeerLost, ProtocolError, name_of
from gadgets.server.chain import Chain, refuse_missing
from gadgets.server.client import Client
from gadgets.server.configuration import Configuration, differing_properties, find, parse, parse_xml
from gadgets.server.queries import answer
from gadgets.server.settings import ServerSettings
from pass_recon.types import InputError

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1


class Session:
    """Serves one connected client from beginning to end, in the thread that calls `run`.

    Parameters
    ----------
    channel
        The connection.
    peer
        Who it is, for the log.
    settings
        Of the server.
    """

    def __init__(self, channel: Channel, peer: str, settings: ServerSettings) -> None:
        self._channel, self._peer, self._settings = channel, peer, settings
        self._client = Client(channel, errors_as_text_only=settings.stock_client)
        self._chain: Chain | None = None
        self._received: Counter[str] = Counter()
        self._config_name = "no configuration"
        self._closed_by_client = False

    def run(self) -> None:
        """Everything from the first message to the end of the last process."""
        started = time.monotonic()
        log.info("session of %s begins", self._peer)
        try:
            self._talk()
        except InputError as error:
            self._client.report("server", str(error))
        except PeerLost as error:
            self._client.report("server", f"the stream is truncated: {error}")
        except Exception as error:  # the boundary: whatever it is, the client hears of it and the server lives on
            log.exception("session of %s failed", self._peer)
            self._client.report("server", f"{type(error).__name__}: {error}")
        finally:
            self._finish()
            self._log_end(time.monotonic() - started)

    def stop(self) -> None:
        """End the session early, from another thread."""
        self._client.lost.set()
        if self._chain is not None:
            self._chain.abort()
        self._channel.close()

    def kill(self) -> None:
        """Leave no process behind, for those that did not follow `stop`."""
        if self._chain is not None:
            self._chain.kill()

    def _talk(self) -> None:
        configuration = self._read_configuration()
        if configuration is None:
            return
        self._client.writers = configuration.writers
        refuse_missing(configuration)
        for difference in differing_properties(configuration):
            self._client.warn("server", difference)
        header_xml = self._read_header()
        if header_xml is None:
            return
        header = _parse_header(header_xml)
        self._chain = Chain(configuration, header_xml, header, self._client, self._client.report, self._settings)
        self._stream(configuration, self._chain)

    def _next(self) -> Message:
        """The next message that is neither a query, which is answered, nor CLOSE, which is noted."""
        while True:
            message = self._channel.read_message()
            self._received[name_of(message.id)] += 1
            if message.id == MessageId.QUERY:
                correlation, query = message.item
                self._client.respond(correlation, answer(query))
                continue
            self._closed_by_client = message.id == MessageId.CLOSE
            return message

    def _read_configuration(self) -> Configuration | None:
        message = self._next()
        if message.id == MessageId.CLOSE:
            return None
        if message.id == MessageId.CONFIG_FILE:
            self._config_name = message.item
            return parse(find(message.item, self._settings.config_folders))
        if message.id == MessageId.CONFIG_SCRIPT:
            self._config_name = "a configuration of its own"
            if not self._settings.allow_client_configs:
                raise InputError(
                    "configurations sent by clients are refused, as they name programs to run; "
                    "name one of the server's, or start it with --allow-client-configs"
                )
            return parse(message.item)
        raise ProtocolError(f"received {name_of(message.id)} before a configuration")

    def _read_header(self) -> bytes | None:
        while True:
            message = self._next()
            if message.id == MessageId.CLOSE:
                return None
            if message.id == MessageId.HEADER:
                return bytes(message.item)
            if message.id != MessageId.TEXT:
                raise ProtocolError(f"received {name_of(message.id)} where the ISMRMRD header was expected")
            log.info("text from %s: %s", self._peer, message.item)

    def _stream(self, configuration: Configuration, chain: Chain) -> None:
        while (message := self._next()).id != MessageId.CLOSE:
            if message.id in configuration.readers:
                chain.put(message)
            elif message.id == MessageId.TEXT:
                log.info("text from %s: %s", self._peer, message.item)
            elif message.id not in DATA_MESSAGES:
                raise ProtocolError(f"received a second or misplaced {name_of(message.id)}")
            else:
                raise ProtocolError(f"the configuration has no reader for {name_of(message.id)} messages")

    def _finish(self) -> None:
        if self._chain is not None:
            self._chain.end()
        draining = threading.Thread(target=self._drain, name="drain", daemon=True)
        if not self._closed_by_client:
            draining.start()
        self._wait_for_chain()
        self._client.end()
        self._client.done.wait()
        if draining.ident is not None:
            draining.join()
        self._channel.close()

    def _wait_for_chain(self) -> None:
        """Until the results are out; a client that is gone gets little patience."""
        if self._chain is None:
            return
        patience: float | None = None
        while not self._chain.wait(_POLL_SECONDS):
            if not self._closed_by_client and self._channel.reset:
                self._client.lost.set()
            if patience is None and self._client.lost.is_set():
                patience = time.monotonic() + self._settings.grace_seconds
            if patience is not None and time.monotonic() > patience:
                self._chain.abort()
                patience = math.inf

    def _drain(self) -> None:
        """Swallow what a refused client still sends.

        Closing a socket with unread bytes resets the connection, and the client may lose the message that tells it why.
        """
        quiet_since = time.monotonic()
        with selectors.DefaultSelector() as selector, contextlib.suppress(OSError, ValueError):
            selector.register(self._channel.socket, selectors.EVENT_READ)
            while time.monotonic() - quiet_since < self._settings.idle_seconds or not self._client.done.is_set():
                if selector.select(_POLL_SECONDS):
                    if not self._channel.socket.recv(1 << 20):
                        return
                    quiet_since = time.monotonic()

    def _log_end(self, seconds: float) -> None:
        log.info(
            "session of %s ends after %.2f s: %s, received %s, sent %s, %d errors%s",
            self._peer,
            seconds,
            self._config_name,
            _counts(self._received),
            _counts(self._client.sent),
            len(self._client.errors),
            ", client lost" if self._client.lost.is_set() else "",
        )


def _counts(counter: Counter[str]) -> str:
    return " ".join(f"{count} {name}" for name, count in counter.items()) or "nothing"


def _parse_header(document: bytes) -> Any:
    parse_xml(document, "the ISMRMRD header")  # without entities, before less careful parsers see it
    try:
        return ismrmrd.xsd.CreateFromDocument(document)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"not an ISMRMRD header: {error}") from error
