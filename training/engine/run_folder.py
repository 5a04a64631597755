"""The folder of a training run: what was asked, with which software, how it went, and the weights.

settings.yaml          as the run was started
data.json              what its training data held, for the cards of bundles
versions.json          software, device, command line
log.jsonl              one line an event: steps, validations, interruptions
tensorboard/, wandb/   the same for trackers
figures/               a picture a validation
checkpoint.safetensors everything needed to go on, at most a few minutes old
best.safetensors       the averaged weights at the best validation
weights.safetensors    those that the next stage and bundles take: of the last validation, or, with keep=best, the best
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
import yaml
from torch import Tensor

from pass_recon import __version__
from pass_recon.common.files import write_json, written_aside
from pass_recon.common.settings import from_dict, read_table, to_dict
from pass_recon.types import InputError
from training.data.manifest import training_facts
from training.engine.settings import TrainingSettings, run_settings
from training.engine.trackers import Tracker, open_trackers

Settings = TypeVar("Settings", bound=TrainingSettings)
SETTINGS, VERSIONS, LOG = "settings.yaml", "versions.json", "log.jsonl"
DATA = "data.json"
CHECKPOINT, WEIGHTS, BEST = "checkpoint.safetensors", "weights.safetensors", "best.safetensors"
# What may differ when a run goes on: none of it touches a number that is computed.
_FREE = {"workers", "checkpoint_minutes", "trackers", "patience"}


class RunFolder:
    """Where a run keeps its things; opened again, it goes on, with more steps if it is given more.

    A folder in which nothing was learned yet takes any settings: a start that failed is no run.

    Parameters
    ----------
    path
        The folder; made if need be.
    settings
        Of the run.
    stage
        Its name: a folder of another stage is refused.
    writes
        Whether this process is the one that writes.

    Raises
    ------
    InputError
        If the folder holds a run with other settings.
    """

    def __init__(self, path: str | Path, settings: TrainingSettings, stage: str, *, writes: bool = True) -> None:
        self.path = Path(path)
        self.writes, self._fraction = writes, settings.fraction
        self._trackers: list[Tracker] = []
        wanted = {"stage": stage, **to_dict(settings), **_folders(settings)}
        if (self.path / SETTINGS).is_file() and self._begun():
            self._check_same(wanted, to_dict(type(settings)()))
        if self.writes:
            (self.path / "figures").mkdir(parents=True, exist_ok=True)
            with written_aside(self.path / SETTINGS) as aside:
                aside.write_text(yaml.safe_dump(wanted, sort_keys=False), encoding="utf-8")
            write_json(self.path / VERSIONS, versions())
            self._trackers = open_trackers(settings.trackers, self.path, wanted)

    def log(self, event: str, step: int, **values: Any) -> None:
        """Add a line to the log, and its numbers to the trackers."""
        if not self.writes:
            return
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "event": event, "step": step, **values}
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        scalars = {f"{event}/{name}": value for name, value in values.items() if isinstance(value, float)}
        for tracker in self._trackers if scalars else []:
            tracker.scalars(scalars, step)

    def show(self, path: Path, step: int) -> None:
        """A picture to the trackers."""
        for tracker in self._trackers:
            tracker.picture("validation", path, step)

    def tell(self, sentence: str) -> None:
        """What whoever trains should know: to standard error and to the log."""
        if self.writes:
            sys.stderr.write(f"{self.path}: {sentence}\n")
            self.log("note", 0, note=sentence)

    def record_data(self, folders: Sequence[Path]) -> None:
        """Write down what the datasets hold that the run learns from."""
        if self.writes:
            write_json(self.path / DATA, training_facts(folders, self._fraction))

    def figure(self, epoch: int) -> Path:
        """Where the picture of a validation goes."""
        return self.path / "figures" / f"epoch_{epoch:04d}.png"

    def save(self, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Write tensors and plain values aside, then move them into place."""
        if self.writes:
            # Clones, because the format refuses tensors that share memory, and networks may share layers.
            plain = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
            metadata = {"about": json.dumps(dict(about))}
            with written_aside(self.path / name) as aside:
                safetensors.torch.save_file(plain, aside, metadata)

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What `save` wrote, or None if there is nothing yet."""
        path = self.path / name
        return read_tensors(path) if path.is_file() else None

    def close(self) -> None:
        """Let the trackers write what is left."""
        for tracker in self._trackers:
            tracker.close()

    def _begun(self) -> bool:
        return (self.path / CHECKPOINT).is_file() or (self.path / WEIGHTS).is_file()

    def _check_same(self, wanted: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        # A run from before a setting was invented has its default.
        found = {**defaults, **read_table(self.path / SETTINGS)}
        changed = sorted(
            name for name in {*wanted, *found} - _FREE if wanted.get(name, "absent") != found.get(name, "absent")
        )
        if changed == ["steps"] and wanted["steps"] > found["steps"]:
            return
        if changed:
            told = "; ".join(f"{name} was {found.get(name)!r}, now {wanted.get(name)!r}" for name in changed[:5])
            raise InputError(
                f"{self.path} holds a run with other settings ({told}). Go on with its own settings, or give another "
                f"folder and initial={self.path} to start from its weights"
            )


def _folders(settings: TrainingSettings) -> dict[str, str]:
    """Settings that are folders, so that they are the same ones wherever the run is started from."""
    values = {name: getattr(settings, name) for name in run_settings(type(settings))}
    return {name: str(Path(value).resolve()) for name, value in values.items() if value and Path(value).is_dir()}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain values of a file that `RunFolder.save` wrote.

    Raises
    ------
    InputError
        If it is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no mapping)
            return tensors, json.loads((file.metadata() or {}).get("about", "{}"))
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def settings_of(run: str | Path, settings_class: type[Settings]) -> Settings:
    """The settings that a run was started with.

    Raises
    ------
    InputError
        If the folder holds no run, or one of another stage.
    """
    values = read_table(Path(run) / SETTINGS)
    values.pop("stage", None)
    return from_dict(settings_class, values)


def load_weights(run: str | Path, prefix: str = "") -> dict[str, Tensor]:
    """The averaged weights of a run, those below ``prefix`` with the prefix cut off.

    Raises
    ------
    InputError
        If the folder holds no weights, or none below the prefix.
    """
    path = Path(run) / WEIGHTS
    if not path.is_file():
        raise InputError(f"{run} holds no {WEIGHTS}: the run has not reached its first validation, or is none")
    tensors, _ = read_tensors(path)
    found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if not found:
        raise InputError(f"{path} holds no weights of {prefix.rstrip('.')!r}")
    return found


def versions() -> dict[str, Any]:
    """What a run was made with."""
    return {
        "pass_recon": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "command": sys.argv,
    }


@contextmanager
def opened_run(path: str | Path, settings: TrainingSettings, stage: str, *, writes: bool = True) -> Iterator[RunFolder]:
    """A run folder that is closed at the end."""
    run = RunFolder(path, settings, stage, writes=writes)
    try:
        yield run
    finally:
        run.close()
