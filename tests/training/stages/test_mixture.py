"""The mixture's loop: it learns, stops by the clock, goes on where it stopped, and survives its helpers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pass_recon.config import NetworkConfig, ReconstructorConfig
from pass_recon.sampling.budget import acs_fraction
from pass_recon.sampling.population import PopulationLogits
from pass_recon.types import InputError
from training.data.image_pool import KINDS, SIDE, ImagePool, random_patterns
from training.data.scan_mixture import MixtureSettings
from training.engine.run_folder import CHECKPOINT, LOG, WEIGHTS, load_weights, opened_run
from training.stages.mixture import STAGE, BatchMaker, MixtureRun, MixtureTraining

CPU = torch.device("cpu")
SMALL = MixtureTraining(
    steps=6,
    batch=2,
    together=1,
    minutes=60.0,
    warmup=1,
    epoch=3,
    capacity=8,
    arrays=2,
    reconstructor=ReconstructorConfig(
        denoiser=NetworkConfig("unet", {"channels": [8, 8]}),
        enhancer=NetworkConfig("gated_unet", {"channels": [4, 4]}),
        stages=2,
        inner_iterations=1,
        cg_iterations=2,
        condition=8,
        warm_start=True,
    ),
)
SCANS = MixtureSettings(coils=(4,), channels=(4,), rows=32, blobs=2)


def maker(settings: MixtureTraining) -> BatchMaker:
    pool = ImagePool(settings.capacity, settings.shares, CPU)
    pool.add("other", random_patterns(3, 0), keep=True)
    populations = {
        kind: {r: PopulationLogits(64, acs_fraction(r), acceleration=r) for r in (4.0, 8.0)} for kind in KINDS[:-1]
    }
    return BatchMaker(settings, pool, populations, CPU, mixture=SCANS, shapes=(((48, 40), 1.0),))


def train(settings: MixtureTraining, folder: Path) -> MixtureRun:
    with opened_run(folder, settings, STAGE) as run:
        training = MixtureRun(settings, maker(settings), run, CPU)
        training.train()
    return training


def events(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]


def test_all_weights_move_and_the_average_is_kept(tmp_path: Path) -> None:
    training = train(SMALL, tmp_path)
    kept = load_weights(tmp_path, "reconstructor.")
    assert training.step == 6
    assert set(kept) == set(training.averaged.state_dict())
    for name, gradient in ((n, p.grad) for n, p in training.objective.named_parameters()):
        assert gradient is not None, name
        assert torch.isfinite(gradient).all(), name
    assert (tmp_path / CHECKPOINT).is_file()
    assert (tmp_path / WEIGHTS).is_file()


def test_it_ends_when_its_time_is_over(tmp_path: Path) -> None:
    training = train(replace(SMALL, steps=10_000, minutes=1e-6), tmp_path)
    assert training.step == 1


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = train(SMALL, tmp_path)
    with opened_run(tmp_path, SMALL, STAGE) as run:
        second = MixtureRun(SMALL, maker(SMALL), run, CPU)
    assert second.step == first.step == 6
    assert second.spent == pytest.approx(first.spent)
    for mine, theirs in zip(second.averaged.parameters(), first.averaged.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert [event["event"] for event in events(tmp_path)][-1] == "resumed"


def test_a_gradient_that_is_not_finite_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened_run(tmp_path, replace(SMALL, steps=1), STAGE) as run:
        training = MixtureRun(replace(SMALL, steps=1), maker(SMALL), run, CPU)
        before = [weight.clone() for weight in training.objective.parameters()]
        scans, seen = training.maker.batch()
        monkeypatch.setattr(training.maker, "batch", lambda: (scans._replace(kspace=scans.kspace * torch.nan), seen))
        training.train()
    for weight, old in zip(training.objective.parameters(), before, strict=True):
        assert torch.equal(weight, old)


def test_images_are_drawn_at_any_size_with_peak_one() -> None:
    source = maker(SMALL)
    for shape in ((320, 320), (128, 120), (384, 320)):
        magnitude, lesions, kinds = source.pool.draw(3, shape, source.chance, source.generator)
        assert magnitude.shape == lesions.shape == (3, *shape)
        assert torch.allclose(magnitude.amax((-2, -1)), torch.ones(()))
        assert set(kinds) <= set(KINDS[:-1])


def test_a_full_pool_forgets_the_oldest_and_keeps_the_real() -> None:
    pool = ImagePool(4, (1.0, 0.0, 0.0, 0.0), CPU)
    level = torch.ones(1, SIDE, SIDE)
    pool.add(KINDS[0], 0.1 * level, keep=True)
    for number in range(2, 8):
        pool.add(KINDS[0], 0.1 * number * level)
    there = sorted(round(float(value), 1) for value in pool._magnitude[:4, 0, 0])
    assert there == [0.1, 0.5, 0.6, 0.7]


@pytest.mark.parametrize("wrong", [{"accumulate": 2}, {"shares": (1.0,)}, {"batch": 3}, {"minutes": 0.0}])
def test_settings_that_do_not_go_together_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        replace(SMALL, **wrong)  # type: ignore[arg-type]


@pytest.mark.gpu
def test_a_recorded_step_gives_the_same_gradients(tmp_path: Path) -> None:
    device = torch.device("cuda")
    pool = ImagePool(8, SMALL.shares, device)
    pool.add("other", random_patterns(3, 0), keep=True)
    populations = {
        kind: {r: PopulationLogits(64, acs_fraction(r), acceleration=r) for r in (4.0, 8.0)} for kind in KINDS[:-1]
    }
    source = BatchMaker(SMALL, pool, populations, device, mixture=SCANS, shapes=(((48, 40), 1.0),))
    batch = source.batch()
    found = []
    for recorded in (False, True):
        settings = replace(SMALL, recorded=recorded, precision="float32")
        with opened_run(tmp_path / str(recorded), settings, STAGE) as run:
            training = MixtureRun(settings, source, run, device)
            training._gradients(*batch)
            found.append(torch.cat([p.grad.flatten() for p in training.objective.parameters() if p.grad is not None]))
    assert torch.allclose(*found, rtol=1e-3, atol=1e-5)
