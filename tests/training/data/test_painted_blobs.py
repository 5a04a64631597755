"""Painted blobs: where they are, and that their recovery is what it says."""

from __future__ import annotations

import torch

from training.data.painted_blobs import draw_blobs, recovery


def body(count: int = 3) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(96.0) - 48, torch.arange(80.0) - 40, indexing="ij")
    return (0.6 * (torch.hypot(y, x) < 34)).expand(count, 96, 80).clone()


def test_blobs_lie_in_the_body_and_are_as_strong_as_asked_for() -> None:
    blobs = draw_blobs(body(), 6, torch.Generator().manual_seed(0), contrast=(0.05, 0.1))
    assert blobs.change.abs().max() <= 0.1 + 1e-6
    assert blobs.change.flatten(1).abs().amax(1).min() > 0.04
    centre = torch.hypot(torch.arange(96.0)[:, None] - 48, torch.arange(80.0) - 40)
    assert (blobs.change.abs().amax(0) > 0.02)[centre > 34 + 14].sum() == 0
    assert (blobs.number.flatten(1).amax(1) <= 6).all()


def test_discs_have_the_radius_that_was_drawn() -> None:
    blobs = draw_blobs(body(1), 1, torch.Generator().manual_seed(3), radius=(6.0, 6.001), irregular=0.0)
    area = (blobs.change.abs() > 0.5 * blobs.change.abs().max()).sum()
    assert abs(float(area) - 3.14 * 36) < 20


def test_nothing_gets_darker_than_black() -> None:
    faint = 0.02 * body()
    blobs = draw_blobs(faint, 8, torch.Generator().manual_seed(1), contrast=(0.1, 0.12))
    assert (faint + blobs.change).min() >= 0


def test_recovery_of_what_was_kept_halved_and_lost() -> None:
    magnitude = body()
    blobs = draw_blobs(magnitude, 5, torch.Generator().manual_seed(2))
    phase = torch.polar(torch.ones_like(magnitude), 0.3 * torch.arange(80.0).expand(3, 96, 80))
    truth = magnitude * phase
    for kept in (1.0, 0.5, 0.0):
        shares, measured = recovery((magnitude + kept * blobs.change) * phase, truth, truth, blobs)
        assert measured.any()
        assert torch.allclose(shares[measured], torch.tensor(kept), atol=1e-4)
