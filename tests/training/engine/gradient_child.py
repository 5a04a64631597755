"""One of two processes of the tests of training together: `gradient_child.py DATA FOLDER`."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from torch import distributed

from tests.training.small import EXAMINATIONS, reconstruction_settings
from training.data.dataset import Slices, collate, open_slices
from training.engine.processes import Processes, joined_processes
from training.engine.run_folder import opened_run
from training.engine.trainer import Interrupted, Trainer
from training.stages.reconstruction import ReconstructionObjective, train_reconstruction

SETTINGS = reconstruction_settings(noise=(0.0, 0.0), accelerations=(1.0,), steps=6)


def share_of(data: Path, processes: Processes) -> Slices:
    """The slice of this process."""
    share = collate([open_slices([data], "train", EXAMINATIONS)[processes.rank][0]])
    return replace(share, anomaly_map=share.anomaly_mask.float())


def gradient(data: Path, folder: Path, processes: Processes) -> None:
    """Learn from this process's slice and save what both agree on."""
    with opened_run(folder / "gradient", SETTINGS, "test", writes=processes.first) as run:
        torch.manual_seed(0)
        trainer = Trainer(ReconstructionObjective(SETTINGS), SETTINGS, run, processes)
        trainer.learn(share_of(data, processes))
        start = "module.objective."
        named = {
            name.removeprefix(start): weight.grad.contiguous()
            for name, weight in trainer.objective.named_parameters()
            if name.startswith(start)
        }
        if processes.first:
            safetensors.torch.save_file(named, folder / "gradient.safetensors")
        distributed.barrier()


def messages(data: Path, folder: Path, processes: Processes) -> None:
    """What the processes send each other in a step, and at which step all stop once one of them is told to."""
    with opened_run(folder / "messages", SETTINGS, "test", writes=processes.first) as run:
        trainer, share = Trainer(ReconstructionObjective(SETTINGS), SETTINGS, run, processes), share_of(data, processes)
        sent: list[dict[str, int]] = []
        stopped = 0
        try:
            for step in trainer.steps():
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
                    trainer.learn(share)
                    trainer.advance()
                names = (event.name for event in profiled.events())
                sent.append(Counter(name for name in names if name.startswith("c10d::")))
                if step == 3 and processes.rank == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
        except Interrupted:
            stopped = trainer.step
    told = {"sent": sent, "stopped": stopped}
    (folder / f"messages_{processes.rank}.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    given, output = Path(sys.argv[1]), Path(sys.argv[2])
    with joined_processes("cpu") as joined:
        gradient(given, output, joined)
        messages(given, output, joined)
        train_reconstruction(reconstruction_settings(steps=2, epoch=2), [given], output / "run", "cpu")
