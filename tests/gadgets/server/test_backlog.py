"""What waits for a gadget, and is remembered for the next."""

from __future__ import annotations

import threading

from gadgets.protocol import Message, MessageId
from gadgets.server.backlog import Backlog, Repeats


def message(number: int, size: int = 10) -> Message:
    return Message(MessageId.ACQUISITION, bytes([number]) * size)


def test_a_second_reader_begins_with_the_first_message() -> None:
    backlog = Backlog(waiting=1000, kept=1000)
    for number in range(4):
        backlog.put(message(number))
    first = backlog.read()
    assert [next(first).body[0] for _ in range(3)] == [0, 1, 2]
    backlog.end()
    assert [one.body[0] for one in backlog.read()] == [0, 1, 2, 3]
    assert list(first) == [], "whoever was there before gets no more"


def test_what_is_too_much_to_remember_is_forgotten_once_given() -> None:
    backlog = Backlog(waiting=1000, kept=25)
    for number in range(4):
        backlog.put(message(number))
    backlog.end()
    assert backlog.whole
    assert [one.body[0] for one in backlog.read()] == [0, 1, 2, 3]
    assert not backlog.whole


def test_whoever_brings_more_than_may_wait_waits() -> None:
    backlog = Backlog(waiting=25, kept=1000)
    brought: list[int] = []

    def bring() -> None:
        for number in range(5):
            backlog.put(message(number))
            brought.append(number)

    bringing = threading.Thread(target=bring)
    bringing.start()
    reader = backlog.read()
    bringing.join(0.3)
    assert len(brought) == 2
    assert [next(reader).body[0] for _ in range(5)] == [0, 1, 2, 3, 4]
    bringing.join(10)
    assert not bringing.is_alive()


def test_refusing_lets_everybody_go() -> None:
    backlog = Backlog(waiting=5, kept=1000)
    backlog.put(message(0))
    bringing = threading.Thread(target=backlog.put, args=(message(1),))
    bringing.start()
    backlog.refuse()
    bringing.join(10)
    assert not bringing.is_alive()
    assert list(backlog.read()) == []


def test_repeats_are_told_by_number_and_not_by_their_pixels() -> None:
    repeats = Repeats()
    image = Message(MessageId.IMAGE, bytes(300))
    other = Message(MessageId.IMAGE, bytes(198) + b"x" * 102)
    assert [repeats.is_new(one) for one in (image, image, message(1))] == [True] * 3
    repeats.begin_again()
    assert [repeats.is_new(one) for one in (other, other, other, message(1), message(2))] == [
        False, False, True, False, True,
    ]  # fmt: skip
