"""One client: configuration, header, data, results, in the order in which a Gadgetron expects them."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Mapping

from gadgets.monitoring.observers import Observers, Outcome
from gadgets.monitoring.scan_id import SCAN_ID, new_scan_id
from gadgets.mrd.header_xml import read_header
from gadgets.properties import table
from gadgets.protocol import DATA_MESSAGES, Channel, Message, MessageId, PeerLost, ProtocolError, name_of
from gadgets.protocol.admission import Admission
from gadgets.protocol.parameters import CONFIGURATIONS, known_and_unknown, parameters_in
from gadgets.server.chain import Chain, refuse_missing
from gadgets.server.client import Client
from gadgets.server.configuration import (
    Configuration,
    UnknownConfiguration,
    differing_properties,
    find,
    for_scan,
    of_scan,
    parse,
    properties_document,
    refuse_other_modules,
    takes_properties,
)
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
    admission
        Decides whether there may be one more scan.
    """

    def __init__(self, channel: Channel, peer: str, settings: ServerSettings, admission: Admission) -> None:
        self._channel, self._peer, self._settings = channel, peer, settings
        channel.expect(silence=settings.handshake_seconds, within=settings.message_seconds)
        channel.give_up_after(sending=settings.sending_seconds)
        self._scan_id = new_scan_id()
        self._client = Client(channel, settings.stock_client, settings.waiting_bytes)
        self._client.observers = Observers(settings.observers, self._scan_id, self._client.warn_of_observer)
        self._admission, self._admitted = admission, False
        self._chain: Chain | None = None
        self._received: Counter[str] = Counter()
        self._config_name = "no configuration"
        self._closed_by_client = False
        self._understood = True  # whether the stream can still be read message by message

    def run(self) -> None:
        """Everything from the first message to the end of the last process."""
        started = time.monotonic()
        SCAN_ID.set(self._scan_id)
        log.info("session of %s begins", self._peer)
        try:
            self._talk()
        except InputError as error:
            self._understood = not isinstance(error, ProtocolError)
            self._client.report("server", str(error))
        except PeerLost as error:
            self._client.report("server", f"the stream is truncated: {error}")
        except Exception as error:  # the boundary: whatever it is, the client hears of it and the server lives on
            log.exception("session of %s failed", self._peer)
            self._client.report("server", f"{type(error).__name__}: {error}")
        finally:
            try:
                self._finish()
            finally:
                self._channel.close()
                if self._admitted:
                    self._admission.end()
            self._log_end(time.monotonic() - started)
            if self._chain is not None or (
                self._client.errors and self._received
            ):  # who only knocks, or asks, is no scan
                self._client.observers.ended(self._outcome(), time.monotonic() - started)

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
        asked = self._next()
        if asked.id == MessageId.CLOSE:
            return
        # How a client wants to be told of errors shows in its header, so that this is read before anything is said.
        early = self._channel.readable(self._settings.idle_seconds)
        header_xml = self._read_header() if early else None
        self._configuration(asked, {})  # what is wrong with it is said before a scanner begins
        if not early:
            header_xml = self._read_header()
        if header_xml is None:
            return
        header = read_header(header_xml)
        self._channel.expect(silence=self._settings.silence_seconds, within=self._settings.message_seconds)
        first = self._next()
        parameters = self._parameters(first)
        configuration, name = self._configuration(asked, parameters or {})
        self._warn_of_another(asked, parameters or {}, name)
        # Whoever names a configuration as a Gadgetron's client does, and sends no parameters, knows what a plan is.
        plans = not self._client.fire or (parameters is None and name.endswith(".xml") and name == asked.item)
        configuration = self._with_parameters(configuration, parameters or {}, plan_images=plans)
        self._client.writers = configuration.writers
        refuse_missing(configuration)
        self._admission.begin()
        self._admitted = True
        for difference in differing_properties(configuration):
            self._client.warn("server", difference)
        properties = properties_document(configuration)
        configuration = of_scan(configuration, self._scan_id)
        self._chain = Chain(configuration, header_xml, header, self._client, self._client.report, self._settings)
        self._client.observers.began(properties, header_xml, lambda: self._chain.waiting if self._chain else 0)
        if first.id in DATA_MESSAGES or first.id == MessageId.CLOSE:
            self._client.observers.received(first)
        self._stream(configuration, self._chain, first if parameters is None else self._next())

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
            self._client.fire |= message.terminated
            if self._chain is not None and (self._closed_by_client or message.id in DATA_MESSAGES):
                self._client.observers.received(message)
            return message

    def _configuration(self, asked: Message, parameters: Mapping[str, str]) -> tuple[Configuration, str]:
        """The configuration for a scan and its name; raises InputError where there is none."""
        if asked.id == MessageId.CONFIG_SCRIPT:
            self._config_name = "a configuration of its own"
            if not self._settings.allow_client_configs:
                raise InputError(
                    "configurations sent by clients are refused, as they name programs to run; "
                    "name one of the server's, or start it with --allow-client-configs"
                )
            configuration = parse(asked.item)
            refuse_other_modules(configuration, self._settings.allowed_modules)
            return configuration, self._config_name
        if asked.id != MessageId.CONFIG_FILE:
            raise ProtocolError(f"received {name_of(asked.id)} before a configuration")
        unknown: InputError | None = None
        for name in _configuration_names(asked, parameters):
            try:
                document = find(name, self._settings.config_folders)
            except UnknownConfiguration as error:
                unknown = unknown or error
            else:
                self._config_name = name
                return parse(document), name
        # A name without ".xml" is none of a Gadgetron's. The stock chains' names get no other chain than they name.
        if unknown is not None and not self._client.fire and asked.item.endswith(".xml"):
            raise unknown
        self._config_name = self._settings.default_config
        try:
            return parse(find(self._config_name, self._settings.config_folders)), self._config_name
        except UnknownConfiguration as error:
            raise unknown or error from None

    def _warn_of_another(self, asked: Message, parameters: Mapping[str, str], name: str) -> None:
        wanted = _configuration_names(asked, parameters) if asked.id == MessageId.CONFIG_FILE else [name]
        if name not in wanted[:1]:
            first = f"there is no configuration {wanted[0]!r}" if wanted else "no configuration is named"
            self._client.warn("server", f"{first}; {name} is used")

    def _parameters(self, message: Message) -> dict[str, str] | None:
        """The parameters that a message holds; None if it is another message."""
        parameters = parameters_in(message.item) if message.id == MessageId.TEXT else None
        self._client.fire |= parameters is not None
        return parameters

    def _with_parameters(
        self, configuration: Configuration, parameters: Mapping[str, str], *, plan_images: bool
    ) -> Configuration:
        properties, unknown = known_and_unknown(parameters)
        if unknown:
            known = ", ".join(table())
            self._client.warn("server", f"unknown parameters are ignored: {', '.join(unknown)}; known are {known}")
        if properties and not takes_properties(configuration):
            self._client.warn("server", f"no stage of {self._config_name} takes parameters: {', '.join(properties)}")
        told = ", ".join(f"{name}={value}" for name, value in properties.items()) or "no parameters"
        self._client.inform(f"configuration {self._config_name}, {told}")
        if plan_images and not properties:
            return configuration
        return for_scan(configuration, properties, plan_images=plan_images)

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

    def _stream(self, configuration: Configuration, chain: Chain, message: Message) -> None:
        """Hand over this message and all that follow it, until CLOSE."""
        while message.id != MessageId.CLOSE:
            if message.id in configuration.readers:
                chain.put(message)
            elif message.id == MessageId.TEXT:
                log.info("text from %s: %s", self._peer, message.item)
            elif message.id not in DATA_MESSAGES:
                raise ProtocolError(f"received a second or misplaced {name_of(message.id)}")
            else:
                raise ProtocolError(f"the configuration has no reader for {name_of(message.id)} messages")
            message = self._next()

    def _finish(self) -> None:
        if self._chain is not None:
            self._chain.end()
        if self._client.fire and self._understood and not self._closed_by_client:
            # A FIRE client takes CLOSE for the end, stops in the middle of its scan, and calls that a failure to send.
            self._drain_messages(self._settings.idle_seconds)
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
        """Read on until a refused client says CLOSE, or is silent for long.

        Closing a socket on a client that still sends breaks its pipe, and it may lose the message that tells it why.
        """
        if self._understood:
            self._drain_messages(self._settings.refused_seconds)
        if not self._understood:
            self._drain_bytes()

    def _drain_messages(self, patience: float) -> None:
        try:
            self._channel.expect(silence=patience, within=self._settings.message_seconds)
            while self._channel.read_message().id != MessageId.CLOSE:
                pass
            self._closed_by_client = True
        except ProtocolError:
            self._understood = False
        except (PeerLost, OSError):
            pass

    def _drain_bytes(self) -> None:
        quiet_since = time.monotonic()
        with contextlib.suppress(PeerLost, OSError, ValueError):
            while time.monotonic() - quiet_since < self._settings.idle_seconds or not self._client.done.is_set():
                if self._channel.readable(_POLL_SECONDS):
                    if not self._channel.take():
                        return
                    quiet_since = time.monotonic()

    def _outcome(self) -> Outcome:
        if not self._closed_by_client or self._client.lost.is_set():
            return "cut"
        if not self._client.errors:
            return "ok"
        return "with_errors" if self._client.sent else "failed"

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


def _configuration_names(asked: Message, parameters: Mapping[str, str]) -> list[str]:
    """Names of configurations that a client has given, the one to be preferred first."""
    return [name for name in (*(parameters.get(key, "") for key in CONFIGURATIONS), asked.item) if name]


def _counts(counter: Counter[str]) -> str:
    return " ".join(f"{count} {name}" for name, count in counter.items()) or "nothing"
