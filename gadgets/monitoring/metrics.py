"""What Prometheus is told: counts and times of scans, queues, memory. Needs the extra ``metrics``."""

from __future__ import annotations

import threading
from collections.abc import Callable

import ismrmrd
from ismrmrd import Meta

from gadgets.monitoring.observers import Kind, Outcome
from gadgets.mrd import listed
from gadgets.protocol import Message, MessageId
from gadgets.protocol.bytes import U64
from gadgets.protocol.messages import IMAGE_HEAD_BYTES
from pass_recon.common.memory import device_used
from pass_recon.types import InputError

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PREFIX = "PASS_seconds_"
# Why something was done in another way than asked, by what the sentence says; labels must be few, sentences are not.
_REASONS = (
    ("deadline", "deadline"),
    ("out of memory", "out_of_memory"),
    ("outofmemory", "out_of_memory"),
    ("nan or infinite", "not_finite"),
    ("no plan was made", "no_plan"),
)


def reason_of(sentence: str) -> str:
    """One word for a sentence that tells of a fallback."""
    said = sentence.lower()
    return next((word for part, word in _REASONS if part in said), "failure")


class Metrics:
    """Observes scans and answers with Prometheus' text format.

    Raises
    ------
    InputError
        If prometheus_client is not installed.
    """

    def __init__(self) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError:
            raise InputError("metrics need prometheus_client: pip install 'pass-gadgetron[metrics]'") from None
        prometheus.disable_created_metrics()  # when each was first counted is asked for by nobody
        self._text = prometheus.generate_latest
        self.registry = registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)  # memory, descriptors and processor time of this process
        self._scans = prometheus.Counter("pass_scans", "Scans by how they ended", ["outcome"], registry=registry)
        self._in_flight = prometheus.Gauge("pass_scans_in_flight", "Scans under way", registry=registry)
        self._waiting_now = prometheus.Gauge(
            "pass_messages_waiting", "Messages that wait for a gadget", registry=registry
        )
        self._waiting_now.set_function(self._all_waiting)
        self._images = prometheus.Counter("pass_images", "Images sent, by series", ["series"], registry=registry)
        self._plan = prometheus.Histogram(
            "pass_plan_seconds", "Time to make a plan", buckets=_SECONDS, registry=registry
        )
        self._image = prometheus.Histogram(
            "pass_image_seconds", "Time to make an image", buckets=_SECONDS, registry=registry
        )
        self._scan = prometheus.Histogram(
            "pass_scan_seconds",
            "From the first to the last message",
            buckets=(*_SECONDS, 60, 300, 1800),
            registry=registry,
        )
        self._fallbacks = prometheus.Counter("pass_fallbacks", "Fallbacks by reason", ["reason"], registry=registry)
        self._quality = prometheus.Counter("pass_quality_findings", "Faults of data", ["finding"], registry=registry)
        self._messages = prometheus.Counter("pass_messages_told", "Errors and warnings", ["kind"], registry=registry)
        device = prometheus.Gauge("pass_device_memory_bytes", "Memory that torch holds on the GPU", registry=registry)
        device.set_function(device_used)
        for outcome in ("ok", "with_errors", "failed", "cut"):
            self._scans.labels(outcome)
        self._lock = threading.Lock()
        self._waiting: dict[str, Callable[[], int]] = {}

    def __call__(self, scan_id: str) -> _ScanMetrics:
        """An observer of this scan."""
        return _ScanMetrics(self, scan_id)

    def text(self) -> bytes:
        """What ``/metrics`` answers."""
        return bytes(self._text(self.registry))

    def _all_waiting(self) -> int:
        with self._lock:
            return sum(waiting() for waiting in self._waiting.values())

    def _began(self, scan_id: str, waiting: Callable[[], int]) -> None:
        with self._lock:
            self._waiting[scan_id] = waiting
        self._in_flight.inc()

    def _ended(self, scan_id: str, outcome: Outcome, seconds: float) -> None:
        with self._lock:
            began = self._waiting.pop(scan_id, None) is not None
        if began:
            self._in_flight.dec()
            self._scan.observe(seconds)
        self._scans.labels(outcome).inc()

    def _sent(self, message: Message) -> None:
        if message.id != MessageId.IMAGE:
            return
        head, meta = without_pixels(message.body)
        self._images.labels(str(head.image_series_index)).inc()
        if "PASS_lines" in meta:
            self._plan.observe(computing_seconds(meta))
        elif head.image_series_index == 1:
            self._image.observe(computing_seconds(meta))
        else:
            return  # the other series repeat what is told with the first
        if fallback := meta.get("PASS_fallback"):
            self._fallbacks.labels(reason_of(str(fallback))).inc()
        for word in listed(meta.get("PASS_quality")):
            self._quality.labels(word).inc()

    def _told(self, kind: Kind) -> None:
        self._messages.labels(kind).inc()


class _ScanMetrics:
    """One scan in the metrics."""

    def __init__(self, metrics: Metrics, scan_id: str) -> None:
        self._metrics, self._scan_id = metrics, scan_id

    def began(self, configuration: bytes, header: bytes, waiting: Callable[[], int]) -> None:
        self._metrics._began(self._scan_id, waiting)

    def received(self, message: Message) -> None:
        pass

    def sent(self, message: Message) -> None:
        self._metrics._sent(message)

    def told(self, kind: Kind, sentence: str) -> None:
        self._metrics._told(kind)

    def ended(self, outcome: Outcome, seconds: float) -> None:
        self._metrics._ended(self._scan_id, outcome, seconds)


def without_pixels(body: bytes) -> tuple[ismrmrd.ImageHeader, Meta]:
    """Header and meta of the body of an Image."""
    size = IMAGE_HEAD_BYTES
    length = U64.unpack_from(body, size)[0]
    text = body[size + U64.size : size + U64.size + length]
    return ismrmrd.ImageHeader.from_buffer_copy(body[:size]), Meta.deserialize(text) if text else Meta()


def computing_seconds(meta: Meta) -> float:
    """How long a plan or an image took to compute, as its meta tells."""
    return sum(float(str(value)) for name, value in meta.items() if name.startswith(_PREFIX))
