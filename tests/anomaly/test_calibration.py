"""Fitted probabilities are those the labels were drawn with, and those scipy finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from pass_recon.anomaly.calibration import Calibration, expected_calibration_error, fit_calibration
from pass_recon.types import InputError


def drawn(count: int, temperature: float, offset: float) -> tuple[torch.Tensor, torch.Tensor]:
    scores = torch.rand(count) * 0.98 + 0.01
    labels = torch.bernoulli(torch.sigmoid((torch.logit(scores) - offset) / temperature))
    return scores, labels


@pytest.mark.parametrize(("temperature", "offset"), [(2.0, 0.5), (0.3, -1.0), (3.0, 1.0)])
def test_recovers_temperature_and_offset(temperature: float, offset: float) -> None:
    scores, labels = drawn(200_000, temperature, offset)
    found = fit_calibration(scores, labels)
    assert found == (pytest.approx(temperature, rel=0.02), pytest.approx(offset, abs=0.05))


def test_calibrated_probabilities_are_calibrated_on_new_data() -> None:
    calibration = Calibration()
    calibration.fit(*drawn(20_000, 0.4, 1.5))
    scores, labels = drawn(50_000, 0.4, 1.5)
    assert expected_calibration_error(scores, labels) > 0.1
    assert expected_calibration_error(calibration(scores), labels) < 0.01


def test_scores_fitted_on_many_sick_are_probabilities_where_few_are() -> None:
    def cohort(count: int, prevalence: float) -> tuple[torch.Tensor, torch.Tensor]:
        sick = torch.bernoulli(torch.full((count,), prevalence))
        return torch.sigmoid(1.5 * torch.randn(count) + 2.0 * sick), sick

    torch.manual_seed(3)
    calibration = Calibration()
    calibration.fit(*cohort(40_000, 0.7), prevalence=0.2)
    scores, labels = cohort(40_000, 0.2)
    assert expected_calibration_error(calibration(scores), labels) < 0.01
    calibration.fit(*cohort(40_000, 0.7))
    assert expected_calibration_error(calibration(scores), labels) > 0.1


def test_fit_is_the_optimum_that_scipy_finds() -> None:
    scores, labels = drawn(500, 1.7, 0.8)
    logits, targets = torch.logit(scores).double().numpy(), labels.double().numpy()

    def loss(parameters: np.ndarray) -> float:
        margin = (logits - parameters[1]) / parameters[0]
        return float(np.mean(np.logaddexp(0, margin) - targets * margin))

    best = minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-14})
    assert fit_calibration(scores, labels) == pytest.approx(tuple(best.x), rel=1e-3)


def test_calibration_error_of_known_cases() -> None:
    probabilities = torch.tensor([0.1, 0.1, 0.9, 0.9])
    labels = torch.tensor([0.0, 0.0, 1.0, 0.0])
    assert expected_calibration_error(probabilities, labels, bins=10) == pytest.approx((0.2 + 0.8) / 4)
    assert expected_calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])) == 0


def test_order_of_scores_is_kept_even_against_the_labels() -> None:
    scores = torch.linspace(0.01, 0.99, 200)
    calibration = Calibration()
    calibration.fit(scores, (scores < 0.5).float())
    assert calibration.temperature > 0
    torch.testing.assert_close(calibration(scores), torch.full((200,), 0.5), atol=0.05, rtol=0)


def test_perfectly_separated_classes_stay_finite() -> None:
    calibration = Calibration()
    calibration.fit(torch.tensor([0.1, 0.2, 0.7, 0.9]), torch.tensor([0.0, 0.0, 1.0, 1.0]))
    assert torch.isfinite(calibration.temperature)
    assert torch.isfinite(calibration.offset)
    assert calibration(torch.tensor([0.0, 0.2, 0.7, 1.0])).round().tolist() == [0, 0, 1, 1]


def test_identity_until_fitted() -> None:
    scores = torch.linspace(0, 1, 50)
    torch.testing.assert_close(Calibration()(scores), scores, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (torch.rand(4), torch.rand(3), "same shape"),
        (torch.rand(4), torch.zeros(4), "both classes, every label is 0"),
        (torch.tensor([0.1, 1.2]), torch.tensor([0.0, 1.0]), "scores in 0 to 1"),
        (torch.tensor([0.1, torch.nan]), torch.tensor([0.0, 1.0]), "scores in 0 to 1"),
    ],
)
def test_unusable_data_is_refused(scores: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_calibration(scores, labels)
