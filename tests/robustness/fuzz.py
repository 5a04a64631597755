"""Spoilt inputs for everything that reads bytes of others: ``make fuzz``, or ``python -m tests.robustness.fuzz``.

Each input must be taken, or refused with a sentence. The table counts what was tried; lost: another exception than a
refusal; silent: none within a second; leaked: memory that stays. All but the first are to be zero. An input that is not
is written to the corpus, which the suite runs.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import sys
import time
from pathlib import Path

from gadgets.protocol.bytes import PeerLost
from pass_recon.types import PassError
from tests.robustness.targets import TARGETS, corpus

CORPUS = Path(__file__).with_name("corpus")
_SLOW_S = 1.0
_LEAK_MB = 200
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
_WORDS = (
    b"<!DOCTYPE a [",
    b"&a;",
    b"\x00",
    b"\xff\xfe",
    b"NaN",
    b"1e999",
    b"-1",
    b"</",
    b"{" * 50,
    b"<a>" * 300,
    b"../",
)


def spoilt(good: bytes, draw: random.Random) -> bytes:
    """A good input with some of it changed."""
    data = bytearray(good)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        place = draw.randrange(len(data) + 1)
        kind = draw.randrange(6)
        if kind == 0 and data:
            data[min(place, len(data) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            size = draw.choice((1, 2, 4, 8))
            number = draw.choice(_INTERESTING) & ((1 << 8 * size) - 1)
            data[place : place + size] = number.to_bytes(size, "little")
        elif kind == 2:
            del data[place : place + draw.randrange(1, 40)]
        elif kind == 3:
            data[place:place] = draw.choice(_WORDS)
        elif kind == 4:
            data[place:place] = data[draw.randrange(len(data) + 1) :][: draw.randrange(1, 200)]
        else:
            del data[place:]
    return bytes(data)


def outcome(name: str, data: bytes) -> str:
    """What a target makes of an input: "" if all is well, else "lost" or "silent" and why."""
    began = time.perf_counter()
    try:
        TARGETS[name](data)
    except (PassError, PeerLost):
        pass
    except Exception as error:  # noqa: BLE001, which is what is looked for
        return f"lost: {type(error).__name__}: {error}"
    seconds = time.perf_counter() - began
    return f"silent: {seconds:.1f} s" if seconds > _SLOW_S else ""


def fuzz(inputs: int, seed: int = 0) -> dict[str, dict[str, int]]:
    """Try so many inputs, shared among the targets; returns the counts of each."""
    draw, good = random.Random(seed), corpus()
    table = {}
    for name in TARGETS:
        counts = {"tried": 0, "lost": 0, "silent": 0, "leaked": 0}
        seeds = good[name]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(inputs // len(TARGETS)):
            data = spoilt(draw.choice(seeds), draw)
            counts["tried"] += 1
            if said := outcome(name, data):
                counts[said.partition(":")[0]] += 1
                found = CORPUS / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
                found.write_bytes(data)
                sys.stderr.write(f"{found.name}: {said}\n")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        counts["leaked"] = int(grown > _LEAK_MB)
        table[name] = counts
    return table


def show(table: dict[str, dict[str, int]]) -> str:
    """The table as text, with a line of sums."""
    columns = list(next(iter(table.values())))
    sums = {column: sum(counts[column] for counts in table.values()) for column in columns}
    lines = [f"{'':<22}" + "".join(f"{column:>10}" for column in columns)]
    for name, counts in {**table, "all": sums}.items():
        lines.append(f"{name:<22}" + "".join(f"{counts[column]:>10}" for column in columns))
    return "\n".join(lines)


def main() -> int:
    """Run it; 0 if nothing was lost, silent or leaked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args()
    table = fuzz(args.inputs, args.seed)
    sys.stdout.write(show(table) + "\n")
    return int(any(counts[fault] for counts in table.values() for fault in ("lost", "silent", "leaked")))


if __name__ == "__main__":
    raise SystemExit(main())
