"""Where the numbers and pictures of a run are shown while it goes on, besides its own log: a table of trackers.

To add one: a class with the three methods, and a line in ``TRACKERS``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pass_recon.types import InputError


class Tracker(Protocol):
    """What a run tells."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """A PNG."""

    def close(self) -> None:
        """No more comes."""


class TensorBoard:
    """Event files in the run folder: ``tensorboard --logdir RUN``."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """See `Tracker`."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, in the project ``pass-recon``; ``WANDB_MODE=offline`` keeps it in the run folder."""

    def __init__(self, module: Any, run: Any) -> None:
        self._module, self._run = module, run

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """See `Tracker`."""
        self._run.log({name: self._module.Image(str(path))}, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


def _tensorboard(folder: Path, settings: Mapping[str, Any]) -> Tracker | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # everybody asks for it by default, and the log has the same numbers
        return None
    return TensorBoard(SummaryWriter(str(folder / "tensorboard")))


def _wandb(folder: Path, settings: Mapping[str, Any]) -> Tracker:
    try:
        import wandb
    except ImportError as error:
        raise InputError("trackers has wandb, which is not installed: pip install 'pass-gadgetron[wandb]'") from error
    # A run that goes on is the same run there.
    identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    run = wandb.init(project="pass-recon", name=folder.resolve().name, id=identity, dir=str(folder),
                     resume="allow", config=dict(settings))  # fmt: skip
    return WeightsAndBiases(wandb, run)


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker | None]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
"""From a run folder and its settings to a tracker; None where it cannot be had and nobody misses it."""


def open_trackers(names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> list[Tracker]:
    """The trackers of these names.

    Raises
    ------
    InputError
        If one that must be installed is not.
    """
    found = [TRACKERS[name](folder, settings) for name in names]
    return [tracker for tracker in found if tracker is not None]
