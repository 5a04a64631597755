"""From runs, or a whole recipe, to bundles that reconstruct."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import safetensors.torch
import torch
import yaml

from pass_recon import load_bundle
from pass_recon.types import InputError
from pass_recon_cli.main import main
from tests.training.small import (
    EXAMINATIONS,
    reconstruction_settings,
    tiny_recipe,
)
from training.bundles import make_bundles
from training.data.dataset import open_slices
from training.engine.run_folder import WEIGHTS, load_weights, read_tensors
from training.engine.trainer import start_from
from training.stages.reconstruction import ReconstructionObjective, train_reconstruction


def test_runs_become_bundles_that_reconstruct(runs, tmp_path):
    folders = make_bundles(runs, tmp_path / "bundles")
    assert [folder.name for folder in folders] == ["brain-flair-4x", "brain-flair-8x", "knee-pd-4x", "knee-pd-8x"]
    bundle = load_bundle(folders[1])
    assert bundle.acs_fraction == pytest.approx(0.04)
    assert "4 steps" in bundle.card["recipe"]["reconstruction"]
    weights = load_weights(runs / "reconstruction", "reconstructor.")
    for name, weight in bundle.reconstructor.state_dict().items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-3, atol=1e-6)
    assert len(list((tmp_path / "bundles" / "common").iterdir())) == 1  # one reconstructor for all
    result = tmp_path / "results.json"
    interval = {"mean": 40.0, "low": 39.0, "high": 41.0}
    ours = {"psnr": interval, "ssim": interval, "nmse": interval, "inside": {"psnr": interval}}
    group = {"bundle": "knee-pd-4x", "dataset": "held_out", "noise": 0.005, "maps": "true", "patients": 2, "slices": 3,
             "methods": {"pass": ours}, "differences": {}, "detection": {}}  # fmt: skip
    result.write_text(json.dumps({"groups": [group, group | {"bundle": "another"}]}))
    make_bundles(runs, tmp_path / "bundles", results=[result])
    metrics = load_bundle(tmp_path / "bundles" / "knee-pd-4x").card["metrics"]
    assert metrics["held_out, noise 0.005, true coil maps"]["whole image"]["psnr"] == [40.0, 39.0, 41.0]
    assert load_bundle(folders[0]).card["metrics"] == {}


def test_a_bundle_has_an_as_network_where_personal_lines_gained(runs, tmp_path):
    shutil.copytree(runs / "reconstruction", tmp_path / "reconstruction")
    shutil.copytree(runs / "sampling", tmp_path / "sampling")
    tensors, about = read_tensors(tmp_path / "sampling" / WEIGHTS)
    gains = {"gain knee-pd-4x": 0.02, "gain brain-flair-4x": -0.01}
    metadata = {"about": json.dumps({**about, **gains})}
    safetensors.torch.save_file(tensors, tmp_path / "sampling" / WEIGHTS, metadata)
    make_bundles(tmp_path, tmp_path / "bundles")
    with_one, without = (load_bundle(tmp_path / "bundles" / name) for name in ("knee-pd-4x", "brain-flair-4x"))
    assert with_one.sampler.personal is not None
    assert "no anomaly-aware sampling network" not in with_one.card["notes"]
    assert without.sampler.personal is None
    assert "no anomaly-aware sampling network" in without.card["notes"]
    for bundle in (with_one, without):
        expected = tensors[f"samplers.{bundle.name}.population.logits"]
        torch.testing.assert_close(bundle.sampler.population.logits.detach(), expected, rtol=1e-3, atol=1e-6)


def test_8x_has_a_reconstructor_of_its_own_where_one_was_trained(runs, data, tmp_path):
    shutil.copytree(runs / "sampling", tmp_path / "sampling")
    shutil.copytree(runs / "reconstruction", tmp_path / "reconstruction")
    initial = str(tmp_path / "reconstruction")
    train_reconstruction(
        replace(reconstruction_settings(), accelerations=(8.0,), initial=initial, steps=1),
        [data],
        tmp_path / "finetune_8x",
        "cpu",
    )
    for folder in make_bundles(tmp_path, tmp_path / "bundles"):
        bundle = load_bundle(folder)
        run = "finetune_8x" if folder.name.endswith("8x") else "reconstruction"
        weights = load_weights(tmp_path / run, "reconstructor.")
        for name, weight in bundle.reconstructor.state_dict().items():
            torch.testing.assert_close(weight, weights[name], rtol=1e-3, atol=1e-6)
        assert ("finetune_8x" in bundle.card["recipe"]) == folder.name.endswith("8x")
    assert len(list((tmp_path / "bundles" / "common").iterdir())) == 2


def test_a_run_starts_from_the_reconstructor_of_a_bundle(runs, tmp_path):
    folder = make_bundles(runs, tmp_path / "bundles")[0]
    objective = ReconstructionObjective(reconstruction_settings())
    start_from(objective, str(folder))
    weights = load_bundle(folder).reconstructor.state_dict()
    for name, weight in objective.reconstructor.state_dict().items():
        assert torch.equal(weight, weights[name]), name


def test_unknown_kinds_and_missing_runs_are_named(data, tmp_path):
    with pytest.raises(InputError, match="no train slices of spine-t2"):
        open_slices([data], "train", ["spine-t2"])
    with pytest.raises(InputError, match="there is no file of settings"):
        make_bundles(tmp_path, tmp_path / "bundles")


def test_the_command_trains_lists_settings_and_refuses_what_it_does_not_know(data, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "reconstruction: {steps: 1, epoch: 1, batch: 1, validation_slices: 1, examinations: [brain-flair], lines: 48,\n"
        "  reconstructor: {stages: 1, denoiser: {name: unet, settings: {channels: [4]}},"
        " enhancer: {name: gated_unet, settings: {channels: [4]}}}}\n"
    )
    command = ["train", "reconstruction", "--config", str(recipe), "--data", str(data), "-o", str(tmp_path / "run")]
    assert main([*command, "--device", "cpu", "--set", "learning_rate=0.001"]) == 0
    assert (tmp_path / "run" / "weights.safetensors").is_file()
    assert main(["train", "sampling", "--list"]) == 0
    assert "lesion_weight" in capsys.readouterr().out
    assert main([*command, "--set", "stepz=1"]) == 1
    assert "no setting stepz" in capsys.readouterr().err
    assert main(["train", "all", "--config", str(recipe), "--data", str(data), "-o", str(tmp_path / "all")]) == 1
    assert "has none of sampling" in capsys.readouterr().err


@pytest.mark.timeout(1200)  # five runs, on a machine that may be busy
def test_a_recipe_trains_every_stage_and_makes_bundles_in_one_command(data, tmp_path, capsys):
    recipe, runs = tmp_path / "recipe.yaml", tmp_path / "runs"
    recipe.write_text(yaml.safe_dump(tiny_recipe(), sort_keys=False))
    command = ["train", "all", "--config", str(recipe), "--data", str(data), "-o", str(runs), "--device", "cpu"]
    assert main([*command, "--set", "finetune.stepz=1"]) == 1
    assert "no setting stepz" in capsys.readouterr().err
    assert not runs.exists(), "no stage may begin before all settings are known to be right"
    assert main([*command, "--set", "netad.memory=8"]) == 0
    names = {path.name for path in (runs / "bundles").iterdir()} - {"common"}
    assert names == {f"{examination}-{acceleration}x" for examination in EXAMINATIONS for acceleration in (4, 8)}
    bundle = load_bundle(str(runs / "bundles" / "knee-pd-8x"))
    assert bundle.netad is not None
    assert bundle.card["configuration"]["netad"]["memory_tokens"] == 8
    assert bundle.card["recipe"]["finetune"] == "stage reconstruction, 1 steps"
    assert "finetune" not in load_bundle(str(runs / "bundles" / "knee-pd-4x")).card["recipe"]
    assert bundle.card["recipe"]["trained_with"]["recipe"] == "recipe.yaml"
    assert bundle.card["recipe"]["netad"].endswith(
        "unlike the recipe: memory 8"
    )  # apart from the recipe, changed for this run
    assert "unlike" not in bundle.card["recipe"]["sampling"]
    assert main([*command, "--set", "memory=8"]) == 1
    assert "changed with run.name=value, got 'memory=8'" in capsys.readouterr().err
