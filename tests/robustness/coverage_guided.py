"""The same targets by a fuzzer that looks where an input leads: ``python -m tests.robustness.coverage_guided TARGET``.

Needs atheris, ``pip install pass-gadgetron[fuzz]``. Further arguments are libFuzzer's, such as ``-runs=1000000``. What
it finds ends it with the traceback, and lies in the working directory for the corpus.
"""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["gadgets", "pass_recon", "ismrmrd", "gadgetron"]):
    from gadgets.protocol.bytes import PeerLost
    from pass_recon.types import PassError
    from tests.robustness.targets import TARGETS


def main() -> None:
    """Run until something is found."""
    target = TARGETS[sys.argv.pop(1)]

    def one_input(data: bytes) -> None:
        with contextlib.suppress(PassError, PeerLost):
            target(data)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
