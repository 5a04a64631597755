"""Work over slices: in as many processes as wished, taken up where it was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from pass_recon.common.parallel import available_cores, in_parallel
from training.evaluate.measures import Record, RecordFile
from training.evaluate.selection import EvaluationSettings


class _Job(Protocol):
    @property
    def key(self) -> str: ...


JobKind = TypeVar("JobKind", bound=_Job)


@dataclass
class Workers(Generic[JobKind]):
    """Does jobs, those that are not in the file of records yet.

    Attributes
    ----------
    settings
        How many processes, and where.
    work, died
        From a job to its record, and to that of one under which a process died.
    failed
        Records that say why there is none.
    """

    settings: EvaluationSettings
    work: Callable[[JobKind], Record]
    died: Callable[[JobKind, str], Record]
    failed: dict[str, Record] = field(default_factory=dict)

    @property
    def workers(self) -> int:
        """Processes on this machine."""
        settings = self.settings
        if settings.workers or settings.device != "cpu":
            return settings.workers or 1  # several processes would each want the whole device
        return max(available_cores() // max(settings.threads, 1), 1)

    @property
    def threads(self) -> int:
        """Torch threads of each process: together as many as there are cores."""
        if self.settings.threads or self.settings.scheduler:
            return self.settings.threads or 1
        return max(available_cores() // self.workers, 1)

    def run(self, jobs: Sequence[JobKind], file: RecordFile) -> list[Record]:
        """The record of each job, in their order; one that failed says so."""
        missing = {job.key: job for job in jobs if job.key not in file}
        with closing(in_parallel(self.work, list(missing.values()), self.died, unit="slice", **self.how)) as results:
            for record in results:
                if "failed" in record:
                    self.failed[record["key"]] = record
                else:
                    file.append(record)
        return [file[job.key] if job.key in file else self.failed[job.key] for job in jobs]

    @property
    def how(self) -> dict[str, Any]:
        """Arguments of `in_parallel`."""
        return {
            "workers": self.workers,
            "scheduler": self.settings.scheduler,
            "progress": self.settings.progress,
        }
