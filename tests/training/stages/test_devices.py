"""Whatever an objective computes with follows it to its device, and frozen networks are no part of what a run keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from pass_recon.anomaly import NetAD
from tests.networks import TINY_BACKBONE
from tests.training.small import reconstruction_settings, sampling_settings
from tests.training.stages.test_backbone import tiny_settings
from tests.training.stages.test_mixture import SMALL
from training.engine.frozen import learned_state, load_learned_state
from training.engine.run_folder import opened_run
from training.stages.anomaly_maps import TrainedDetectors
from training.stages.backbone import BackboneObjective
from training.stages.mixture import MixtureObjective
from training.stages.netad import STAGE, AdapterObjective, NetADSettings, save_detectors, with_own_adapters
from training.stages.reconstruction import ReconstructionObjective
from training.stages.sampling import SamplingObjective


def detectors() -> dict[str, NetAD]:
    first = NetAD.build(TINY_BACKBONE, anatomy="brain")
    return {"brain-flair": first, "brain-t1": with_own_adapters(first)}


@pytest.fixture
def trained(tmp_path) -> TrainedDetectors:
    with opened_run(tmp_path / "netad", NetADSettings(), STAGE) as run:
        save_detectors(run, detectors())
    return TrainedDetectors(tmp_path / "netad")


@pytest.fixture
def objectives(runs, trained) -> dict[str, nn.Module]:
    return {
        "backbone": BackboneObjective(tiny_settings()),
        "netad": AdapterObjective(detectors()),
        "reconstruction": ReconstructionObjective(reconstruction_settings()),
        "sampling": SamplingObjective(sampling_settings(runs / "reconstruction"), trained),
        "mixture": MixtureObjective(SMALL),
    }


def tensors(value: Any, seen: set[int] | None = None) -> Iterator[torch.Tensor]:
    """Every tensor that an object holds: in tuples, dictionaries and attributes of plain objects too."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
        return
    parts: list[Any] = []
    if isinstance(value, Mapping):
        parts += value.values()
    elif isinstance(value, list | tuple | set):
        parts += value
    if isinstance(value, nn.Module) or type(value).__module__.partition(".")[0] in ("pass_recon", "training"):
        parts += vars(value).values() if hasattr(value, "__dict__") else []
    for part in parts:
        yield from tensors(part, seen)


@pytest.mark.parametrize("stage", ["backbone", "netad", "reconstruction", "sampling", "mixture"])
def test_no_tensor_stays_behind_when_an_objective_moves(stage, objectives):
    objective = objectives[stage].to("meta")
    behind = [tuple(tensor.shape) for tensor in tensors(objective) if not tensor.is_meta and tensor.numel() > 1]
    assert behind == []


def test_a_step_of_stage_1_never_waits_for_the_device(batch, trained):
    """Tensors without data have no value that could be waited for: whatever asks for one fails."""
    settings = reconstruction_settings(look="reconstruction", netad="run", rows=0)
    objective = ReconstructionObjective(settings, trained).to("meta")
    losses = objective(batch.to("meta"))
    losses["loss"].backward()
    assert objective.reconstructor.denoiser_parameter.grad.is_meta


def test_a_tensor_in_a_tuple_would_be_seen():
    hiding = nn.Linear(2, 2).to("meta")
    hiding.held = (nn.Linear(2, 2),)
    assert any(not tensor.is_meta for tensor in tensors(hiding))


def test_copies_share_what_is_frozen_and_runs_do_not_keep_it(runs, trained):
    objective = SamplingObjective(sampling_settings(runs / "reconstruction"), trained)
    assert deepcopy(objective).detectors is trained
    state = learned_state(objective)
    assert state
    assert not any(name.startswith("detectors.") for name in state)
    load_learned_state(objective, state)
    with pytest.raises(RuntimeError, match="Missing key"):
        load_learned_state(objective, dict(list(state.items())[1:]))


def test_the_average_of_detectors_has_adapters_of_its_own_and_the_same_backbone():
    objective = AdapterObjective(detectors())
    average = deepcopy(objective)
    ours, theirs = objective.netads["brain-flair"], average.netads["brain-flair"]
    assert theirs.backbone is ours.backbone
    assert theirs.adapters is not ours.adapters
    assert theirs.adapters is average.adapters["brain-flair"]
    torch.testing.assert_close(theirs.adapters.state_dict(), ours.adapters.state_dict(), rtol=0, atol=0)
    assert not any(name.startswith("detectors.") for name in learned_state(average))
