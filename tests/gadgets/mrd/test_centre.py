"""The centre of k-space as the lines have it: headers wrong by a few lines, and objects as they are."""

from __future__ import annotations

import numpy as np
import pytest

from gadgets.mrd.centre import centre_of
from pass_recon.phantom import simulate_patient

PE, MIDDLE = 96, 48


def strengths(seed: int, anatomy: str = "brain") -> np.ndarray:
    contrast = "pd" if anatomy == "knee" else "t1"
    patient = simulate_patient(anatomy=anatomy, contrast=contrast, coils=4, slices=1, shape=(96, PE), seed=seed)
    return np.asarray(np.linalg.norm(np.asarray(patient.kspace[0]), axis=(0, 1)))


@pytest.mark.parametrize("anatomy", ["brain", "knee"])
@pytest.mark.parametrize("seed", range(2))
def test_few_lines_are_told_from_a_right_header(seed, anatomy):
    strength = strengths(seed, anatomy)
    acs = range(MIDDLE - 6, MIDDLE + 6)
    scans = {
        "full": range(PE),
        "partial Fourier 6/8": range(PE // 4, PE),
        "partial Fourier 7/8": range(PE // 8, PE),
        "every fourth line and an ACS": sorted({*range(0, PE, 4), *acs}),
        "the ACS alone": acs,
    }
    for name, steps in scans.items():
        came = {step: strength[step] for step in steps}
        assert centre_of(came, MIDDLE, PE) == MIDDLE, name
        assert centre_of(came, MIDDLE + 1, PE) == MIDDLE + 1, name  # that much is rounding, or the object's phase
    for wrong in (3, 5, 7, 9, -3, -5, -7, -9):
        assert centre_of(dict(enumerate(strength)), MIDDLE + wrong, PE) == MIDDLE, wrong


def test_lines_that_name_their_centre_may_have_their_echo_beside_it():
    strength = dict(enumerate(np.roll(strengths(0), 2)))
    assert centre_of(strength, MIDDLE, PE, named=MIDDLE) == MIDDLE
