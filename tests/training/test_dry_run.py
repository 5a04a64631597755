"""What runs will take is told, and nothing is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon_cli.main import main
from tests.training.small import RECONSTRUCTOR, reconstruction_settings, tiny_recipe
from training.dry_run import _Kept, costs_of
from training.recipe import Run, read_recipe
from training.stages.registry import STAGES


def costs(**changes):
    run = Run(STAGES["reconstruction"], reconstruction_settings(rows=0, precision="float32", **changes), Path("run"))
    return costs_of(run, (32, 40, 3), {})


def test_memory_is_what_a_step_on_data_keeps():
    network = UnrolledReconstructor(RECONSTRUCTOR)
    kspace, maps = (torch.randn(2, 3, 32, 40, dtype=torch.complex64) for _ in range(2))
    kept = _Kept(half=False)
    with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor):
        list(network.iterate(kspace, maps, torch.rand(2, 40, requires_grad=True), lambda image: image.abs()))
    told = costs()
    assert told.kept == pytest.approx(kept.total + 2 * kspace.nbytes, rel=0.1)
    assert told.learned == sum(weight.numel() for weight in network.parameters()) + 4 * 48


def test_costs_grow_with_what_they_depend_on():
    one, two = costs(batch=1), costs(batch=2)
    assert two.kept == pytest.approx(2 * one.kept, rel=0.05)
    assert two.flops == pytest.approx(2 * one.flops)
    assert two.operations == one.operations
    deeper = costs(batch=1, reconstructor=replace(RECONSTRUCTOR, stages=2))
    assert deeper.flops > 1.5 * one.flops
    assert costs(batch=2, checkpointing=True).kept < two.kept / 2


def test_a_whole_recipe_is_told_and_nothing_is_written(tmp_path, data, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(tiny_recipe(), sort_keys=False))
    assert main(["train", "all", "--config", "tiny.yaml", "--data", str(data), "--dry-run", "--processes", "2"]) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in said.splitlines()}
    assert lines["reconstruction"][1:4] == ["1", "2", "0.25"]  # steps, slices a step of two processes, of 8 slices
    assert {"backbone", "netad", "reconstruction", "sampling", "finetune", "together"} <= lines.keys()
    assert "nothing was run" in said
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
    assert main(["train", "sampling", "--dry-run"]) == 1
    assert "stage 1" in capsys.readouterr().err


def test_the_recipe_for_eight_gpus_is_that_for_one_with_changes():
    one, eight = (read_recipe(Path(name), Path("runs")) for name in ("h100", "8xh100"))
    assert [run.folder.name for run in eight] == [run.folder.name for run in one]
    for single, many in zip(one, eight, strict=True):
        if single.folder.name != "netad":
            assert many.settings.steps * 4 == single.settings.steps
        assert replace(many.settings, steps=1, seed=0).batch <= single.settings.batch
