"""The stages of training in the order in which they build on each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from training.engine.settings import TrainingSettings, read_settings


@dataclass(frozen=True)
class Stage:
    """One training script.

    Attributes
    ----------
    name
        Of the command and of the table in a recipe.
    module, settings_class, function
        Where it is.
    after
        Settings that name the run of another table of the recipe.
    """

    name: str
    module: str
    settings_class: str
    function: str
    after: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> type[TrainingSettings]:
        """The class of its settings."""
        found: type[TrainingSettings] = getattr(import_module(self.module), self.settings_class)
        return found

    def settings(self, config: Path | None, changes: Sequence[str] = ()) -> TrainingSettings:
        """Settings from a file or a recipe, with changes on top."""
        return read_settings(self.kind, config, changes, section=self.name)

    def train(self, settings: TrainingSettings, data: Sequence[Path], run_folder: Path, device: str) -> None:
        """Train, or go on."""
        script: Callable[..., Any] = getattr(import_module(self.module), self.function)
        script(settings, data, run_folder, device)


_STAGE_1 = ("training.stages.reconstruction", "ReconstructionSettings", "train_reconstruction")
_SETTLED = (("netad", "netad"), ("sampling", "sampling"))
STAGES = {
    stage.name: stage
    for stage in (
        Stage("backbone", "training.stages.backbone", "BackboneSettings", "train_backbone"),
        Stage("netad", "training.stages.netad", "NetADSettings", "finetune_netad", (("backbone", "backbone"),)),
        # One script five times, each from the weights of one before: few iterations, which are quick; then more; when
        # lines are settled, with the maps of the trained detectors in place of simulated ones; and at each acceleration
        # alone, which gets a reconstructor of its own.
        Stage("pretraining", *_STAGE_1),
        Stage("reconstruction", *_STAGE_1, (("initial", "pretraining"),)),
        Stage(
            "sampling",
            "training.stages.sampling",
            "SamplingSettings",
            "train_sampling",
            (("reconstruction", "reconstruction"), ("netad", "netad")),
        ),
        Stage("guided", *_STAGE_1, (("initial", "reconstruction"), *_SETTLED)),
        Stage("guided_4x", *_STAGE_1, (("initial", "guided"), *_SETTLED)),
        Stage("guided_8x", *_STAGE_1, (("initial", "guided"), *_SETTLED)),
    )
}
