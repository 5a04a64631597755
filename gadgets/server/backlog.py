"""What waits to be sent to a gadget, and what it has been sent, for another that takes its place."""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from collections.abc import Iterator

from gadgets.protocol import Message, MessageId
from gadgets.protocol.messages import IMAGE_HEAD_BYTES


class Backlog:
    """A queue of messages that remembers what it has given out.

    Parameters
    ----------
    waiting
        Bytes that may wait; whoever brings more has to wait itself, and with it the client.
    kept
        Bytes that are remembered; beyond them nothing is, and nobody can take the gadget's place any more.
    """

    def __init__(self, waiting: int, kept: int) -> None:
        self._waiting, self._kept = waiting, kept
        self._messages: list[Message] = []
        self._forgotten = 0  # how many messages lie no longer in front of these
        self._given = 0  # how many have been given out
        self._bytes_waiting = self._bytes_kept = 0
        self._ended = self._refusing = False
        self._reader = 0
        self._changed = threading.Condition()

    @property
    def not_given(self) -> int:
        """How many messages wait."""
        return self._forgotten + len(self._messages) - self._given

    def put(self, message: Message) -> None:
        """Add a message, once there is room."""
        size = len(message.body)
        with self._changed:
            self._changed.wait_for(
                lambda: self._refusing or not self._bytes_waiting or self._bytes_waiting + size <= self._waiting
            )
            if self._refusing:
                return
            self._messages.append(message)
            self._bytes_waiting += size
            self._changed.notify_all()

    def end(self) -> None:
        """No more messages."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def refuse(self) -> None:
        """Nobody wants messages any more: whoever waits goes on."""
        with self._changed:
            self._refusing = True
            self._changed.notify_all()

    @property
    def whole(self) -> bool:
        """Whether nothing has been forgotten."""
        return not self._forgotten

    def __len__(self) -> int:
        return self._forgotten + len(self._messages)

    def read(self) -> Iterator[Message]:
        """All messages from the first to the end; whoever has read before gets no more."""
        with self._changed:
            self._reader += 1
            reader = self._reader
            self._changed.notify_all()
        number = self._forgotten
        while (message := self._next(reader, number)) is not None:
            yield message
            number += 1

    def _next(self, reader: int, number: int) -> Message | None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._refusing or reader != self._reader or self._ended or number < len(self)
            )
            if self._refusing or reader != self._reader or number >= len(self):
                return None
            message = self._messages[number - self._forgotten]
            if number >= self._given:
                self._given = number + 1
                self._bytes_waiting -= len(message.body)
                self._bytes_kept += len(message.body)
                if self._bytes_kept > self._kept:
                    del self._messages[: self._given - self._forgotten]
                    self._forgotten = self._given
                self._changed.notify_all()
            return message


class Repeats:
    """Knows what a gadget has given already, so that another one in its place does not give it twice."""

    def __init__(self) -> None:
        self._given: Counter[int] = Counter()
        self._left: Counter[int] = Counter()

    def begin_again(self) -> None:
        """Another gadget begins with the first message."""
        self._left = self._given.copy()

    def is_new(self, message: Message) -> bool:
        """Whether this has not come from the gadget before."""
        known = _fingerprint(message)
        if self._left[known]:
            self._left[known] -= 1
            return False
        self._given[known] += 1
        return True


def _fingerprint(message: Message) -> int:
    # The header of an image tells which one it is; its pixels may differ in the last digit, and its meta tells times.
    told = message.body[:IMAGE_HEAD_BYTES] if message.id == MessageId.IMAGE else message.body
    return hash((message.id, zlib.crc32(told), len(told)))
