"""What a run tells those who watch it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from pass_recon.types import InputError
from training.engine import trackers
from training.engine.run_folder import opened_run
from training.engine.settings import TrainingSettings


def tell(folder: Path, *names: str) -> None:
    """A run that logs two numbers and a picture."""
    picture = folder / "picture.png"
    matplotlib.image.imsave(picture, np.random.default_rng(0).random((8, 9, 3)))
    with opened_run(folder / "run", TrainingSettings(trackers=names), "test") as run:
        run.log("step", 10, loss=2.0, steps=3)
        run.log("validation", 10, psnr=30.0)
        run.show(picture, 10)


def test_numbers_and_pictures_go_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(tmp_path, "tensorboard")
    seen = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    seen.Reload()
    assert set(seen.Tags()["scalars"]) == {"step/loss", "validation/psnr"}
    assert [(event.step, event.value) for event in seen.Scalars("step/loss")] == [(10, 2.0)]
    (image,) = seen.Images("validation")
    assert (image.step, image.width, image.height) == (10, 9, 8)


def test_numbers_and_pictures_go_to_weights_and_biases(tmp_path):
    pytest.importorskip("wandb")
    program = "import sys, pathlib; from tests.training.engine.test_trackers import tell; "
    program += "tell(pathlib.Path(sys.argv[1]), 'wandb')"
    environment = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HOME": str(tmp_path)}
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=root, env={**environment, "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert list(offline.glob("run-*.wandb"))
    assert (next((offline / "files" / "media" / "images").iterdir())).suffix == ".png"
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])["loss"] == 2.0


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"pip install 'pass-gadgetron\[wandb\]'"):
        tell(tmp_path, "wandb")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert trackers.open_trackers(["tensorboard"], tmp_path, {}) == []
    with pytest.raises(InputError, match="no tracker aim, only tensorboard, wandb"):
        TrainingSettings(trackers=("aim",))
