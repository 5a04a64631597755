"""Work that can be done anywhere, in any order and twice: one job makes one case, and says what became of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from pass_recon.common.files import PARTIAL
from pass_recon.common.parallel import in_parallel
from pass_recon.types import InputError
from training.data.case_file import SUFFIX, CaseFile

Fate = Literal["written", "kept", "skipped", "not asked for"]


class NotAskedFor(InputError):
    """A file that is in order but not among what was asked for."""


class Job(Protocol):
    """A case to be made."""

    @property
    def name(self) -> str:
        """Name of the case."""

    def size(self) -> int:
        """About how many bytes the case will take, as far as the source's header tells; 0 if it was not asked for.

        Raises
        ------
        InputError, OSError
            If the source is damaged.
        """

    def fingerprint(self) -> str:
        """A word that changes when source, settings or annotations do."""

    def write(self, path: Path, fingerprint: str) -> None:
        """Make the case.

        Raises
        ------
        InputError
            If the source is damaged or cannot be used.
        """


@dataclass(frozen=True)
class Outcome:
    """What became of a job, and why if nothing did."""

    name: str
    fate: Fate
    reason: str = ""


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
    results = list(
        in_parallel(
            partial(do, folder=str(folder)), jobs, _died, workers=workers, scheduler=scheduler, progress=progress
        )
    )
    for name in names:
        # Left by a process that was killed.
        for left in folder.glob(f".{escape(name)}{SUFFIX}.*{PARTIAL}"):
            left.unlink()
    by_name = {outcome.name: outcome for outcome in results}
    return [by_name[name] for name in names]


@dataclass(frozen=True)
class Space:
    """Bytes that cases will take which are not there yet, and bytes that are free where they will lie."""

    needed: int
    free: int


def space_for(jobs: Sequence[Job], folder: Path) -> Space:
    """How much disk jobs will take; sources that cannot be read are left to `run_jobs`, which names them."""
    needed = 0
    for job in jobs:
        if not (folder / (job.name + SUFFIX)).exists():
            with suppress(Exception):  # of a rotten file anything may be wrong
                needed += job.size()
    above = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return Space(needed, shutil.disk_usage(above).free)


def do(job: Job, folder: str) -> Outcome:
    """Make a case unless it is there already; never raise for what is wrong with one source."""
    path = Path(folder) / (job.name + SUFFIX)
    try:
        fingerprint = job.fingerprint()
        if _is_done(path, fingerprint):
            return Outcome(job.name, "kept")
        with _one_thread():
            job.write(path, fingerprint)
    except NotAskedFor as error:
        return Outcome(job.name, "not asked for", str(error))
    except (InputError, OSError) as error:
        return Outcome(job.name, "skipped", str(error))
    except Exception as error:  # noqa: BLE001, one rotten file must not be the end of a thousand good ones
        return Outcome(job.name, "skipped", f"{type(error).__name__}: {error}")
    return Outcome(job.name, "written")


def fingerprint_of(source: Path | None, *settings: Any) -> str:
    """A word made from a file's size and time of change, and from settings."""
    about: list[Any] = [repr(item) for item in settings]
    if source is not None:
        status = source.stat()
        about += [source.name, status.st_size, status.st_mtime_ns]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def _is_done(path: Path, fingerprint: str) -> bool:
    try:
        with CaseFile(path) as case:
            return case.info.fingerprint == fingerprint
    except (InputError, KeyError, ValueError, TypeError):
        return False


@contextmanager
def _one_thread() -> Iterator[None]:
    """Jobs share the cores among themselves, and rounding then cannot depend on how many threads there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _died(job: Job, reason: str) -> Outcome:
    return Outcome(job.name, "skipped", reason)
