"""Out of memory: which settings need less."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pass_recon.types import InputError
from training.engine.settings import TrainingSettings


@contextmanager
def out_of_memory_explained(settings: TrainingSettings) -> Iterator[None]:
    """Say which settings need less memory, instead of a trace through the allocator."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _lower(settings, error) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # what the CPU's allocator says
            raise
        raise _lower(settings, error) from error


def _lower(settings: TrainingSettings, error: BaseException) -> InputError:
    crop = f", rows (now {rows})" if (rows := getattr(settings, "rows", 0)) else ""
    keep = "" if getattr(settings, "checkpointing", True) else ", or set checkpointing to true"
    return InputError(
        f"out of memory at batch {settings.batch}: lower batch and raise accumulate (now {settings.accumulate}){crop}"
        f"{keep} ({json.dumps(str(error).splitlines()[0])})"
    )
