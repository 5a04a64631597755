"""Bundles get other networks or figures and keep everything else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from pass_recon.anomaly import NetAD
from pass_recon.bundles import load_bundle, save_bundle
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.types import InputError
from tests.networks import TINY_BACKBONE, tiny_bundle
from training.bundle_updates import record_results, replace_detectors, replace_reconstructor
from training.engine.run_folder import WEIGHTS, opened_run
from training.stages.mixture import STAGE as MIXTURE
from training.stages.mixture import MixtureTraining
from training.stages.netad import STAGE, NetADSettings, save_detectors


def _run(folder, kind):
    with opened_run(folder, NetADSettings(), STAGE) as run:
        save_detectors(run, {kind: NetAD.build(TINY_BACKBONE, anatomy="brain")})
    return folder


def test_the_detector_changes_and_nothing_else(tmp_path):
    before = tiny_bundle(NetAD.build(TINY_BACKBONE, anatomy="brain"))
    measured = {"held_out": {"patients": 3, "detection": {"final": 0.5}}}
    before.card.update(data=["one"], metrics=measured, recipe={"netad": {"steps": 1}, "sampling": {"steps": 2}})
    for name in ("tiny-4x", "tiny-8x"):
        shared = ("reconstructor", "backbone", "netad")
        save_bundle(replace(before, name=name), tmp_path / "bundles" / name, half=True, shared=shared)
    torch.manual_seed(7)
    run = _run(tmp_path / "run", "brain-flair")
    old = load_bundle(tmp_path / "bundles" / "tiny-4x")
    replace_detectors(run, tmp_path / "bundles", data=["two"], made={"netad": {"steps": 9}, "sampling": {}})
    for name in ("tiny-4x", "tiny-8x"):
        new = load_bundle(tmp_path / "bundles" / name)
        assert torch.equal(
            *(torch.cat([p.flatten() for p in b.reconstructor.state_dict().values()]) for b in (old, new))
        )
        assert new.netad.configuration.backbone.fingerprint != old.netad.configuration.backbone.fingerprint
        assert new.card["data"] == ["one", "two"]
        assert new.card["recipe"] == {"netad": {"steps": 9}, "sampling": {"steps": 2}}
        assert new.card["metrics"] == {"held_out": {"patients": 3}}
    assert len(list((tmp_path / "bundles" / "common").glob("netad-*"))) == 1


def test_bundles_of_other_kinds_are_left_alone(tmp_path):
    save_bundle(tiny_bundle(None), tmp_path / "bundles" / "tiny")
    with pytest.raises(InputError, match="brain-t1"):
        replace_detectors(_run(tmp_path / "run", "brain-t1"), tmp_path / "bundles")


def _mixture(folder):
    settings = MixtureTraining(reconstructor=tiny_bundle(None).reconstructor.config)
    with opened_run(folder, settings, MIXTURE) as run:
        torch.manual_seed(11)
        weights = UnrolledReconstructor(settings.reconstructor).state_dict()
        run.save(WEIGHTS, {f"reconstructor.{name}": value for name, value in weights.items()}, {"step": 7})
    return folder, weights


def _weights(network):
    return torch.cat([value.flatten().float() for value in network.state_dict().values()])


def test_a_reconstructor_for_any_lines_and_for_the_own_ones_of_some(tmp_path):
    before = tiny_bundle(None)
    before.card.update(metrics={"held_out": {"patients": 3}})
    for name in ("one", "two"):
        save_bundle(replace(before, name=name), tmp_path / "bundles" / name)
    run, weights = _mixture(tmp_path / "run")
    replace_reconstructor(run, tmp_path / "bundles", own_lines=["two"])
    new = torch.cat([value.flatten().half().float() for value in weights.values()])
    one, two = (load_bundle(tmp_path / "bundles" / name) for name in ("one", "two"))
    assert torch.equal(_weights(one.general), new)
    assert not torch.equal(_weights(one.reconstructor), new)
    assert torch.equal(_weights(two.reconstructor), new)
    assert two.general is None
    assert one.card["metrics"] == {"held_out": {"patients": 3}}  # it still makes the same images of its own lines
    assert two.card["metrics"] == {}
    assert two.card["recipe"]["mixture"] == "stage mixture, 7 steps"
    with pytest.raises(InputError, match="three"):
        replace_reconstructor(run, tmp_path / "bundles", own_lines=["three"])


def test_figures_go_to_the_card_alone(tmp_path):
    folder = save_bundle(tiny_bundle(None), tmp_path / "bundles" / "tiny")
    before = load_bundle(folder).card
    interval = {"mean": 40.0, "low": 39.0, "high": 41.0}
    group = {
        **{"bundle": before["name"], "dataset": "held_out", "noise": 0.005, "maps": "true", "patients": 2, "slices": 4},
        **{"methods": {"pass": {"psnr": interval, "inside": {}}}, "differences": {}, "detection": {}},
    }
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"groups": [group]}), encoding="utf-8")
    record_results(tmp_path / "bundles", [results])
    after = load_bundle(folder).card
    assert after["metrics"]["held_out, noise 0.005, true coil maps"]["whole image"] == {"psnr": [40.0, 39.0, 41.0]}
    assert after["files"] == before["files"]
    results.write_text(json.dumps({"groups": [{**group, "bundle": "other"}]}), encoding="utf-8")
    with pytest.raises(InputError, match="results of no bundle"):
        record_results(tmp_path / "bundles", [results])
