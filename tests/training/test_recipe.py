"""Recipes and settings files: what is read from them, and how what is wrong with them is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pass_recon.types import InputError
from tests.training.small import tiny_recipe
from training.engine.settings import run_settings
from training.recipe import read_recipe, read_run
from training.stages.registry import STAGES

SHIPPED = Path(__file__).resolve().parents[2] / "training" / "recipes" / "shipped.yaml"


def test_the_shipped_recipe_is_understood_and_its_runs_build_on_each_other(tmp_path):
    runs = {run.folder.name: run for run in read_recipe(SHIPPED, tmp_path)}
    assert [run.stage.name for run in runs.values()] == [
        "backbone", "netad", "reconstruction", "reconstruction", "sampling", *["reconstruction"] * 3
    ]  # fmt: skip
    assert runs["netad"].settings.backbone == str(tmp_path / "backbone")
    assert runs["finetune_8x"].settings.initial == str(tmp_path / "finetune")
    assert runs["finetune_8x"].settings.accelerations == (8.0,)
    assert runs["finetune_8x"].settings.lesion_weight == runs["finetune_4x"].settings.lesion_weight == 2


def test_one_run_of_a_recipe_finds_the_others_beside_it(tmp_path):
    run = read_run(STAGES["reconstruction"], SHIPPED, tmp_path / "finetune", ["learning_rate=1e-4"], table="finetune")
    assert run.settings.sampling == str(tmp_path / "sampling")
    assert run.settings.learning_rate == 1e-4
    # So that `train all` finds a run done that was trained alone.
    whole = {run.folder.name: run for run in read_recipe(SHIPPED, tmp_path)}
    assert read_run(STAGES["netad"], SHIPPED, tmp_path / "netad") == whole["netad"]
    elsewhere = read_run(STAGES["netad"], SHIPPED, tmp_path / "netad", ["backbone=/other/run"])
    assert elsewhere.settings.backbone == "/other/run"


def test_settings_of_one_stage_alone_need_no_table(tmp_path):
    (tmp_path / "plain.yaml").write_text("steps: 7\nlearning_rate: 1e-2\nnetwork: {name: line_network}\n")
    settings = read_run(STAGES["sampling"], tmp_path / "plain.yaml", tmp_path / "run", ["batch=5"]).settings
    assert (settings.steps, settings.learning_rate, settings.batch) == (7, 0.01, 5)


def test_all_settings_are_explained_and_run_folders_known():
    from pass_recon.common.settings import explained

    assert run_settings(STAGES["sampling"].settings_class) == ["initial", "reconstruction", "netad"]
    for stage in STAGES.values():
        assert not [name for name, words in explained(stage.settings_class) if not words]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"netad": {"backbone": "sampling"}}, "netad.backbone is sampling, which comes later"),
        ({"finetune": {"stage": "polish"}}, "finetune: there is no stage 'polish', only backbone"),
        ({"finetune": {"stepz": 3}}, "finetune: ReconstructionSettings: there is no setting stepz"),
        ({"finetune": {"steps": "many"}}, "steps must be a valid integer.*'many'"),
        ({"finetune": {"steps": 0}}, "at least 1, got 0"),
        ({"finetune": 3}, "finetune is 3"),
    ],
)
def test_wrong_recipes_are_told(tmp_path, changes, message):
    tables = tiny_recipe()
    for name, change in changes.items():
        tables[name] = {**tables[name], **change} if isinstance(change, dict) else change
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tables, sort_keys=False))
    with pytest.raises(InputError, match=message):
        read_recipe(tmp_path / "recipe.yaml", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 7", "no setting stepz, only accelerations"),
        ("ema_decay: 1.0", "below 1, got 1.0"),
        ("precision: half", "precision must be 'auto', 'float32' or 'bfloat16'"),
        ("[1, 2]", "must be a table"),
        ("a: [", "no YAML"),
        ("netad: {steps: 3}", "has no table reconstruction, only netad"),
        ("reconstruction: {stage: netad}", "for another stage"),
    ],
)
def test_wrong_settings_are_told(tmp_path, text, message):
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_run(STAGES["reconstruction"], tmp_path / "wrong.yaml", tmp_path / "run")


@pytest.mark.parametrize(
    "changes", [["netad.clip=ViT-L-14-336", "netad.pretrained=openai"], ["netad.path=/models/clip"]]
)
def test_a_published_clip_takes_the_place_of_the_backbone(tmp_path, changes):
    runs = {run.folder.name: run for run in read_recipe(SHIPPED, tmp_path, changes)}
    assert "backbone" not in runs
    assert runs["netad"].settings.backbone == ""
    assert len(runs) == len(read_recipe(SHIPPED, tmp_path)) - 1
    alone = read_run(
        STAGES["netad"], SHIPPED, tmp_path / "netad", [change.removeprefix("netad.") for change in changes]
    )
    assert alone.settings == runs["netad"].settings


def test_the_papers_recipe_is_the_papers(tmp_path):
    runs = {run.folder.name: run.settings for run in read_recipe(SHIPPED.with_name("paper.yaml"), tmp_path)}
    assert list(runs) == ["netad", "reconstruction", "sampling"]
    stage_1, stage_2 = runs["reconstruction"], runs["sampling"]
    networks = stage_1.reconstructor
    assert (networks.stages, networks.inner_iterations, networks.cg_iterations, networks.rho) == (3, 5, 5, 1.0)
    assert (networks.denoiser.name, networks.enhancer.name, stage_2.network.name) == ("published",) * 3
    assert (stage_1.global_weight, stage_1.image_weight, stage_1.lesion_weight) == (1, 2, 1)
    assert (stage_1.loss, stage_2.loss, stage_1.look) == ("squared", "squared", "reconstruction")
    assert stage_2.lines_rate == 0
    assert runs["netad"].annotated == 12


@pytest.mark.parametrize("name", ["shipped", "paper", "h100"])
def test_every_recipe_of_all_stages_is_understood(tmp_path, name):
    assert read_recipe(SHIPPED.with_name(f"{name}.yaml"), tmp_path) == read_recipe(Path(name), tmp_path)
