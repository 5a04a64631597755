"""Those who watch scans: metrics and the keeper of raw data. What fails in them never costs a scan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Literal, Protocol

from gadgets.protocol import Message

log = logging.getLogger(__name__)

Kind = Literal["error", "warning"]
Outcome = Literal["ok", "with_errors", "failed", "cut"]
"""All is well; images though something was at fault; no image; the client was gone before the scan was over."""


class ScanObserver(Protocol):
    """Watches one scan. The calls come from several threads, one at a time for each kind of call."""

    def began(self, configuration: bytes, header: bytes, waiting: Callable[[], int]) -> None:
        """The chain runs: the ``<configuration>`` of its nodes, the MRD header, and how many messages wait in it."""

    def received(self, message: Message) -> None:
        """A data message came, or CLOSE."""

    def sent(self, message: Message) -> None:
        """A data message went to the client."""

    def told(self, kind: Kind, sentence: str) -> None:
        """The client was told of something."""

    def ended(self, outcome: Outcome, seconds: float) -> None:
        """The scan is over, whether it ever began or not."""


Observer = Callable[[str], ScanObserver]
"""Makes the observer of a scan, by the scan's id."""


class Observers:
    """Hands everything on to the observers of a scan; one that raises is dropped for the rest of it.

    Parameters
    ----------
    observers
        Who watches.
    scan_id
        Of the scan.
    lost
        Called with a sentence when an observer is dropped.
    """

    def __init__(self, observers: Iterable[Observer], scan_id: str, lost: Callable[[str], None]) -> None:
        self._lost = lost
        self._watching: list[ScanObserver] = []
        for observer in observers:
            try:
                self._watching.append(observer(scan_id))
            except Exception as error:  # noqa: BLE001, see _each
                lost(_sentence(error))

    def __bool__(self) -> bool:
        return bool(self._watching)

    def began(self, configuration: bytes, header: bytes, waiting: Callable[[], int]) -> None:
        """See `ScanObserver`."""
        self._each("began", configuration, header, waiting)

    def received(self, message: Message) -> None:
        """See `ScanObserver`."""
        self._each("received", message)

    def sent(self, message: Message) -> None:
        """See `ScanObserver`."""
        self._each("sent", message)

    def told(self, kind: Kind, sentence: str) -> None:
        """See `ScanObserver`."""
        self._each("told", kind, sentence)

    def ended(self, outcome: Outcome, seconds: float) -> None:
        """See `ScanObserver`."""
        self._each("ended", outcome, seconds)

    def _each(self, what: str, *arguments: Any) -> None:
        for one in list(self._watching):
            try:
                getattr(one, what)(*arguments)
            except Exception as error:  # the boundary: a full disk is no reason to lose an image
                log.debug("traceback", exc_info=True)
                with suppress(ValueError):  # another thread may have been faster
                    self._watching.remove(one)  # before it is told of, for that is observed too
                    self._lost(_sentence(error))


def _sentence(error: Exception) -> str:
    return str(error) or type(error).__name__
