"""A server in a thread, a client made of bytes, and gadgets that listen, for the tests of the server."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np

from gadgets import protocol
from gadgets.protocol import Channel, Message, MessageId
from gadgets.server.server import serve
from gadgets.server.settings import ServerSettings

READERS = (
    "<readers><reader><dll>gadgetron_core_readers</dll><classname>AcquisitionReader</classname></reader></readers>"
)
WRITERS = "".join(
    f"<writer><dll>gadgetron_core_writers</dll><classname>{kind}Writer</classname></writer>"
    for kind in ("Image", "Acquisition")
)
HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<acquisitionSystemInformation><relativeReceiverNoiseBandwidth>0.8</relativeReceiverNoiseBandwidth></acquisitionSystemInformation>
<experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions>
<encoding>
<encodedSpace><matrixSize><x>64</x><y>16</y><z>1</z></matrixSize>
<fieldOfView_mm><x>600</x><y>300</y><z>6</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>32</x><y>16</y><z>1</z></matrixSize>
<fieldOfView_mm><x>300</x><y>300</y><z>6</z></fieldOfView_mm></reconSpace>
<encodingLimits/><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""


def configuration(stream: str, *, readers: str = READERS, writers: str = WRITERS) -> str:
    """A configuration of version 2."""
    return (
        f"<configuration><version>2</version>{readers}<writers>{writers}</writers>"
        f"<stream>{stream}</stream></configuration>"
    )


def connect_node(port: int, *, writers: str = "") -> str:
    """An external node that already listens."""
    lists = f"<writers>{writers}</writers>" if writers else ""
    return f'<external><connect port="{port}"/>{lists}</external>'


def execute_node(target: str, *, writers: str = "") -> str:
    """An external node of `tests.gadgets.server.children`."""
    lists = f"<writers>{writers}</writers>" if writers else ""
    return (
        f'<external><execute name="tests.gadgets.server.children" target="{target}" type="python"/>{lists}</external>'
    )


def stock_node(name: str) -> str:
    """A gadget of the Gadgetron."""
    return f"<gadget><dll>gadgetron_mricore</dll><classname>{name}</classname></gadget>"


@contextlib.contextmanager
def running_server(
    *folders: Path, host: str = "127.0.0.1", allow_client_configs: bool = True, **settings: Any
) -> Iterator[int]:
    """The port of a server, which has to stop at the end."""
    ports: list[int] = []
    ready, stop = threading.Event(), threading.Event()

    def run() -> None:
        serve(
            host,
            0,
            config_folders=folders,
            allow_client_configs=allow_client_configs,
            ready=lambda port: (ports.append(port), ready.set()),
            stop=stop,
            settings=ServerSettings(**({"allowed_modules": ("gadgets", "tests")} | settings)),  # type: ignore[arg-type]
        )

    thread = threading.Thread(target=run, name="server")
    thread.start()
    assert ready.wait(30)
    try:
        yield ports[0]
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"


class Client:
    """Sends bytes; reads messages."""

    def __init__(self, port: int) -> None:
        self.channel = Channel.connect("127.0.0.1", port)
        self.channel.socket.settimeout(60)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def send(self, *frames: bytes) -> None:
        """Send frames."""
        self.channel.socket.sendall(b"".join(frames))

    def read(self) -> Message:
        """Next message."""
        return self.channel.read_message()

    def read_to_close(self) -> list[Message]:
        """All messages before CLOSE."""
        messages = []
        while (message := self.read()).id != MessageId.CLOSE:
            messages.append(message)
        return messages


def talk(port: int, *frames: bytes) -> list[Message]:
    """Send everything and collect the answer, reading meanwhile."""
    with Client(port) as client:

        def send() -> None:
            with contextlib.suppress(OSError):  # a server that has hung up has said why
                client.send(*frames)

        sender = threading.Thread(target=send)
        sender.start()
        answer = client.read_to_close()
        sender.join()
    return answer


def scan(config: str, *items: object, close: bool = True) -> bytes:
    """A session with its own configuration."""
    frames = [protocol.config_script(config), protocol.header(HEADER), *map(protocol.encode, items)]
    return b"".join([*frames, protocol.close()] if close else frames)


def errors(messages: Iterable[Message]) -> list[str]:
    """What the Error messages say."""
    return [message.item for message in messages if message.id == MessageId.ERROR]


def of_kind(messages: Iterable[Message], kind: MessageId) -> list[Message]:
    """The messages of one kind."""
    return [message for message in messages if message.id == kind]


def acquisition(step: int = 0, coils: int = 2, samples: int = 64, *, noise: bool = False) -> ismrmrd.Acquisition:
    """A line of noise, the same for the same step."""
    rng = np.random.default_rng(step)
    data = rng.standard_normal((coils, samples)) + 1j * rng.standard_normal((coils, samples))
    line = ismrmrd.Acquisition.from_array(
        data.astype(np.complex64), center_sample=samples // 2, sample_time_us=5.0, scan_counter=step
    )
    line.idx.kspace_encode_step_1 = step
    if noise:
        line.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    return line


def plan_image(value: int = 1) -> ismrmrd.Image:
    """A small image that carries a value."""
    image = ismrmrd.Image.from_array(np.full((1, 1, 1, 8), value, np.uint16), transpose=False)
    image.image_series_index = 1000
    image.meta = {"DataRole": "SamplingPlan"}
    return image


def _bind(port: int) -> socket.socket:
    deadline = time.monotonic() + 30
    while True:  # another run of these tests may hold the port for a moment
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@contextlib.contextmanager
def listening_gadget(handle: Callable[[Channel], None], port: int = 0) -> Iterator[int]:
    """The port of a gadget that serves each connection with `handle`, in a thread."""
    listening = _bind(port)
    channels: list[Channel] = []
    threads: list[threading.Thread] = []
    over = threading.Event()

    def serve_one(channel: Channel) -> None:
        try:
            handle(channel)
        except protocol.PeerLost:
            if not over.is_set():  # afterwards it is we who have hung up
                raise

    def accept() -> None:
        with contextlib.suppress(OSError):  # closed below
            while True:
                channels.append(channel := Channel(listening.accept()[0]))
                threads.append(thread := threading.Thread(target=serve_one, args=(channel,)))
                thread.start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        acceptor.join()
        over.set()
        for channel in channels:
            channel.close()
        for thread in threads:
            thread.join(30)


class Replay:
    """A gadget that sends what the recorded one sent, after as many acquisitions as that did."""

    def __init__(self, answer: bytes, after: int) -> None:
        self.received: list[Message] = []
        self._answer, self._after = answer, after

    def __call__(self, channel: Channel) -> None:
        lines = 0
        with contextlib.suppress(protocol.PeerLost):
            while (message := channel.read_message()).id != MessageId.CLOSE:
                self.received.append(message)
                lines += message.id == MessageId.ACQUISITION
                if lines == self._after and message.id == MessageId.ACQUISITION:
                    channel.send(self._answer[:-2])  # all but its CLOSE
            channel.send(protocol.close())
