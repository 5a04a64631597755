"""The mechanics of training: settings, run folders, batches, steps that can be resumed."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from pass_recon.types import InputError
from training.engine.batches import chosen_rows
from training.engine.memory import out_of_memory_explained
from training.engine.processes import Processes, joined_processes
from training.engine.run_folder import (
    BEST,
    CHECKPOINT,
    WEIGHTS,
    RunFolder,
    load_weights,
    opened_run,
    read_tensors,
    settings_of,
)
from training.engine.settings import TrainingSettings
from training.engine.trainer import Interrupted, Trainer

ALONE = Processes(0, 1, torch.device("cpu"))


class Line(nn.Module):
    """Fits a straight line to noisy points that follow from the step."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1, 1))
        self.offset = nn.Parameter(torch.zeros(1))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        error = (x @ self.slope + self.offset - y).square().mean()
        return {"loss": error, "error": error.sqrt()}


def points(step: int, part: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(8, 1, generator=torch.Generator().manual_seed(100 * step + part))
    return x, 3 * x - 1


def train(folder, settings, *, until=None, interrupt=None, best=math.inf):
    """Train the line; returns its trainer. ``until`` breaks off without saving, ``interrupt`` sends Ctrl-C; the
    validation at step ``best`` is the best.
    """
    with opened_run(folder, settings, "line") as run:
        trainer = Trainer(Line(), settings, run, ALONE)
        for step in trainer.steps():
            for part in range(settings.accumulate):
                trainer.learn(*points(step, part))
            trainer.advance()
            if interrupt == trainer.step:
                os.kill(os.getpid(), signal.SIGINT)
            if until == trainer.step:
                break
            if trainer.epoch():
                trainer.keep({"error": 1.0}, score=-abs(trainer.step - best))
    return trainer


SETTINGS = TrainingSettings(steps=60, learning_rate=0.3, warmup=3, ema_decay=0.5, epoch=20)


def test_it_learns_and_keeps_averaged_weights(tmp_path):
    trainer = train(tmp_path / "run", SETTINGS)
    weights = load_weights(tmp_path / "run")
    assert float(weights["slope"]) == pytest.approx(3, abs=0.05)
    assert float(weights["offset"]) == pytest.approx(-1, abs=0.05)
    assert float(weights["frozen"]) == 1
    assert not torch.equal(trainer.averaged.module.slope, trainer.objective.slope)
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "validation"] == [20, 40, 60]
    assert events[-2]["error"] < events[1]["error"] / 10


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path):
    whole = train(tmp_path / "whole", SETTINGS)
    with pytest.raises(Interrupted, match="step 17"):
        train(tmp_path / "parts", SETTINGS, interrupt=17)
    _, about = read_tensors(tmp_path / "parts" / CHECKPOINT)
    assert about["step"] == 17
    again = train(tmp_path / "parts", SETTINGS)
    for name, weight in whole.objective.state_dict().items():
        assert torch.equal(weight, again.objective.state_dict()[name]), name
    assert torch.equal(load_weights(tmp_path / "whole")["slope"], load_weights(tmp_path / "parts")["slope"])


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    often = replace(SETTINGS, checkpoint_minutes=1e-9)
    train(tmp_path / "killed", often, until=31)
    assert read_tensors(tmp_path / "killed" / CHECKPOINT)[1]["step"] == 30
    again, whole = train(tmp_path / "killed", often), train(tmp_path / "whole", SETTINGS)
    assert torch.equal(again.objective.slope, whole.objective.slope)


def test_accumulated_batches_are_one_large_batch(tmp_path):
    settings = replace(SETTINGS, steps=1, accumulate=3, gradient_clip=1e9)
    with opened_run(tmp_path, settings, "line") as run:
        trainer = Trainer(Line(), settings, run, ALONE)
        for part in range(3):
            trainer.learn(*points(0, part))
        gradient = trainer.objective.slope.grad.clone()
        alone = Line()
        x, y = (torch.cat(both) for both in zip(*(points(0, part) for part in range(3)), strict=True))
        alone(x, y)["loss"].backward()
        torch.testing.assert_close(gradient, alone.slope.grad)


