"""A user's own anatomy: a module that paints it, an entry in the table, its kinds of lesions, and nothing else."""

from __future__ import annotations

import pytest

from pass_recon.anatomies import ANATOMIES, Anatomy, Finding, recognise
from pass_recon.anomaly.prompts import diagnoses
from pass_recon.phantom import simulate_patient
from pass_recon.phantom.lesions import KINDS, LesionKind
from pass_recon.types import InputError

BALL = Anatomy(
    contrasts=("pd",),
    view="coronal ball",
    phantom="tests.phantom.ball",
    array_mm=(90.0, 90.0),
    body_parts=("ball",),
    words=("ball",),
    fastmri_directions=((0.0, 0.0, 1.0), (1.0, 0.0, 0.0)),
    patient_directions=((0.0, 0.0, -1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
    findings=(Finding("Bubble", "a bubble"), Finding("Seam", "a seam", "normal")),
)


@pytest.fixture
def ball(monkeypatch):
    monkeypatch.setitem(ANATOMIES, "ball", BALL)
    monkeypatch.setitem(KINDS, "ball", (LesionKind("Bubble", "a bubble", ("white", 1.0), "fluid", (4.0, 8.0)),))


@pytest.mark.usefixtures("ball")
def test_a_new_anatomy_is_simulated_recognised_and_diagnosed():
    patient = simulate_patient(anatomy="ball", contrast="pd", lesions=1, slices=2, coils=4, shape=(64, 60), seed=1)
    assert patient.image.abs().amax() == pytest.approx(1.0, abs=0.1)
    labels = {box.label for boxes in patient.boxes for box in boxes}
    assert labels == {"Bubble"}
    assert any("coronal ball, with a bubble" in caption and "the middle" in caption for caption in patient.captions)
    assert recognise("BALL", ["pd_tse"]).examination == "ball-pd"
    assert recognise("", ["ball pd"]).examination == "ball-pd"
    assert [finding.label for finding in diagnoses("ball")] == ["Bubble"]


def test_an_anatomy_that_nobody_entered_is_refused():
    with pytest.raises(InputError, match="unknown anatomy 'ball'; known are brain, knee"):
        simulate_patient(anatomy="ball", contrast="pd")
