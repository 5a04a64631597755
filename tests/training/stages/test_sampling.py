"""Stage 2 on tiny data: lines from the ACS alone, and populations centred on their patients."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pass_recon.metrics import Quality
from pass_recon.sampling.budget import line_budget
from pass_recon.sampling.lines import select_lines
from pass_recon.types import InputError
from tests.training.small import (
    EXAMINATIONS,
    LINES,
    sampling_settings,
)
from training.data.dataset import collate, open_slices
from training.engine.run_folder import load_weights
from training.stages.sampling import (
    SamplingObjective,
    SamplingSettings,
    centre_populations,
    choose_population_logits,
    surroundings,
    train_sampling,
)
from training.stages.shared import acs_of


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
    slices = [source[0] for source in open_slices([data], "train", EXAMINATIONS)]
    knee = collate([slices[1]])
    kspace = knee.kspace(noise=0.01, fixed=True)
    before = objective.line_logits(knee, kspace, knee.coil_maps, 4.0)[0].detach()
    population = objective.sampler("knee-pd-4x").population(LINES).detach().clone()
    centre_populations(objective, slices, torch.device("cpu"))
    torch.testing.assert_close(objective.line_logits(knee, kspace, knee.coil_maps, 4.0)[0].detach(), before)
    # One patient of each examination, seen with other noise: nearly all that it asks for is the population's now.
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
        return [SimpleNamespace(name="knee-pd-4x", quality=Quality(40.0 - abs(float(found[2]) - better), 1.0, 0.0))]

    monkeypatch.setattr("training.stages.sampling.centre_populations", centre)
    monkeypatch.setattr("training.stages.sampling.planned", planned)
    psnr = choose_population_logits(objective, [], [], torch.device("cpu"))
    assert psnr == {"knee-pd-4x": pytest.approx(40.0, abs=1e-4)}
    expected = own + asked if worse == "own" else own
    torch.testing.assert_close(sampler.population(LINES).detach(), expected)


def test_surroundings_reach_a_few_pixels_further():
    mask = torch.zeros(1, 48, 48, dtype=torch.bool)
    mask[0, 24, 24] = True
    assert int(surroundings(mask).sum()) == 17**2


def test_a_missing_stage_1_is_named_and_leaves_no_folder(data, tmp_path):
    with pytest.raises(InputError, match="reconstruction=RUN"):
        train_sampling(replace(SamplingSettings(), examinations=EXAMINATIONS), [data], tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()