def test_a_step_with_a_broken_gradient_is_skipped(tmp_path):
    settings = replace(SETTINGS, steps=1)
    with opened_run(tmp_path, settings, "line") as run:
        trainer = Trainer(Line(), settings, run, ALONE)
        trainer.learn(torch.full((2, 1), torch.inf), torch.zeros(2, 1))
        trainer.advance()
        assert not trainer.objective.slope.detach().any()
    assert '"skipped"' in (tmp_path / "log.jsonl").read_text()


def test_gradients_are_clipped_and_some_parameters_learn_faster(tmp_path):
    settings = replace(SETTINGS, warmup=1, gradient_clip=0.5, learning_rate=0.01)
    with opened_run(tmp_path, settings, "line") as run:
        trainer = Trainer(Line(), settings, run, ALONE, faster={"offset": 10.0})
        trainer.learn(*points(0))
        trainer.advance()
        moved = {name: abs(float(weight.detach())) for name, weight in trainer.objective.named_parameters()}
    # The first step of Adam is as long as its learning rate.
    assert moved["slope"] == pytest.approx(0.01, rel=1e-3)
    assert moved["offset"] == pytest.approx(0.1, rel=1e-3)


def test_a_run_of_other_settings_is_not_taken_up(tmp_path):
    train(tmp_path, replace(SETTINGS, steps=3))
    for changes in ({"steps": 2}, {"steps": 4, "batch": 7}):
        with pytest.raises(InputError, match="steps was 3, now"):
            train(tmp_path, replace(SETTINGS, **changes))
    RunFolder(tmp_path, replace(SETTINGS, steps=3, workers=7), "line").close()  # changes nothing that is computed


def test_a_run_goes_on_with_more_steps(tmp_path):
    train(tmp_path, replace(SETTINGS, steps=2))
    assert train(tmp_path, replace(SETTINGS, steps=5)).step == 5
    assert settings_of(tmp_path, type(SETTINGS)).steps == 5


def test_a_start_that_failed_leaves_no_locked_folder(tmp_path):
    with pytest.raises(RuntimeError, match="before the first step"), opened_run(tmp_path, SETTINGS, "line"):
        raise RuntimeError("before the first step")
    train(tmp_path, replace(SETTINGS, batch=3, steps=2))
    assert settings_of(tmp_path, type(SETTINGS)).batch == 3


def test_a_run_is_the_same_from_another_working_directory(tmp_path, monkeypatch):
    train(tmp_path / "first", SETTINGS)
    monkeypatch.chdir(tmp_path)
    train(tmp_path / "second", replace(SETTINGS, initial="first"))
    monkeypatch.chdir(tmp_path / "first")
    RunFolder(tmp_path / "second", replace(SETTINGS, initial="../first/../first"), "line").close()


@pytest.mark.parametrize(
    "changes", [{"workers": -1}, {"warmup": -2}, {"validation_slices": -1}, {"weight_decay": -0.1}]
)
def test_negative_settings_are_refused(changes):
    with pytest.raises(InputError, match="at least 0"):
        replace(SETTINGS, **changes)


def test_a_new_run_starts_from_the_weights_of_another(tmp_path):
    train(tmp_path / "first", SETTINGS)
    settings = replace(SETTINGS, initial=str(tmp_path / "first"))
    with opened_run(tmp_path / "second", settings, "line") as run:
        trainer = Trainer(Line(), settings, run, ALONE)
        assert torch.equal(trainer.objective.slope, load_weights(tmp_path / "first")["slope"])
    with pytest.raises(InputError, match=WEIGHTS):
        load_weights(tmp_path / "second")


