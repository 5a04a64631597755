"""The memory covers what it saw within its bound, and measures the distance to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pass_recon.anomaly.memory import MemoryBank, coreset


def radius(features: torch.Tensor, subset: torch.Tensor) -> float:
    """Largest distance of any feature to the subset."""
    return float((1 - (features @ subset.transpose(-1, -2)).amax(-1)).max())


def test_coreset_takes_one_of_each_cluster() -> None:
    centres = F.normalize(torch.randn(2, 6, 16), dim=-1)
    features = F.normalize(centres.repeat_interleave(50, dim=1) + 0.01 * torch.randn(2, 300, 16), dim=-1)
    features = features[:, torch.randperm(300)]
    chosen = coreset(features, 6)
    nearest = (chosen @ centres.transpose(-1, -2)).argmax(dim=-1)
    assert sorted(nearest[0].tolist()) == sorted(nearest[1].tolist()) == list(range(6))


def test_coreset_covers_better_than_chance_and_is_deterministic() -> None:
    features = F.normalize(torch.randn(1, 800, 8), dim=-1)
    chosen = coreset(features, 60)
    by_chance = min(radius(features, features[:, torch.randperm(800)[:60]]) for _ in range(20))
    assert radius(features, chosen) < 0.8 * by_chance
    assert torch.equal(chosen, coreset(features, 60))


def test_all_are_kept_while_they_fit() -> None:
    bank = MemoryBank(4, 0, 8)
    first, second = torch.randn(2, 4, 10, 8), torch.randn(2, 4, 7, 8)
    bank.add(first, 20)
    assert bank.tokens == 10
    bank.add(second, 20)
    torch.testing.assert_close(bank.bank, F.normalize(torch.cat([first, second], dim=2), dim=-1))
    bank.add(torch.randn(2, 4, 30, 8), 20)
    assert bank.bank.shape == (2, 4, 20, 8)


def test_distance_is_to_the_nearest_of_the_same_branch_and_level() -> None:
    bank = MemoryBank(3, 0, 8)
    bank.add(torch.randn(2, 3, 11, 8), 64)
    features = F.normalize(torch.randn(2, 3, 5, 6, 8), dim=-1)
    found = bank.distance(features)
    for branch in range(2):
        for level in range(3):
            cosine = torch.einsum("bnc,mc->bnm", features[branch, level], bank.bank[branch, level])
            expected = (1 - cosine.max(dim=-1).values).clamp(0, 1)
            torch.testing.assert_close(found[branch, level], expected)


def test_what_is_remembered_is_at_no_distance_and_its_opposite_at_one() -> None:
    bank = MemoryBank(1, 0, 8)
    features = F.normalize(torch.randn(2, 1, 5, 8), dim=-1)
    bank.add(features, 64)
    assert bank.distance(features[:, :, None]).max() < 1e-6
    assert torch.equal(MemoryBank.distance(_single(features), -features[:, :, None, :1]), torch.ones(2, 1, 1, 1))


def _single(features: torch.Tensor) -> MemoryBank:
    bank = MemoryBank(1, 0, 8)
    bank.add(features[:, :, :1], 1)
    return bank
