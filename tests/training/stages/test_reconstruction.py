"""Stage 1 on tiny data: what learns, what does not, going on bit for bit, several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pass_recon.sampling.budget import line_budget
from pass_recon.sampling.lines import select_lines
from pass_recon_cli.main import main
from tests.training.small import (
    EXAMINATIONS,
    LINES,
    reconstruction_settings,
    sampling_settings,
    stopped_after,
)
from training.data.dataset import collate, open_slices
from training.engine.run_folder import WEIGHTS, load_weights, read_tensors
from training.stages.reconstruction import ReconstructionObjective, train_reconstruction
from training.stages.sampling import (
    train_sampling,
)
from training.stages.shared import acs_of

ROOT = Path(__file__).resolve().parents[3]


def test_stage_1_writes_what_it_promises(runs):
    run = runs / "reconstruction"
    names = {path.name for path in run.iterdir()}
    assert {"settings.yaml", "versions.json", "log.jsonl", "checkpoint.safetensors", "weights.safetensors"} <= names
    assert (run / "figures" / "epoch_0001.png").read_bytes().startswith(b"\x89PNG")
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    validation = next(event for event in events if event["event"] == "validation")
    assert {"brain-flair-4x", "brain-flair-8x", "knee-pd-4x", "knee-pd-8x", "psnr"} <= set(validation)


def test_gradients_reach_networks_weights_and_the_lines_of_the_examinations_in_the_batch(batch):
    torch.manual_seed(0)
    objective = ReconstructionObjective(
        reconstruction_settings(accelerations=(4.0,), examinations=(*EXAMINATIONS, "brain-t1"))
    )
    # What starts at zero lets no gradient past it.
    for parameter in objective.reconstructor.parameters():
        torch.nn.init.normal_(parameter, std=0.05) if not parameter.any() else None
    objective(batch, torch.Generator().manual_seed(0))["loss"].backward()
    idle = [name for name, weight in objective.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == ["populations.brain-t1-4x.logits"]
    assert not objective.populations["knee-pd-4x"].logits.grad[objective.populations["knee-pd-4x"].acs].any()


def test_stage_1_gets_better_on_one_batch(batch):
    torch.manual_seed(0)
    objective = ReconstructionObjective(reconstruction_settings(noise=(0.01, 0.01)))
    optimiser = torch.optim.Adam(objective.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = objective(batch, torch.Generator().manual_seed(0))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 1.0  # dB


def test_a_batch_costs_what_its_slices_cost_one_by_one(batch, data):
    objective = ReconstructionObjective(reconstruction_settings(noise=(0.0, 0.0), accelerations=(1.0,)))
    together = objective(batch)["loss"]
    each = [collate([source[0]]) for source in open_slices([data], "train", EXAMINATIONS)]
    alone = [objective(replace(item, anomaly_map=item.anomaly_mask.float()))["loss"] for item in each]
    torch.testing.assert_close(together, torch.stack(alone).mean(), atol=1e-3, rtol=1e-4)


def test_stage_1_again_takes_the_lines_of_stage_2_and_leaves_them(runs, data, tmp_path):
    settings = reconstruction_settings(
        steps=2, initial=str(runs / "reconstruction"), sampling=str(runs / "sampling"), accelerations=(4.0,)
    )
    train_reconstruction(settings, [data], tmp_path, "cpu")
    before = load_weights(runs / "reconstruction", "reconstructor.")
    after = load_weights(tmp_path, "reconstructor.")
    assert any(not torch.equal(after[name], before[name]) for name in before)
    objective = ReconstructionObjective(settings)
    objective.load_state_dict(load_weights(tmp_path))
    acs, budget = acs_of(LINES, 4.0), line_budget(LINES, 4.0)
    for examination in EXAMINATIONS:
        name = f"{examination}-4x"
        logits = load_weights(runs / "sampling", f"samplers.{name}.population.")["logits"]
        assert torch.equal(objective.chosen_lines(name, LINES), select_lines(logits, acs, budget))
        torch.testing.assert_close(objective.populations[name].logits, 8 * logits)


def test_matrices_of_several_sizes_are_trained_on_together(data, tmp_path):
    narrow = ["--simulated", "3", "--matrix", "48", "33", "--coils", "3", "--slices", "2", "--split", "0.5", "0.5", "0"]
    assert main(["train", "prepare", *narrow, "--workers", "1", "-o", str(tmp_path / "narrow")]) == 0
    settings = reconstruction_settings(steps=6, validation_slices=3)
    train_reconstruction(settings, [data, tmp_path / "narrow"], tmp_path / "run", "cpu")
    assert {"brain-flair-4x", "knee-pd-8x"} <= set(read_tensors(tmp_path / "run" / WEIGHTS)[1])


def test_both_stages_go_on_bit_for_bit(runs, data, tmp_path):
    first = runs / "reconstruction"
    for name, train, settings in (
        ("reconstruction", train_reconstruction, reconstruction_settings()),
        ("sampling", train_sampling, sampling_settings(first)),
    ):
        often = replace(settings, checkpoint_minutes=1e-9)
        stopped_after(2, train, often, data, tmp_path / name)
        assert (tmp_path / name / "checkpoint.safetensors").is_file()
        train(often, [data], tmp_path / name, "cpu")
        for key, weight in load_weights(runs / name).items():
            assert torch.equal(weight, load_weights(tmp_path / name)[key]), f"{name}: {key}"


@pytest.mark.timeout(1200)  # three processes that import torch, on a machine that may be busy
def test_two_processes_average_to_the_gradient_of_a_doubled_batch(data, batch, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CI": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    child = [str(ROOT / "tests" / "training" / "engine" / "gradient_child.py"), str(data), str(tmp_path)]
    done = subprocess.run([*command, *child], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    torch.manual_seed(0)
    alone = ReconstructionObjective(reconstruction_settings(noise=(0.0, 0.0), accelerations=(1.0,)))
    alone(batch)["loss"].backward()
    together = safetensors.torch.load_file(tmp_path / "gradient.safetensors")
    largest = max(float(weight.grad.abs().max()) for weight in alone.parameters() if weight.grad is not None)
    for name, weight in alone.named_parameters():
        torch.testing.assert_close(together[name], weight.grad, atol=1e-4 * largest, rtol=1e-3, msg=name)
    assert (tmp_path / "run" / "weights.safetensors").is_file()
    assert (tmp_path / "run" / "log.jsonl").read_text().count('"started"') == 1
    for rank in (0, 1):
        told = json.loads((tmp_path / f"messages_{rank}.json").read_text())
        # The second step also agrees on how gradients are packed. After it: one package of gradients, and nothing else.
        assert told["sent"][2:] == [{"c10d::allreduce_": 1}] * 3
        assert told["stopped"] == 5  # told after the fourth step, and all know with the gradients of the fifth
