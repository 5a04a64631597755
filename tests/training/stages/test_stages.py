"""Stages 1 and 2 on tiny data: what learns, what does not, going on bit for bit, and bundles of the result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
import yaml

from pass_recon import load_bundle
from pass_recon.physics.fourier import ifft2c
from pass_recon.sampling.budget import line_budget
from pass_recon.sampling.lines import calibration_width, select_lines
from pass_recon.sampling.population import straight_through
from pass_recon.types import InputError
from pass_recon_cli.main import main
from tests.training.small import KINDS, LINES, reconstruction_settings, sampling_settings, stopped_after, tiny_recipe
from training.bundles import make_bundles
from training.data.dataset import collate, open_slices
from training.engine.run_folder import WEIGHTS, load_weights, read_tensors
from training.engine.trainer import start_from
from training.stages.losses import acs_of, decibels, drawn_lines, squared_error, with_fair_noise
from training.stages.reconstruction import ReconstructionObjective, train_reconstruction
from training.stages.sampling import (
    SamplingObjective,
    centre_populations,
    settle_populations,
    surroundings,
    train_sampling,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train_reconstruction(reconstruction_settings(), [data], folder / "reconstruction", "cpu")
    train_sampling(sampling_settings(folder / "reconstruction"), [data], folder / "sampling", "cpu")
    return folder


@pytest.fixture(scope="module")
def batch(data):
    slices = collate([source[0] for source in open_slices([data], "train", KINDS)])
    return replace(slices, anomaly_map=slices.anomaly_mask.float())


def test_stage_1_writes_what_it_promises(runs):
    run = runs / "reconstruction"
    names = {path.name for path in run.iterdir()}
    assert {"settings.yaml", "versions.json", "log.jsonl", "checkpoint.safetensors", "weights.safetensors"} <= names
    assert (run / "figures" / "epoch_0001.png").read_bytes().startswith(b"\x89PNG")
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    validation = next(event for event in events if event["event"] == "validation")
    assert {"brain-flair-4x", "brain-flair-8x", "knee-pd-4x", "knee-pd-8x", "psnr"} <= set(validation)


def test_gradients_reach_networks_weights_and_the_lines_of_the_kinds_in_the_batch(batch):
    torch.manual_seed(0)
    objective = ReconstructionObjective(reconstruction_settings(accelerations=(4.0,), kinds=(*KINDS, "brain-t1")))
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
    each = [collate([source[0]]) for source in open_slices([data], "train", KINDS)]
    alone = [objective(replace(item, anomaly_map=item.anomaly_mask.float()))["loss"] for item in each]
    torch.testing.assert_close(together, torch.stack(alone).mean(), atol=1e-3, rtol=1e-4)


def test_drawn_lines_keep_the_acs_and_the_budget_on_average():
    logits = torch.zeros(2000, LINES, requires_grad=True)
    lines = drawn_lines(logits, 4.0, 0.2, torch.Generator().manual_seed(0))
    assert set(lines.detach().unique().tolist()) == {0.0, 1.0}
    assert float(lines.detach().sum(-1).mean()) == pytest.approx(LINES / 4, abs=0.2)
    assert all(calibration_width(row > 0) >= 4 for row in lines.detach()[:20])
    lines.sum().backward()
    assert logits.grad is not None


def test_errors_are_negative_psnr_and_weights_choose_where():
    truth, image = torch.ones(2, 8, 8, dtype=torch.complex64), torch.ones(2, 8, 8, dtype=torch.complex64)
    image[0, :4] += 0.1
    assert float(decibels(squared_error(image, truth))[0]) == pytest.approx(-23.0103, abs=1e-3)
    weight = torch.zeros(2, 8, 8)
    weight[:, :4] = 1
    assert float(decibels(squared_error(image, truth, weight))[0]) == pytest.approx(-20.0, abs=1e-3)
    assert float(decibels(squared_error(image, truth))[1]) == pytest.approx(-80.0)


def test_stage_2_trains_the_as_network_and_the_populations_lines_but_not_the_reconstructor(runs, batch):
    objective = SamplingObjective(sampling_settings(runs / "reconstruction"), None)
    losses = objective(batch, torch.Generator().manual_seed(0))
    losses["loss"].backward()
    learns = {name.split(".")[2] for name, weight in objective.named_parameters() if weight.grad is not None}
    assert learns == {"personal", "population"}
    sampler = objective.samplers["brain-flair-4x"]
    assert sampler.personal.coefficients.grad.any()
    assert sampler.population.logits.grad.any()


def test_stage_2_starts_from_the_population_of_stage_1(runs):
    objective = SamplingObjective(sampling_settings(runs / "reconstruction"), None)
    for name, sampler in objective.samplers.items():
        stage_1 = load_weights(runs / "reconstruction", f"populations.{name}.")["logits"]
        acceleration = float(name[-2])
        plans = [select_lines(x, acs_of(LINES, acceleration), line_budget(LINES, acceleration))
                 for x in (stage_1, sampler.population(LINES).detach())]  # fmt: skip
        assert torch.equal(*plans)
        assert float(sampler.population(LINES).detach().abs().max()) <= 0.5
    image = torch.randn(1, 48, LINES, dtype=torch.complex64)
    assert torch.equal(objective.samplers["knee-pd-8x"](image)[0], objective.samplers["knee-pd-8x"].population(LINES))


def test_the_plan_of_stage_2_depends_on_the_acs_alone(runs, batch):
    objective = SamplingObjective(sampling_settings(runs / "reconstruction"), None)
    torch.nn.init.normal_(objective.samplers["brain-flair-4x"].personal.coefficients)
    kspace = batch.kspace(noise=0.01, fixed=True)
    logits, _ = objective.line_logits(batch, kspace, batch.coil_maps, 4.0)
    assert float((logits[0] - objective.samplers["brain-flair-4x"].population(LINES)).detach().abs().max()) > 1e-4
    changed = kspace.clone()
    changed[..., :20] = torch.randn_like(changed[..., :20])
    torch.testing.assert_close(objective.line_logits(batch, changed, batch.coil_maps, 4.0)[0], logits)


def test_populations_are_centred_on_their_patients(runs, data):
    objective = SamplingObjective(sampling_settings(runs / "reconstruction"), None)
    torch.nn.init.normal_(objective.samplers["brain-flair-4x"].personal.coefficients)
    slices = [source[0] for source in open_slices([data], "train", KINDS)]
    knee = collate([slices[1]])
    kspace = knee.kspace(noise=0.01, fixed=True)
    before = objective.line_logits(knee, kspace, knee.coil_maps, 4.0)[0].detach()
    population = objective.sampler("knee-pd-4x").population(LINES).detach().clone()
    centre_populations(objective, slices, torch.device("cpu"))
    torch.testing.assert_close(objective.line_logits(knee, kspace, knee.coil_maps, 4.0)[0].detach(), before)
    # One patient of each kind, seen with other noise: nearly all that it asks for is the population's now.
    left = before[0] - objective.sampler("knee-pd-4x").population(LINES).detach()
    assert float(left.abs().max()) < 0.2 * float((before[0] - population).abs().max())


@pytest.mark.parametrize("worse", ["centred", "own"])
def test_a_population_keeps_its_own_lines_where_centring_makes_them_worse(runs, data, monkeypatch, worse):
    objective = SamplingObjective(sampling_settings(runs / "reconstruction"), None)
    sampler = objective.sampler("knee-pd-4x")
    own = sampler.population(LINES).detach().clone()
    asked = torch.zeros_like(own).index_fill(0, torch.tensor([2, 5]), 30.0)
    better = 30.0 if worse == "own" else 0.0

    def centre(objective, common, device):
        objective.sampler("knee-pd-4x").centre((own + asked)[None])

    def planned(objective, examples, device, *, personal):
        assert not personal
        found = objective.sampler("knee-pd-4x").population(LINES).detach() - own
        return [SimpleNamespace(name="knee-pd-4x", psnr=40.0 - abs(float(found[2]) - better))]

    monkeypatch.setattr("training.stages.sampling.centre_populations", centre)
    monkeypatch.setattr("training.stages.sampling.planned", planned)
    psnr = settle_populations(objective, [], [], torch.device("cpu"))
    assert psnr == {"knee-pd-4x": pytest.approx(40.0, abs=1e-4)}
    expected = own + asked if worse == "own" else own
    torch.testing.assert_close(sampler.population(LINES).detach(), expected)


def test_surroundings_reach_a_few_pixels_further():
    mask = torch.zeros(1, 48, 48, dtype=torch.bool)
    mask[0, 24, 24] = True
    assert int(surroundings(mask).sum()) == 17**2


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
    for kind in KINDS:
        name = f"{kind}-4x"
        logits = load_weights(runs / "sampling", f"samplers.{name}.population.")["logits"]
        assert torch.equal(objective.chosen_lines(name, LINES), select_lines(logits, acs, budget))
        torch.testing.assert_close(objective.populations[name].logits, 8 * logits)


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


def test_runs_become_bundles_that_reconstruct(runs, tmp_path):
    folders = make_bundles(runs, tmp_path / "bundles")
    assert [folder.name for folder in folders] == ["brain-flair-4x", "brain-flair-8x", "knee-pd-4x", "knee-pd-8x"]
    bundle = load_bundle(folders[1])
    assert bundle.acs_fraction == pytest.approx(0.04)
    assert bundle.card["recipe"]["reconstruction"]["steps_done"] == 4
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
    assert metrics["held_out, noise 0.005, true coil maps"]["whole image"]["psnr"] == interval
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


def test_two_processes_average_to_the_gradient_of_a_doubled_batch(data, batch, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CI": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    child = [str(ROOT / "tests" / "training" / "engine" / "gradient_child.py"), str(data), str(tmp_path)]
    done = subprocess.run([*command, *child], env=environment, capture_output=True, text=True, timeout=150, check=False)
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


def test_the_command_trains_lists_settings_and_refuses_what_it_does_not_know(data, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "reconstruction: {steps: 1, epoch: 1, batch: 1, validation_slices: 1, kinds: [brain-flair], lines: 48,\n"
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


def test_a_recipe_trains_every_stage_and_makes_bundles_in_one_command(data, tmp_path, capsys):
    recipe, runs = tmp_path / "recipe.yaml", tmp_path / "runs"
    recipe.write_text(yaml.safe_dump(tiny_recipe()))
    command = ["train", "all", "--config", str(recipe), "--data", str(data), "-o", str(runs), "--device", "cpu"]
    assert main([*command, "--set", "finetune_8x.stepz=1"]) == 1
    assert "no setting stepz" in capsys.readouterr().err
    assert not runs.exists(), "no stage may begin before all settings are known to be right"
    assert main([*command, "--set", "netad.memory=8"]) == 0
    names = {path.name for path in (runs / "bundles").iterdir()} - {"common"}
    assert names == {f"{kind}-{acceleration}x" for kind in KINDS for acceleration in (4, 8)}
    bundle = load_bundle(str(runs / "bundles" / "knee-pd-8x"))
    assert bundle.netad is not None
    assert bundle.card["configuration"]["netad"]["memory_tokens"] == 8
    assert bundle.card["recipe"]["finetune_8x"]["steps_done"] == 1
    assert "finetune_4x" not in bundle.card["recipe"]
    assert main([*command, "--set", "memory=8"]) == 1
    assert "changed with run.name=value, got 'memory=8'" in capsys.readouterr().err


def test_noise_is_not_held_against_acquired_lines():
    """Lines of noise alone: derivatives call those acquired harmful and those left out worthless."""
    damping, acquired = 0.2, torch.arange(8) < 4
    noise = torch.randn(2000, 1, 8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    harm = []
    for fair in (False, True):
        probabilities = torch.full((8,), 0.5, requires_grad=True)
        lines = straight_through(acquired, probabilities, damping).expand(len(noise), -1)
        kspace = with_fair_noise(noise, noise, lines, damping) if fair else noise
        torch.testing.assert_close(kspace.detach(), noise)
        weights = lines[:, None, None]
        image = ifft2c(weights * kspace / (weights + damping))[:, 0]
        squared_error(image, torch.zeros(8, 8)).mean().backward()
        harm.append((float(probabilities.grad[acquired].mean()), float(probabilities.grad[~acquired].mean())))
    (blamed, left_out), (fairly, left_out_too) = harm
    assert blamed > 0.1
    assert fairly <= 0
    assert left_out == left_out_too == pytest.approx(0, abs=1e-6)
