"""Many jobs over all cores or a cluster, with a progress bar; interrupted, they are taken up where they stopped."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pass_recon.types import InputError
from training.prepare.case_file import SUFFIX
from training.prepare.jobs import Job, Outcome, do

_ANSWER_SECONDS = 10.0  # within which a scheduler must answer


def run_jobs(
    jobs: Sequence[Job], folder: str | Path, *, workers: int = 0, scheduler: str = "", progress: bool = True
) -> list[Outcome]:
    """Make all cases that are not there yet.

    Parameters
    ----------
    jobs
        One a case; no two of the same name.
    folder
        The dataset; made if need be. On a cluster, a folder that its workers share.
    workers
        Processes on this machine, 0 for one a core; 1 works in this process.
    scheduler
        Address of a Dask scheduler, ``tcp://…``, whose workers do the work instead.
    progress
        Show a bar where standard error is a terminal.

    Returns
    -------
    list of Outcome
        In the order of ``jobs``.

    Raises
    ------
    InputError
        If two jobs have one name, or the cluster cannot be reached.
    """
    names = [job.name for job in jobs]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"several sources have the same name: {', '.join(twice[:5])}")
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    workers = min(workers or _cores(), len(jobs))
    if jobs and (scheduler or workers > 1):
        with _dask_client(scheduler, workers) as client:
            results = _collected(_on_cluster(client, jobs, str(folder)), len(jobs), progress)
    else:
        results = _collected((do(job, str(folder)) for job in jobs), len(jobs), progress)
    for name in names:
        # Left by a job that failed, now or in a run that was killed.
        (folder / f"{name}{SUFFIX}.partial").unlink(missing_ok=True)
    by_name = {outcome.name: outcome for outcome in results}
    return [by_name[name] for name in names]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _collected(outcomes: Iterable[Outcome], total: int, progress: bool) -> list[Outcome]:
    bar = tqdm(outcomes, total=total, unit="case", disable=None if progress else True, file=sys.stderr)
    return list(bar)


def _on_cluster(client: Any, jobs: Sequence[Job], folder: str) -> Iterator[Outcome]:
    from distributed import as_completed

    waiting = iter(jobs)
    crew = max(len(client.scheduler_info()["workers"]), 1)
    under_way: dict[str, Job] = {}
    suspects: list[Job] = []

    def started(job: Job) -> Any:
        future = client.submit(do, job, folder=folder, pure=False)
        under_way[future.key] = job
        return future

    first = [started(job) for job in islice(waiting, crew)]
    # Results are fetched at once: a worker that dies later would take them with it.
    running = as_completed(first, with_results=True, raise_errors=False)
    for future, result in running:
        job = under_way.pop(future.key)
        if future.status == "finished":
            yield result
        else:
            suspects.append(job)
        following = next(waiting, None)
        if following is not None:
            running.add(started(following))
    for job in suspects:
        # Workers died under it, of memory for example; or under another that they had at the same time. Alone it shows.
        future = started(job)
        error = future.exception()
        yield future.result() if error is None else Outcome(job.name, "skipped", f"{type(error).__name__}: {error}")


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
        # A case under which a process died is tried once more, alone, and not by one process after the other.
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        tempfile.TemporaryDirectory() as scratch,
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=None,
            local_directory=scratch,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
