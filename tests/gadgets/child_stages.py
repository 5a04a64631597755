"""Stages for ``python -m gadgetron PORT tests.gadgets.child_stages NAME`` that misbehave."""

from __future__ import annotations

import time
from typing import Any

from gadgets.protocol.connection import run_gadget


def busy(connection: Any) -> None:
    """Computes for ever at the first item, as a hung network would."""

    def stage(items: Any) -> Any:
        yield next(items)
        time.sleep(600)

    run_gadget(connection, lambda scan: stage)


def broken(connection: Any) -> None:
    """Sends back what comes, until the third item."""

    def stage(items: Any) -> Any:
        for number, item in enumerate(items):
            if number == 2:
                raise RuntimeError("out of luck at the third line")
            yield item

    run_gadget(connection, lambda scan: stage)
