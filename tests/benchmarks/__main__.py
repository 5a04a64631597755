"""``python -m tests.benchmarks [module ...]``: each timing as a ratio to a peer measured in the same run.

A module of this package joins in by a function ``benchmarks()`` that yields `Benchmark`; named modules run alone.
"""

from __future__ import annotations

import sys

from pass_recon.common.process import prepare_process

prepare_process()

import importlib
import json
import logging
import pkgutil
import platform
from dataclasses import asdict

import torch

import tests.benchmarks
from tests.benchmarks.timing import measure


def main(names: list[str]) -> None:
    """Print a row for each benchmark as soon as it is measured, and all of them as JSON at the end."""
    rows: list[dict[str, object]] = []
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}")
    print(f"{torch.get_num_threads()} threads; ratio below 1: faster than the peer, or less; spread: slowest / fastest")
    print(f"{'work':76s} {'ours':>9s} {'peer':>9s} {'unit':>4s} {'ratio':>7s} {'spread':>6s}  peer")
    for name in names or [module.name for module in pkgutil.iter_modules(tests.benchmarks.__path__)]:
        if name == "__main__" or name.startswith("test_"):
            continue
        module = importlib.import_module(f"tests.benchmarks.{name}")
        logging.getLogger().setLevel(logging.WARNING)  # peers, when imported, turn the chatter of others on
        for benchmark in getattr(module, "benchmarks", tuple)():
            row = measure(benchmark)
            print(
                f"{row.name:76s} {row.ours:9.1f} {row.peer:9.1f} {row.unit:>4s} {row.ratio:7.3f} {row.spread:6.2f}  "
                f"{row.peer_name}",
                flush=True,
            )
            rows.append({**asdict(row), "ratio": row.ratio})
    machine = {"machine": platform.platform(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps({**machine, "benchmarks": rows}))


if __name__ == "__main__":
    main(sys.argv[1:])
