"""Scans under way and the last ones, for the monitor page: what came, what was told, and the newest image of each."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from gadgets.monitoring.metrics import computing_seconds, reason_of, without_pixels
from gadgets.monitoring.observers import Kind, Outcome
from gadgets.mrd import MAP_SERIES, PLAN_SERIES, RECONSTRUCTION_SERIES, finite_number, listed
from gadgets.protocol import Message, MessageId
from pass_recon.common.memory import device_used, limit, used
from pass_recon.types import PassError

_SCANS = 20
_TIMES, _SENTENCES = 60, 20  # of each scan
_HELD_BYTES = 64 << 20  # of images and headers, of all scans


@dataclass
class _Scan:
    """What is known of one scan; its pixels stay bytes until somebody looks at them."""

    id: str
    since: float
    state: str = "running"
    seconds: float = 0.0
    protocol: str = ""
    lines: int = 0
    images: Counter[int] = field(default_factory=Counter)
    plan_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMES))
    image_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMES))
    fallbacks: Counter[str] = field(default_factory=Counter)
    said: dict[tuple[str, str], None] = field(default_factory=dict)  # ordered, without repetitions
    header: bytes = b""
    magnitude: bytes = b""
    anomaly_map: bytes = b""
    slice: tuple[int, ...] = ()
    score: float | None = None
    number: int = 0
    waiting: Callable[[], int] = lambda: 0

    @property
    def held(self) -> int:
        """Bytes."""
        return len(self.header) + len(self.magnitude) + len(self.anomaly_map)

    def forget_pixels(self) -> None:
        """Have no image to show any more."""
        self.header = self.magnitude = self.anomaly_map = b""

    def say(self, kind: str, sentence: str) -> None:
        """Keep a sentence, if there are not too many."""
        if len(self.said) < _SENTENCES:
            self.said[kind, sentence] = None


class LiveScans:
    """Observes scans, and remembers a bounded number of bytes of a bounded number of them.

    No pixel is decoded while a scan runs: an image is drawn when somebody asks for it, in the thread of who asks.
    """

    def __init__(self) -> None:
        self._lock, self._drawing = threading.Lock(), threading.Lock()
        self._scans: dict[str, _Scan] = {}
        self._since = time.time()
        self._drawn: tuple[tuple[str, int], bytes] = (("", 0), b"")

    def __call__(self, scan_id: str) -> _Watched:
        """An observer of this scan."""
        return _Watched(self, scan_id)

    def status(self) -> dict[str, Any]:
        """Everything but pixels, for JSON; the newest scan first. Names of patients are not in it."""
        self._read_headers()
        with self._lock:
            scans = [_told(scan) for scan in reversed(self._scans.values())]
        memory = {"used_bytes": used(), "allowed_bytes": limit(), "device_bytes": device_used()}
        return {"since": self._since, "now": time.time(), "memory": memory, "scans": scans}

    def picture(self, scan_id: str) -> bytes:
        """The newest image of a scan with its map and findings, as PNG; empty if there is none."""
        with self._lock:
            scan = self._scans.get(scan_id)
            if scan is None or not scan.magnitude:
                return b""
            token = (scan.id, scan.number)
            bodies = [body for body in (scan.magnitude, scan.anomaly_map) if body]
        with self._drawing:  # several may look
            if self._drawn[0] != token:
                self._drawn = (token, _drawn(bodies))
            return self._drawn[1]

    def _read_headers(self) -> None:
        """Name the protocols of scans that nobody has asked for before."""
        from gadgets.mrd.header_xml import read_header

        with self._lock:
            unread = [scan for scan in self._scans.values() if scan.header and not scan.protocol]
        for scan in unread:
            scan.protocol = "unnamed protocol"
            with suppress(PassError):
                told: Any = read_header(scan.header).measurementInformation
                scan.protocol = str(getattr(told, "protocolName", None) or scan.protocol)[:200]
            scan.header = b""

    def _scan(self, scan_id: str) -> _Scan:
        """The scan, with the lock held; the oldest one that is over makes room for a new one."""
        if scan_id not in self._scans:
            self._scans[scan_id] = _Scan(scan_id, time.time())
            over = [scan.id for scan in self._scans.values() if scan.state != "running"]
            for oldest in over[: max(len(self._scans) - _SCANS, 0)]:
                del self._scans[oldest]
        return self._scans[scan_id]

    def _make_room(self) -> None:
        """Forget pixels of the oldest scans, with the lock held."""
        held = sum(scan.held for scan in self._scans.values())
        for scan in self._scans.values():
            if held <= _HELD_BYTES:
                return
            held -= scan.held
            scan.forget_pixels()

    def _began(self, scan_id: str, header: bytes, waiting: Callable[[], int]) -> None:
        with self._lock:
            scan = self._scan(scan_id)
            scan.header, scan.waiting = header, waiting
            self._make_room()

    def _received(self, scan_id: str) -> None:
        with self._lock:
            self._scan(scan_id).lines += 1

    def _sent(self, scan_id: str, body: bytes) -> None:
        head, meta = without_pixels(body)
        series, place = int(head.image_series_index), _place(head)
        with self._lock:
            scan = self._scan(scan_id)
            scan.images[series] += 1
            is_plan = "PASS_lines" in meta
            if is_plan or series == RECONSTRUCTION_SERIES:
                seconds = finite_number(computing_seconds(meta)) or 0.0
                (scan.plan_seconds if is_plan else scan.image_seconds).append(seconds)
                for sentence in listed(meta.get("PASS_fallback")):
                    scan.fallbacks[reason_of(sentence)] += 1
                    scan.say("fallback", sentence)
                for sentence in listed(meta.get("PASS_quality_reason")):
                    scan.say("data", sentence)
            if series == RECONSTRUCTION_SERIES:
                scan.magnitude, scan.anomaly_map, scan.slice = body, b"", place
                scan.score, scan.number = finite_number(meta.get("PASS_anomaly_score")), scan.number + 1
            elif series == MAP_SERIES and place == scan.slice:
                scan.anomaly_map, scan.number = body, scan.number + 1
            self._make_room()

    def _told(self, scan_id: str, kind: Kind, sentence: str) -> None:
        with self._lock:
            self._scan(scan_id).say(kind, sentence)

    def _ended(self, scan_id: str, outcome: Outcome, seconds: float) -> None:
        with self._lock:
            scan = self._scan(scan_id)
            scan.state, scan.seconds, scan.waiting = outcome, seconds, lambda: 0


class _Watched:
    """One scan among the live ones; who only knocks is none, whatever he was told."""

    def __init__(self, live: LiveScans, scan_id: str) -> None:
        self._live, self._id = live, scan_id
        self._begun = False
        self._early: deque[tuple[Kind, str]] = deque(maxlen=_SENTENCES)

    def began(self, configuration: bytes, header: bytes, waiting: Callable[[], int]) -> None:
        self._live._began(self._id, header, waiting)
        self._begin()

    def _begin(self) -> None:
        self._begun = True
        while self._early:
            self._live._told(self._id, *self._early.popleft())

    def received(self, message: Message) -> None:
        if message.id == MessageId.ACQUISITION:
            self._live._received(self._id)

    def sent(self, message: Message) -> None:
        if message.id == MessageId.IMAGE:
            self._live._sent(self._id, message.body)

    def told(self, kind: Kind, sentence: str) -> None:
        self._early.append((kind, sentence))
        if self._begun:
            self._begin()

    def ended(self, outcome: Outcome, seconds: float) -> None:
        self._begin()
        self._live._ended(self._id, outcome, seconds)


def _told(scan: _Scan) -> dict[str, Any]:
    running = scan.state == "running"
    return {
        "id": scan.id,
        "state": scan.state,
        "since": scan.since,
        "seconds": time.time() - scan.since if running else scan.seconds,
        "protocol": scan.protocol,
        "lines": scan.lines,
        "waiting": scan.waiting(),
        "plans": scan.images[PLAN_SERIES],
        "images": scan.images[RECONSTRUCTION_SERIES],
        "plan_seconds": list(scan.plan_seconds),
        "image_seconds": list(scan.image_seconds),
        "fallbacks": dict(scan.fallbacks),
        "said": [{"kind": kind, "sentence": sentence} for kind, sentence in scan.said],
        "image": {"number": scan.number, "slice": scan.slice[0], "score": scan.score} if scan.magnitude else None,
    }


def _drawn(bodies: Iterable[bytes]) -> bytes:
    """PNG of a magnitude and its map."""
    from gadgets.converters.scan_record import scan_of_images
    from pass_recon.report.monitor import live_picture

    images = [Message(MessageId.IMAGE, body).item for body in bodies]
    return live_picture(scan_of_images(images, b"").slices[0])


def _place(head: Any) -> tuple[int, ...]:
    return tuple(int(getattr(head, name)) for name in ("slice", "contrast", "phase", "repetition", "set"))
