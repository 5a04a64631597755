"""Settings and data small enough to train on in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pass_recon.common.settings import to_dict
from pass_recon.config import NetworkConfig, ReconstructorConfig
from pass_recon_cli.main import main
from tests.networks import TINY_BACKBONE
from training.engine.trainer import Trainer
from training.stages.reconstruction import ReconstructionSettings
from training.stages.sampling import SamplingSettings

EXAMINATIONS = ("brain-flair", "knee-pd")
LINES = 48
RECONSTRUCTOR = ReconstructorConfig(
    denoiser=NetworkConfig("unet", {"channels": [6, 8]}),
    enhancer=NetworkConfig("gated_unet", {"channels": [4, 6]}),
    stages=1,
    cg_iterations=3,
)
COMMON: dict[str, Any] = {
    "examinations": EXAMINATIONS,
    "batch": 2,
    "epoch": 4,
    "warmup": 1,
    "validation_slices": 2,
    "rows": 24,
}


def simulate(folder: Path) -> Path:
    """Four brains and four knees of 48 × 48 pixels, two of each with lesions in every split but the test's."""
    options = ["--matrix", "48", str(LINES), "--coils", "4", "--slices", "2", "--healthy", "0", "--workers", "1"]
    for anatomy in ("brain", "knee"):
        command = ["train", "prepare", "--simulated", "4", "--anatomy", anatomy, *options, "--split", "0.5", "0.5", "0"]
        assert main([*command, "-o", str(folder)]) == 0
    return folder


def reconstruction_settings(**changes: Any) -> ReconstructionSettings:
    """Stage 1 in four steps."""
    return ReconstructionSettings(**{**COMMON, "steps": 4, "lines": LINES, "reconstructor": RECONSTRUCTOR, **changes})


def sampling_settings(reconstruction: Path, **changes: Any) -> SamplingSettings:
    """Stage 2 in four steps."""
    network = NetworkConfig("line_network", {"knots": 5})
    given = {**COMMON, "steps": 4, "network": network, "reconstruction": str(reconstruction), **changes}
    return SamplingSettings(**given)


def tiny_recipe() -> dict[str, dict[str, Any]]:
    """Every stage in one step, and a reconstructor for 8× alone on top."""
    once = {"steps": 1, "epoch": 1, "batch": 1, "validation_slices": 2, "examinations": list(EXAMINATIONS)}
    networks = {"stage": "reconstruction", "lines": LINES, "rows": 24, "reconstructor": to_dict(RECONSTRUCTOR)}
    trained = {"netad": "netad", "sampling": "sampling"}
    tables: dict[str, dict[str, Any]] = {
        "backbone": {"size": LINES, "model": dict(TINY_BACKBONE.model)},
        "netad": {"backbone": "backbone", "size": LINES, "annotated": 2, "normal": 2, "memory": 4},
        "reconstruction": networks,
        "sampling": {"reconstruction": "reconstruction", "netad": "netad"},
        "finetune": {**networks, **trained, "initial": "reconstruction", "accelerations": [8.0]},
    }
    return {name: {**once, **table} for name, table in tables.items()}


def stopped_after(steps: int, train: Any, settings: Any, data: Path, folder: Path) -> None:
    """As if the process had been killed: no goodbye, only what the checkpoint holds."""
    advance = Trainer.advance

    class Killed(BaseException):
        pass

    def dies(self: Trainer) -> None:
        if self.step == steps:
            raise Killed
        advance(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", dies)
        with pytest.raises(Killed):
            train(settings, [data], folder, "cpu")
