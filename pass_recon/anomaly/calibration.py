"""Scores that mean the same in every patient: probabilities fitted on validation data."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pass_recon.types import InputError

_EPSILON = 1e-6  # float32 still tells 1 − 1e-6 from 1


def score_logit(scores: Tensor) -> Tensor:
    """``log(s / (1 − s))``, finite at 0 and 1."""
    return torch.logit(scores, eps=_EPSILON)


def fit_calibration(scores: Tensor, labels: Tensor, *, iterations: int = 100) -> tuple[float, float]:
    """Temperature T and offset o that minimise the negative log-likelihood of ``p = sigmoid((logit(s) − o) / T)``.

    Logistic regression on the logit of the score, with T > 0: a detector that tells nothing gets a large T, so a
    constant at the prevalence, and never one that is turned round.

    Parameters
    ----------
    scores
        Raw scores in 0 to 1, any shape.
    labels
        0 or 1 (or probabilities), the same shape.
    iterations
        Limit of L-BFGS.

    Returns
    -------
        Temperature and offset.

    Raises
    ------
    InputError
        If shapes differ, a score is not in 0 to 1, or only one class is present.
    """
    if scores.shape != labels.shape:
        raise InputError(f"scores {tuple(scores.shape)} and labels {tuple(labels.shape)} must have the same shape")
    targets = labels.detach().double().flatten()
    values = scores.detach().double().flatten()
    if values.numel() == 0 or not bool(((values >= 0) & (values <= 1)).all()):
        raise InputError("calibration needs scores in 0 to 1")
    if float(targets.min()) == float(targets.max()):
        raise InputError(f"calibration needs both classes, every label is {float(targets.min()):g}")
    logits = torch.logit(values, eps=_EPSILON)
    slope, bias = _logistic_regression(logits, targets, iterations)
    return 1 / slope, -bias / slope


def _logistic_regression(logits: Tensor, targets: Tensor, iterations: int) -> tuple[float, float]:
    """Slope > 0 and bias of ``sigmoid(slope · logit + bias)``."""
    # Standardised, so that L-BFGS meets a well-conditioned problem whatever the spread of the scores.
    centre, spread = logits.mean(), logits.std().clamp_min(1e-6)
    standard = (logits - centre) / spread
    parameters = torch.zeros(2, dtype=torch.float64, device=logits.device, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [parameters], max_iter=iterations, tolerance_grad=1e-10, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        slope = parameters[0].exp()
        loss = F.binary_cross_entropy_with_logits(slope * standard + parameters[1], targets)
        # Keeps the slope finite where the classes separate perfectly; too weak to be felt where they do not.
        loss = loss + 1e-6 * parameters[0].square()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    slope = float(parameters.detach()[0].exp() / spread)
    return slope, float(parameters.detach()[1]) - slope * float(centre)


def expected_calibration_error(probabilities: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """Mean |predicted − observed| frequency over equal-width bins, weighted by how many fall into each."""
    probabilities, labels = probabilities.double().flatten(), labels.double().flatten()
    index = (probabilities * bins).long().clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64, device=probabilities.device)
    gap.index_add_(0, index, probabilities - labels)
    return float(gap.abs().sum() / probabilities.numel())


def _log_odds(share: float) -> float:
    return math.log(share) - math.log1p(-share)


class Calibration(nn.Module):
    """``p = sigmoid((logit(s) − offset) / temperature)``; the identity until it is fitted."""

    temperature: Tensor
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    def fit(self, scores: Tensor, labels: Tensor, *, prevalence: float | None = None) -> None:
        """Fit to raw scores and 0/1 labels; see ``fit_calibration``.

        Parameters
        ----------
        scores, labels
            Of one shape.
        prevalence
            Share of ones where the probabilities are to hold, if it is not that of ``labels``: the prior's odds are
            exchanged (Saerens et al., Neural Computation 2002, eq. 4).
        """
        temperature, offset = fit_calibration(scores, labels)
        if prevalence is not None:
            offset -= temperature * (_log_odds(prevalence) - _log_odds(float(labels.double().mean())))
        self.temperature.fill_(temperature)
        self.offset.fill_(offset)

    def forward(self, scores: Tensor) -> Tensor:
        """Raw scores in 0 to 1, any shape → probabilities."""
        return torch.sigmoid((score_logit(scores) - self.offset) / self.temperature)
