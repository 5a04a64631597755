"""Bundles get other detectors and keep everything else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pass_recon.anomaly import NetAD
from pass_recon.bundles import load_bundle, save_bundle
from pass_recon.types import InputError
from tests.networks import TINY_BACKBONE, tiny_bundle
from training.detector_bundles import replace_detectors
from training.engine.run_folder import opened_run
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
