"""Independent work over all cores of a machine or a cluster, with a progress bar."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from tqdm import tqdm

from pass_recon.types import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
_ANSWER_SECONDS = 10.0  # within which a scheduler must answer
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def in_parallel(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    died: Callable[[Item, str], Result],
    *,
    workers: int = 0,
    scheduler: str = "",
    progress: bool = True,
    unit: str = "case",
) -> Generator[Result, None, None]:
    """Do the same work on many items; yields each result as it comes, so in any order.

    Parameters
    ----------
    work
        What to do with one item; both travel to other processes.
    items
        All of them.
    died
        The result of an item under which a process died, or whose work raised in another process; with the reason.
        What is raised in this process is not caught.
    workers
        Processes on this machine, 0 for one a core; 1 works in this process.
    scheduler
        Address of a Dask scheduler, ``tcp://…``, whose workers do the work instead.
    progress
        Show a bar where standard error is a terminal.
    unit
        What the bar counts.

    Raises
    ------
    InputError
        If the cluster cannot be reached.
    """
    workers = min(workers or available_cores(), len(items))
    if items and (scheduler or workers > 1):
        with _dask_client(scheduler, workers) as client:
            yield from _counted(_on_cluster(client, work, items, died), len(items), progress, unit)
    else:
        yield from _counted(map(work, items), len(items), progress, unit)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _counted(results: Iterator[Result], total: int, progress: bool, unit: str) -> Iterator[Result]:
    return iter(tqdm(results, total=total, unit=unit, disable=None if progress else True, file=sys.stderr))


def _on_cluster(
    client: Any, work: Callable[[Item], Result], items: Sequence[Item], died: Callable[[Item, str], Result]
) -> Iterator[Result]:
    from distributed import as_completed

    waiting = iter(items)
    workers = max(len(client.scheduler_info()["workers"]), 1)
    under_way: dict[str, Item] = {}
    suspects: list[Item] = []

    def started(item: Item) -> Any:
        future = client.submit(work, item, pure=False)
        under_way[future.key] = item
        return future

    first = [started(item) for item in islice(waiting, workers)]
    # Results are fetched at once: a worker that dies later would take them with it.
    running = as_completed(first, with_results=True, raise_errors=False)
    for future, result in running:
        item = under_way.pop(future.key)
        if future.status == "finished":
            yield result
        else:
            suspects.append(item)
        for following in islice(waiting, 1):
            running.add(started(following))
    for item in suspects:
        # Workers died under it, of memory for example; or under another that they had at the same time. Alone it shows.
        future = started(item)
        error = future.exception()
        yield future.result() if error is None else died(item, f"{type(error).__name__}: {error}")


@contextmanager
def _dask_client(scheduler: str, workers: int) -> Iterator[Any]:
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError(
            "several processes need Dask: pip install 'pass-gadgetron[data]', or give --workers 1"
        ) from error
    if scheduler:
        try:
            client = Client(scheduler, timeout=_ANSWER_SECONDS)
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(f"no Dask scheduler answers at {scheduler}: {error}") from error
        with client:
            yield client
        return
    with (
        dask.config.set(
            {
                # A case under which a process died is tried once more, alone, and not by one process after the other.
                "distributed.scheduler.allowed-failures": 0,
                # By default workers also hand memory back to the system after each array: half of all time went there.
                "distributed.nanny.pre-spawn-environ": dict.fromkeys(_THREADS, 1),
            }
        ),
        tempfile.TemporaryDirectory() as scratch,
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",  # any free port: two runs at once would quarrel over the usual one
            local_directory=scratch,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
