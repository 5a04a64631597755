"""The stages of training, each a file beside this one: to add a stage, write its file and add a line here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from training.engine.settings import TrainingSettings


@dataclass(frozen=True)
class Stage:
    """One script of training, imported when it is needed.

    Attributes
    ----------
    name
        Of its command, and what recipes call it.
    module
        Where it is.
    settings_name, function_name
        Its settings, and what trains: ``(settings, data, run folder, device) -> None``.
    """

    name: str
    module: str
    settings_name: str
    function_name: str

    @property
    def settings_class(self) -> type[TrainingSettings]:
        """The class of its settings."""
        found: type[TrainingSettings] = self._get(self.settings_name)
        return found

    def train(self, settings: TrainingSettings, data: Sequence[Path], run_folder: Path, device: str) -> None:
        """Train, or go on."""
        self._get(self.function_name)(settings, data, run_folder, device)

    def _get(self, name: str) -> Any:
        return getattr(import_module(self.module), name)


STAGES = {
    stage.name: stage
    for stage in (
        Stage("backbone", "training.stages.backbone", "BackboneSettings", "train_backbone"),
        Stage("netad", "training.stages.netad", "NetADSettings", "train_netad"),
        Stage("reconstruction", "training.stages.reconstruction", "ReconstructionSettings", "train_reconstruction"),
        Stage("sampling", "training.stages.sampling", "SamplingSettings", "train_sampling"),
        Stage("mixture", "training.stages.mixture", "MixtureTraining", "train_mixture"),
    )
}
