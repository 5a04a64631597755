"""Detectors from few cases: only adapters learn, few cases are few, and the result is what other stages load."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from open_clip.push_to_hf_hub import save_config_for_hf
from safetensors.torch import save_file

from pass_recon.types import InputError
from pass_recon_cli.main import main
from tests.networks import TINY_BACKBONE
from tests.training.small import EXAMINATIONS, stopped_after
from tests.training.stages.test_backbone import tiny_settings
from training.data.images import stacked
from training.engine.run_folder import load_weights, read_tensors
from training.evaluate.statistics import score_auc
from training.stages.anomaly_maps import NETAD, load_detectors
from training.stages.backbone import train_backbone
from training.stages.few_shot_transfer import few_shot_transfer
from training.stages.netad import (
    AdapterObjective,
    NetADSettings,
    build_detectors,
    dice,
    few_cases,
    focal,
    train_netad,
    without_a_class,
)


@pytest.fixture(scope="module")
def backbone(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    train_backbone(tiny_settings(steps=2), [data], folder, "cpu")
    return str(folder)


@pytest.fixture(scope="module")
def run(data, backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("netad")
    train_netad(netad_settings(backbone), [data], folder, "cpu")
    return folder


def netad_settings(backbone: str, **changes: Any) -> NetADSettings:
    given = {"steps": 4, "batch": 2, "epoch": 4, "warmup": 1, "size": 48, "examinations": EXAMINATIONS, "memory": 16}
    return NetADSettings(backbone=backbone, **{**given, **changes})


def test_gradient_reaches_adapters_alone(data, backbone):
    netads = build_detectors(netad_settings(backbone), EXAMINATIONS)
    objective = AdapterObjective(netads)
    batches = [stacked([source[0], source[1]]) for source in few_cases([data], netad_settings(backbone))]
    objective(batches)["loss"].backward()
    for name, weight in objective.named_parameters():
        assert (weight.grad is not None) == name.startswith("adapters."), name
        assert weight.grad is None or bool(weight.grad.any()), name
    frozen = next(iter(netads.values())).backbone
    assert all(netad.backbone is frozen for netad in netads.values())
    assert all(weight.grad is None for weight in frozen.parameters())


def test_published_weights_plug_in(data, tmp_path):
    clip = open_clip.CustomTextCLIP(**TINY_BACKBONE.model)
    open_clip.set_model_preprocess_cfg(clip, {"mean": (0.5,) * 3, "std": (0.5,) * 3})
    save_config_for_hf(clip, tmp_path / "open_clip_config.json", dict(TINY_BACKBONE.model))
    save_file(clip.state_dict(), tmp_path / "open_clip_model.safetensors")
    train_netad(netad_settings("", path=str(tmp_path), steps=1), [data], tmp_path / "run", "cpu")
    netads = load_detectors(tmp_path / "run")
    assert torch.equal(netads["knee-pd"].backbone.visual.conv1.weight, clip.visual.conv1.weight)
    assert not any(name.startswith("backbone.") for name in read_tensors(tmp_path / "run" / NETAD)[0])
    with pytest.raises(InputError, match="one backbone"):
        build_detectors(netad_settings("run", clip="ViT-L-14-336", pretrained="openai"), EXAMINATIONS)
    with pytest.raises(InputError, match="one backbone"):
        build_detectors(netad_settings(""), EXAMINATIONS)


def test_losses_are_small_where_the_map_is_right():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, 2:4, 2:4] = True
    right, weight = (20.0 * mask.float() - 10)[:, None], torch.ones(1, 8, 8)
    for loss in (focal, dice):
        assert loss(right, mask, weight) < 0.01 < loss(-right, mask, weight)
    # What lies outside the known lesions of an unreviewed image may be ignored.
    assert focal(torch.full_like(right, 10.0), mask, mask.float()) < 0.01


def test_a_finding_without_a_box_does_not_teach_pixels_that_they_are_normal(data, backbone):
    netads = build_detectors(netad_settings(backbone), EXAMINATIONS)
    source = few_cases([data], netad_settings(backbone))[0]
    batch = stacked([source[source.normal[0]]]) if source.normal else stacked([source[0]])
    batch = replace(batch, classes=torch.zeros_like(batch.classes), reviewed=torch.tensor([True]))
    objective = AdapterObjective(netads)
    stated, normal = (replace(batch, label=torch.tensor([label])) for label in (1, 0))
    assert objective([stated])["focal"] == 0
    assert objective([normal])["focal"] > 0
    assert objective([stated])["images"] > 0
    assert objective([stated])["dice"] == 0


def test_annotated_cases_have_boxes(data, backbone, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text(encoding="utf-8"))
    sick = [case for case in manifest["cases"] if case["abnormal_slices"] and case["split"] == "train"]
    for case in sick[1:]:
        case["boxes"] = {}  # findings of the whole study, without boxes
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    few = few_cases([tmp_path / "data"], netad_settings(backbone, annotated=9, normal=0, examinations=()))
    having = {name for source in few for name, _ in source.entries}
    without = {case["name"] for case in sick[1:] if not case["normal_slices"]}
    assert sick[0]["name"] in having
    assert without
    assert not having & without


def test_few_cases_are_few(data, backbone):
    all_of_them = few_cases([data], netad_settings(backbone, annotated=0, normal=0))
    one = few_cases([data], netad_settings(backbone, annotated=1, normal=0))
    assert [source.examination for source in one] == list(EXAMINATIONS)
    for few, every in zip(one, all_of_them, strict=True):
        assert {name for name, _ in few.entries} <= {name for name, _ in every.entries}
    single = few_cases([data], netad_settings(backbone, annotated=1, normal=1))
    assert all(len({name for name, _ in source.entries}) <= 2 for source in single)


def test_detectors_load_and_share_a_backbone(run, data):
    netads = load_detectors(run)
    assert sorted(netads) == sorted(EXAMINATIONS)
    assert len({id(netad.backbone) for netad in netads.values()}) == 1
    tensors, about = read_tensors(run / "netad.safetensors")
    assert set(about["examinations"]) == set(EXAMINATIONS)
    assert {key.split(".")[0] for key in tensors} == {"backbone", *EXAMINATIONS}
    for netad in netads.values():
        assert netad.memory.tokens <= 16
        result = netad(torch.rand(2, 40, 56))
        assert result.map.shape == (2, 40, 56)
        assert bool(((result.map >= 0) & (result.map <= 1)).all())
    assert list((run / "figures").glob("*.png"))


def test_goes_on_bit_for_bit(run, data, backbone, tmp_path):
    settings = netad_settings(backbone, checkpoint_minutes=1e-9)
    stopped_after(2, train_netad, settings, data, tmp_path / "resumed")
    train_netad(settings, [data], tmp_path / "resumed", "cpu")
    whole, resumed = load_weights(run), load_weights(tmp_path / "resumed")
    assert whole.keys() == resumed.keys()
    for key, weight in whole.items():
        assert torch.equal(weight, resumed[key]), key
    first, second = (read_tensors(folder / "netad.safetensors")[0] for folder in (run, tmp_path / "resumed"))
    for key, weight in first.items():
        assert torch.equal(weight, second[key]), key


def test_transfer_tries_every_other_patient(data, backbone):
    found = few_shot_transfer(netad_settings(backbone, steps=1, examinations=("knee-pd",)), data)
    assert len(found) == 4 * 3
    assert all(0 <= values["pixel_auc"] <= 1 or values["pixel_auc"] != values["pixel_auc"] for values in found.values())


def test_transfer_as_a_command(data, backbone, tmp_path, capsys):
    outfile = tmp_path / "results" / "transfer.json"
    command = ["train", "transfer", "--data", str(data), "-o", str(outfile)]
    changes = [f"backbone={backbone}", "steps=1", "batch=2", "size=48", "memory=4", "examinations=[brain-flair]"]
    assert main([*command, "--set", *changes]) == 0
    found = json.loads(outfile.read_text())
    assert len(found) == 4 * 3
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(found)
    assert all(line.startswith("brain-flair") and "image_auc" in line for line in said)


def test_area_under_the_curve_counts_ties_half():
    assert score_auc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True])) == 0.75
    assert score_auc(torch.ones(4), torch.tensor([True, False, True, False])) == 0.5


def test_a_split_without_a_class_is_told():
    class Held(list):
        examination = "brain-t1"

    def labelled(*labels: int) -> Held:
        return Held(SimpleNamespace(label=torch.tensor(label)) for label in labels)

    settings = NetADSettings(backbone="run", validation_slices=8)
    assert without_a_class([labelled(0, 1, -1)], settings) == []
    (told,) = without_a_class([labelled(0, 0, -1)], settings)
    assert told.startswith("no validation slice of brain-t1 is abnormal:")
    assert "abnormal or normal" in without_a_class([labelled(-1)], settings)[0]
