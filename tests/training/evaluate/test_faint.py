"""Faint blobs in the evaluation: recovery and d′ against what can be computed by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pass_recon_cli.main import main
from training.data.painted_blobs import Blobs, draw_blobs
from training.evaluate.faint import COUNT, measured, paint
from training.evaluate.faint_summary import faint_summary

NOISE = 0.01


@pytest.fixture(scope="module")
def body():
    x, y = np.meshgrid(np.linspace(-1, 1, 128), np.linspace(-1, 1, 120), indexing="ij")
    return np.where(x**2 + y**2 < 0.8, 1.0, 0.0)


def blob_of(body, radius: float, contrast: float) -> Blobs:
    x, y = np.meshgrid(np.arange(128) - 60, np.arange(120) - 50, indexing="ij")
    change = torch.from_numpy(np.where(x**2 + y**2 <= radius**2, -contrast, 0.0)).float()[None]
    return Blobs(change, (change != 0).long(), torch.tensor([[radius]]))


@pytest.mark.parametrize("kept", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("unit", [1.0, 3e-6])
def test_white_noise_gives_the_observer_of_the_textbook(body, kept, unit):
    """d′ of a known signal in white noise is ‖signal‖ / σ; a reconstruction that keeps less of it has so much less."""
    blobs = blob_of(body, 5.0, 0.05)
    noise = NOISE * np.random.default_rng(0).standard_normal(body.shape)
    with_blob = body + kept * blobs.change[0].numpy() + noise
    ((radius, contrast, recovery, d_prime),) = measured(unit * with_blob, unit * (body + noise), unit * body, blobs)
    assert (radius, contrast) == (5.0, pytest.approx(0.05, rel=1e-3))
    assert recovery == pytest.approx(kept, abs=1e-3)
    assert d_prime == pytest.approx(kept * float(blobs.change.norm()) / NOISE, rel=0.1)


def test_blobs_are_the_same_every_time_and_their_kspace_is_theirs(slices):
    blobs, added = paint(slices, 5)
    again, _ = paint(slices, 5)
    torch.testing.assert_close(blobs.change, again.change)
    assert not torch.equal(paint(slices, 6)[0].change, blobs.change)
    # Energy is kept by the transform and by maps whose squares add up to one.
    peak = float(slices.image.abs().max())
    assert float(added.norm()) == pytest.approx(peak * float(blobs.change.norm()), rel=0.02)
    assert blobs.radius.shape == (1, COUNT)


def test_summary_by_radius_and_contrast():
    records = [
        {"patient": str(number), "methods": {"pass": {"faint": [[2.0, 0.04, 0.8, 1.0], [6.0, 0.1, 1.0, 9.0 + number]]}}}
        for number in range(4)
    ]
    found = faint_summary(records, "pass", resamples=50, seed=0)
    assert found is not None
    assert found["blobs"] == 8
    assert [one and one.mean for one in found["recovery_by_radius"].values()] == [0.8, None, 1.0]
    assert [one.mean for one in found["recovery_by_contrast"].values()] == [0.8, 1.0]
    assert found["d_prime_by_radius"]["4.5 to 7"].mean == 10.5
    assert faint_summary([{"patient": "a", "methods": {"pass": {}}}], "pass", resamples=50, seed=0) is None


def test_drawn_blobs_keep_to_what_they_are_asked_for(body):
    blobs = draw_blobs(torch.from_numpy(body).float()[None], COUNT, torch.Generator().manual_seed(1))
    noisy = body + NOISE * np.random.default_rng(2).standard_normal(body.shape)
    found = measured(noisy + blobs.change[0].numpy(), noisy, body, blobs)
    assert len(found) > COUNT // 2
    assert all(0.015 <= contrast <= 0.121 and recovery == pytest.approx(1, abs=1e-4)
               for _, contrast, recovery, _ in found)  # fmt: skip


def test_command_tells_recovery_and_what_was_found(ground, tmp_path):
    output = tmp_path / "results"
    command = [
        "evaluate",
        str(ground.bundle),
        "--data",
        str(ground.data),
        "-o",
        str(output),
        "--quick",
        "--workers",
        "1",
    ]
    assert main([*command, "--methods", "cg-sense", "pass", "--faint"]) == 0
    (group,) = json.loads((output / "results.json").read_text())["groups"]
    assert set(group["faint"]) == {"cg-sense", "pass"}
    assert group["faint"]["pass"]["blobs"] > 5
    assert group["by_lesion"]["lesions"] == group["lesions"]
    page = (output / "results.md").read_text()
    assert "| 4× σ 0.005 | CG-SENSE |" in page
    assert "found at 0.1 false boxes" in page
    assert "lesions_data_tiny.png" in page
    assert (output / "lesions_data_tiny.png").read_bytes().startswith(b"\x89PNG")