def test_out_of_memory_says_what_to_lower():
    @dataclass(frozen=True)
    class Cropped(TrainingSettings):
        rows: int = 96
        checkpointing: bool = False

    told = r"batch 4: lower batch .* rows \(now 96\), or set checkpointing to true"
    with pytest.raises(InputError, match=told), out_of_memory_explained(Cropped(batch=4)):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 EiB")
    with pytest.raises(RuntimeError, match="something else"), out_of_memory_explained(SETTINGS):
        raise RuntimeError("something else")


def test_damaged_checkpoints_are_errors(tmp_path):
    train(tmp_path, replace(SETTINGS, steps=2))
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        train(tmp_path, replace(SETTINGS, steps=2))


def slope(path) -> float:
    return float(read_tensors(path)[0]["slope"])


def test_the_best_weights_are_kept_beside_the_last(tmp_path):
    train(tmp_path / "last", SETTINGS, best=20)
    assert read_tensors(tmp_path / "last" / BEST)[1]["step"] == 20
    assert read_tensors(tmp_path / "last" / WEIGHTS)[1]["step"] == 60
    train(tmp_path / "best", replace(SETTINGS, keep="best"), best=20)
    assert read_tensors(tmp_path / "best" / WEIGHTS)[1]["step"] == 20
    assert slope(tmp_path / "best" / WEIGHTS) == slope(tmp_path / "last" / BEST) != slope(tmp_path / "last" / WEIGHTS)


def test_a_run_ends_when_it_does_not_get_better_and_stays_ended(tmp_path):
    patient = replace(SETTINGS, steps=200, patience=2)
    assert train(tmp_path, patient, best=40).step == 80
    assert '"stopped early"' in (tmp_path / "log.jsonl").read_text()
    assert train(tmp_path, patient, best=40).step == 80
    # Who wants to wait longer goes on, from where it was.
    assert train(tmp_path, replace(patient, patience=3), best=40).step == 100


def test_the_log_tells_how_fast_and_how_long(tmp_path):
    train(tmp_path, SETTINGS)
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    assert all(event["slices_per_second"] > 0 for event in steps)
    assert steps[0]["hours_left"] > steps[-1]["hours_left"] == 0


def test_what_cannot_be_measured_is_left_out_of_the_log(tmp_path):
    with opened_run(tmp_path, SETTINGS, "line") as run:
        trainer = Trainer(Line(), SETTINGS, run, ALONE)
        trainer.keep({"auc": math.nan, "error": 0.5}, score=math.nan)
        trainer.keep({"error": math.inf}, score=0.1)
    text = (tmp_path / "log.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert read_tensors(tmp_path / BEST)[1] == {"step": 0}


def test_runs_from_before_a_setting_was_invented_go_on(tmp_path):
    train(tmp_path, replace(SETTINGS, steps=3))
    path = tmp_path / "settings.yaml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(("fraction", "keep"))))
    RunFolder(tmp_path, replace(SETTINGS, steps=3), "line").close()
    with pytest.raises(InputError, match=r"fraction was 1\.0, now 0\.5"):
        RunFolder(tmp_path, replace(SETTINGS, steps=3, fraction=0.5), "line")


def test_crops_show_anatomy_and_often_the_lesion():
    image, lesions = torch.zeros(100, 20), torch.zeros(100, 20, dtype=torch.bool)
    image[40:80], lesions[70:73, 5] = 1.0, True
    draw = torch.Generator().manual_seed(0)
    crops = [chosen_rows(image, lesions, 16, draw) for _ in range(200)]
    assert all(rows.start >= 0 and rows.stop <= 100 and rows.stop - rows.start == 16 for rows in crops)
    assert all(rows.stop > 40 and rows.start < 80 for rows in crops)
    assert sum(rows.start < 73 and rows.stop > 70 for rows in crops) > 100
    assert chosen_rows(image, lesions, 0, draw) == chosen_rows(image, lesions, 200, draw) == slice(0, 100)


def test_an_absent_device_is_named():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(InputError, match="no CUDA device"), joined_processes("cuda"):
        pass
    with pytest.raises(InputError, match="no device 'tpux'"), joined_processes("tpux"):
        pass
