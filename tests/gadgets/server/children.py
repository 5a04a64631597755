"""Gadgets for ``python -m gadgetron PORT tests.gadgets.server.children NAME``: a good one, and some that fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np


def count(connection: Any) -> None:
    """An image for every acquisition, which holds its number and a property."""
    factor = {p.get("name"): p.get("value") for p in connection.config.iter("property")}["factor"]
    connection.filter(ismrmrd.Acquisition)
    for line in connection:
        value = int(factor) * line.scan_counter
        connection.send(ismrmrd.Image.from_array(np.full((1, 1, 1, 4), value, np.uint16), transpose=False))


def fail_at_third(connection: Any) -> None:
    """Two images, then an exception."""
    for number, _ in enumerate(connection):
        if number == 2:
            raise RuntimeError("out of luck at the third line")
        connection.send(ismrmrd.Image.from_array(np.full((1, 1, 1, 4), number, np.uint16), transpose=False))


def die(connection: Any) -> None:
    """Gone without a word, as after an out-of-memory kill."""
    next(connection)
    sys.stderr.write("about to die\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def linger(connection: Any) -> None:
    """Ends its work and stays."""
    for _ in connection:
        pass
    threading.Thread(target=time.sleep, args=(60,)).start()


def sleep_with_child(connection: Any) -> None:
    """Never ends, ignores a polite request, and has a child of its own; tells both ids in an image."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with subprocess.Popen(["sleep", "60"]) as child:
        ids = [os.getpid(), child.pid]
        connection.send(ismrmrd.Image.from_array(np.array(ids, np.uint32).reshape(1, 1, 1, 2), transpose=False))
        time.sleep(60)


def die_once(connection: Any) -> None:
    """An image for each line, but the first to run is killed after two, and the file of its name tells that it was."""
    mark = Path({p.get("name"): p.get("value") for p in connection.config.iter("property")}["mark"])
    for number, line in enumerate(connection):
        if number == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        image = ismrmrd.Image.from_array(np.full((1, 1, 1, 4), line.scan_counter, np.uint16), transpose=False)
        image.image_index = line.scan_counter
        connection.send(image)
