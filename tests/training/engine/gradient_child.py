"""One of two processes of `test_stages`: its share of a batch, the averaged gradient, then a run of two steps."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch

from tests.training.small import EXAMINATIONS, reconstruction_settings
from training.data.dataset import collate, open_slices
from training.engine.processes import joined_processes
from training.engine.run_folder import opened_run
from training.engine.trainer import Trainer
from training.stages.reconstruction import ReconstructionObjective, train_reconstruction


def gradient(data: Path, folder: Path) -> None:
    """Learn from this process's slice and save what both agree on."""
    settings = reconstruction_settings(noise=(0.0, 0.0), accelerations=(1.0,))
    with (
        joined_processes("cpu") as processes,
        opened_run(folder / "gradient", settings, "test", writes=processes.first) as run,
    ):
        torch.manual_seed(0)
        trainer = Trainer(ReconstructionObjective(settings), settings, run, processes)
        share = collate([open_slices([data], "train", EXAMINATIONS)[processes.rank][0]])
        trainer.learn(replace(share, anomaly_map=share.anomaly_mask.float()))
        if processes.first:
            named = {name.removeprefix("module."): weight for name, weight in trainer.objective.named_parameters()}
            safetensors.torch.save_file(
                {k: v.grad.contiguous() for k, v in named.items()}, folder / "gradient.safetensors"
            )
        processes.wait()


if __name__ == "__main__":
    with joined_processes("cpu"):
        gradient(Path(sys.argv[1]), Path(sys.argv[2]))
        train_reconstruction(
            reconstruction_settings(steps=2, epoch=2), [Path(sys.argv[1])], Path(sys.argv[2]) / "run", "cpu"
        )
