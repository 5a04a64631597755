"""A node in another process: messages that it accepts go there, all others pass by it."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time

from gadgets import protocol
from gadgets.monitoring.scan_id import in_this_scan
from gadgets.protocol import Channel, Message, MessageId, PeerLost, ProtocolError, name_of
from gadgets.server.backlog import Backlog, Repeats
from gadgets.server.configuration import WHOLE_CHAIN, Connect, Execute, External
from gadgets.server.nodes import Report, Sink
from gadgets.server.process import Process
from gadgets.server.settings import ServerSettings
from pass_recon.types import InputError

log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.1


class GadgetLost(InputError):
    """A gadget could not be reached or went away."""


class GadgetKilled(GadgetLost):
    """A gadget was killed before it connected, which says nothing against another one."""


class ExternalNode:
    """The server's end of an ``<external>`` node.

    What the process does not accept is handed on by whoever brings it, at once. A writer thread feeds the process and a
    reader thread takes what it returns, so that a process that computes and does not read delays nobody but itself.
    """

    def __init__(
        self, config: External, header: bytes, downstream: Sink, report: Report, settings: ServerSettings
    ) -> None:
        self._config, self._header, self._settings = config, header, settings
        self._downstream, self._report_at = downstream, report
        action = config.action
        self.name = action.module if isinstance(action, Execute) else f"{action.address}:{action.port}"
        self._backlog = Backlog(settings.waiting_bytes, settings.kept_bytes)
        self._repeats = Repeats()
        self._told = False  # the process has reported an error itself
        self._aborted = threading.Event()
        self._sources = 2  # of messages for downstream: those that pass by, and those that the process returns
        self._ending = threading.Lock()
        self._channel: Channel | None = None
        self._process: Process | None = None
        self._thread = threading.Thread(target=in_this_scan(self._run), name=self.name, daemon=True)

    @property
    def waiting(self) -> int:
        """How many messages the process has not taken yet."""
        return self._backlog.not_given

    def start(self) -> None:
        """Reach for the process."""
        self._thread.start()

    def put(self, message: Message) -> None:
        """Hand a message to the process, or past it."""
        if message.id not in self._config.accepts:
            self._downstream.put(message)
        else:
            self._backlog.put(message)

    def end(self) -> None:
        """Say CLOSE to the process once it has all that came before."""
        self._backlog.end()
        self._end_source()

    def abort(self) -> None:
        """Cut the connection and ask the process to go."""
        self._aborted.set()
        self._backlog.refuse()
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End the process whatever it is doing."""
        if self._process is not None:
            self._process.kill()

    def join(self, seconds: float | None = None) -> bool:
        """Wait until the process is reaped; False if it still is not."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _report(self, message: str) -> None:
        self._report_at(self.name, message)

    def _end_source(self) -> None:
        with self._ending:
            self._sources -= 1
            last = self._sources == 0
        if last:
            self._downstream.end()

    def _run(self) -> None:
        error = self._attempt(self._config.action)
        if isinstance(error, PeerLost | GadgetLost) and not self._aborted.is_set() and self._backlog.whole:
            error = self._again(error)
        self._backlog.refuse()
        self._end_source()  # before the process is gone: what comes after it need not wait for that
        self._leave(error)

    def _attempt(self, action: Execute | Connect) -> Exception | None:
        """Hold the conversation from the first message to the last; returns what has ended it, None for CLOSE."""
        try:
            self._channel = channel = self._open(action)
            if not self._aborted.is_set():
                channel.send(protocol.config_script(self._config.configuration))
                channel.send(protocol.header(self._header))
                threading.Thread(target=self._write, args=(channel,), name=f"to-{self.name}", daemon=True).start()
                self._read(channel)
        except (InputError, PeerLost, OSError) as raised:
            return raised
        except Exception as raised:  # a thread that dies in silence would leave the session waiting for ever
            log.exception("%s failed", self.name)
            return GadgetLost(f"{type(raised).__name__}: {raised}")
        return None

    def _again(self, error: Exception) -> Exception | None:
        """Once more from the first message, after a gadget was killed; what it has given already is not given again."""
        action = self._substitute(error)
        if action is None:
            return error
        ended = self._hang_up()
        self._report(
            f"{protocol.WARNING}{self._verdict(error, ended)}; {action.module} is started with the "
            f"{len(self._backlog)} messages that have come"
        )
        self._process = None
        self._repeats.begin_again()
        return self._attempt(action)

    def _substitute(self, error: Exception) -> Execute | None:
        """What is started in place of a gadget that is gone: the same module, or for our resident the chain."""
        if isinstance(self._config.action, Execute):
            return self._config.action if isinstance(error, PeerLost | GadgetKilled) else None
        return WHOLE_CHAIN if self._config.action.fallback else None

    def _write(self, channel: Channel) -> None:
        with contextlib.suppress(PeerLost):  # the reader notices it too, and has more to say
            for message in self._backlog.read():
                channel.send(message.frame)
            channel.send(protocol.close())

    def _read(self, channel: Channel) -> None:
        while (message := channel.read_message()).id != MessageId.CLOSE:
            if message.id == MessageId.ERROR:
                self._told = True
                self._report(message.item)
                self._backlog.refuse()  # as the real server does, see gadgets.protocol.messages
            elif message.id in self._config.returns - {MessageId.TEXT}:
                if self._repeats.is_new(message):
                    self._downstream.put(message)
            else:
                raise ProtocolError(f"sent a {name_of(message.id)} message, which the configuration has no reader for")

    def _leave(self, error: Exception | None) -> None:
        """Close the connection, give the process its time to end by itself, and report what went wrong."""
        ended = self._hang_up()
        if not self._aborted.is_set() and (verdict := self._verdict(error, ended)):
            self._report(verdict)

    def _hang_up(self) -> bool:
        """Close the connection and wait for the process; False where it had to be killed."""
        if self._channel is not None:
            self._channel.close()
        ended = self._process is None or self._process.wait(self._settings.grace_seconds) is not None
        if self._process is not None and not ended:
            log.warning("%s still runs %g s after its work and is killed", self.name, self._settings.grace_seconds)
            self._process.kill()
        return ended

    def _verdict(self, error: Exception | None, ended: bool) -> str:
        process = self._process if ended else None
        if isinstance(error, PeerLost):
            return f"went away in mid-scan, {process.ending() if process else error}"
        if error is not None:
            return str(error)
        return f"ended with {process.ending()}" if process and process.failed and not self._told else ""

    def _open(self, action: Execute | Connect) -> Channel:
        return self._execute(action) if isinstance(action, Execute) else self._connect(action)

    def _execute(self, execute: Execute) -> Channel:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.settimeout(_RETRY_SECONDS)
            self._process = process = Process(execute, listening.getsockname()[1])
            deadline = time.monotonic() + self._settings.start_seconds
            while time.monotonic() < deadline and not self._aborted.is_set():
                with contextlib.suppress(TimeoutError):
                    return Channel(listening.accept()[0])
                if process.exited:
                    raise (GadgetKilled if process.killed else GadgetLost)(
                        f"ended before it connected, {process.ending()}"
                    )
        raise GadgetLost(f"did not connect within {self._settings.start_seconds:g} s")

    def _connect(self, connect: Connect) -> Channel:
        deadline = time.monotonic() + self._settings.connect_seconds
        while True:
            try:
                return Channel.connect(connect.address, connect.port, timeout=max(deadline - time.monotonic(), 0.1))
            except OSError as error:
                if time.monotonic() + _RETRY_SECONDS > deadline or self._aborted.is_set():
                    seconds = self._settings.connect_seconds
                    raise GadgetLost(f"no gadget listens there ({error}; tried for {seconds:g} s)") from error
            self._aborted.wait(_RETRY_SECONDS)
