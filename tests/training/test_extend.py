"""A denoiser, an AS network, an evaluation method and a stage of training, added from outside as a user adds them."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from torch import Tensor, nn

from pass_recon import load_bundle
from pass_recon.config import NetworkConfig
from pass_recon.reconstruction.denoiser import DENOISERS
from pass_recon.sampling.personal import PERSONAL_NETWORKS
from pass_recon_cli.main import main
from tests.training.small import tiny_recipe
from training.evaluate.methods import LINE_CHOOSERS, METHODS, Method, ScannedSlice, reconstructed
from training.recipe import read_recipe
from training.stages.registry import STAGES, Stage


class Damped(nn.Module):
    """A denoiser with one weight."""

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start))

    def forward(self, image: Tensor) -> Tensor:
        return self.weight * image


class LowFirst(nn.Module):
    """An AS network that asks every patient for lines near the centre."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.ones(()))

    def forward(self, acs_image: Tensor, anomaly_map: Tensor, population: Tensor) -> Tensor:
        pe = acs_image.shape[-1]
        return -self.strength * (torch.arange(pe) - pe // 2).abs().expand(len(acs_image), -1) / pe


def every_other(scanned: ScannedSlice) -> Tensor:
    """The ACS and lines from the first on, two apart, as many as the budget allows."""
    lines = scanned.acs.clone()
    for line in range(0, len(lines), 2):
        if int(lines.sum()) < scanned.budget:
            lines[line] = True
    return lines


def polish(settings, data, run_folder, device) -> None:
    """A stage that is not trained here: it only has to be found."""


PolishSettings = STAGES["reconstruction"].settings_class


def test_networks_from_outside_are_trained_bundled_and_evaluated(data, tmp_path, monkeypatch):
    monkeypatch.setitem(DENOISERS, "damped", Damped)
    monkeypatch.setitem(PERSONAL_NETWORKS, "low_first", LowFirst)
    monkeypatch.setitem(LINE_CHOOSERS, "every other", every_other)
    monkeypatch.setitem(METHODS, "every-other", Method("every other line", "every other", reconstructed, compared=True))
    tables = {name: table for name, table in tiny_recipe().items() if name in ("reconstruction", "sampling")}
    tables["reconstruction"]["reconstructor"]["denoiser"] = {"name": "damped", "settings": {"start": 0.9}}
    tables["sampling"] = {**tables["sampling"], "netad": "", "network": {"name": "low_first"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tables, sort_keys=False))
    runs = tmp_path / "runs"
    arguments = ["--config", str(tmp_path / "recipe.yaml"), "--data", str(data), "-o", str(runs), "--device", "cpu"]
    assert main(["train", "all", *arguments]) == 0
    folder = str(runs / "bundles" / "brain-flair-4x")
    bundle = load_bundle(folder)
    assert bundle.reconstructor.config.denoiser == NetworkConfig("damped", {"start": 0.9})
    output = tmp_path / "results"
    methods = ["--methods", "every-other", "pass", "--quick", "--workers", "1", "--split", "validation"]
    assert main(["evaluate", folder, "--data", str(data), *methods, "-o", str(output)]) == 0
    (group,) = json.loads((output / "results.json").read_text())["groups"]
    assert list(group["methods"]) == ["pass", "every-other"]
    assert group["differences"]["every-other"]["whole"] is not None
    assert "every other line" in (output / "results.md").read_text()


def test_the_command_tells_a_method_from_outside(monkeypatch, capsys):
    monkeypatch.setitem(METHODS, "every-other", Method("every other line", "every other", reconstructed))
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--list"])
    assert ended.value.code == 0
    assert "every other line; lines: every other" in capsys.readouterr().out


def test_a_stage_from_outside_is_part_of_a_recipe(tmp_path, monkeypatch):
    monkeypatch.setitem(STAGES, "polish", Stage("polish", __name__, "PolishSettings", "polish"))
    tables = {**tiny_recipe(), "polish": {"initial": "finetune", "steps": 3}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tables, sort_keys=False))
    run = read_recipe(tmp_path / "recipe.yaml", tmp_path)[-1]
    assert (run.stage.name, run.settings.steps, run.settings.initial) == ("polish", 3, str(tmp_path / "finetune"))
    run.stage.train(run.settings, [], run.folder, "cpu")
