"""A queue that holds so many bytes and no more."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class BoundedQueue(Generic[Item]):
    """Whoever puts more into it than ``limit`` bytes waits until something has been taken out.

    One item larger than the limit is taken when nothing else is there.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._unbounded = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item, size: int = 0) -> None:
        """Add an item of so many bytes; one without bytes never waits."""
        with self._changed:
            if size:
                self._changed.wait_for(lambda: self._unbounded or not self._bytes or self._bytes + size <= self._limit)
            self._items.append((item, size))
            self._bytes += size
            self._changed.notify_all()

    def get(self) -> Item:
        """Take the oldest item, waiting for one."""
        with self._changed:
            self._changed.wait_for(lambda: self._items)
            item, size = self._items.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return item

    def clear(self) -> None:
        """Forget what is there, and let whoever waits with more go on from now on."""
        with self._changed:
            self._items.clear()
            self._bytes, self._unbounded = 0, True
            self._changed.notify_all()
