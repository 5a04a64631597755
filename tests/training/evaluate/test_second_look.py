"""The second look in the evaluation: the price from made-up records, and the command from end to end."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from pass_recon.anomaly import NetAD
from pass_recon.bundles import load_bundle, save_bundle
from pass_recon.config import SamplerConfig
from pass_recon.sampling.personal import LineSampler
from pass_recon.types import InputError
from pass_recon_cli.main import main
from tests.networks import TINY_BACKBONE, tiny_bundle
from training.evaluate.second_look import SecondLookSettings, evaluate_second_look, price_of


def record(patient: str, score: float, lesions: int = 0) -> dict:
    return {"patient": patient, "lesions": lesions, "pe": 320, "additional": 40, "first": {"lines": 40, "score": score}}


class TestPrice:
    def test_what_everybody_takes(self):
        records = [record("a", 0.9, 2), record("b", 0.2, 1), record("c", 0.6), *(record(name, 0.1) for name in "def")]
        price = price_of(records, 0.5, 0.3, resamples=100, seed=0)
        assert (price["sick_patients"], price["healthy_patients"]) == (2, 4)
        assert price["missed"].mean == 0.5
        assert price["healthy_extra"].mean == price["healthy_asked"].mean == 0.25
        assert price["sick_extra"].mean == 0.5
        # 0.3 of the patients take 60 lines, 0.7 take 50, of 320.
        assert price["fixed_acceleration"] == pytest.approx(320 / (0.3 * 60 + 0.7 * 50), abs=1e-4)
        assert price["missed"].low <= 0.5 <= price["missed"].high

    def test_slices_of_a_patient_count_together(self):
        """Asked for beside the lesion, it is missed; and half of the slices take half of the additional time."""
        records = [record("a", 0.1, 2), record("a", 0.9), record("b", 0.1), record("b", 0.8)]
        price = price_of(records, 0.5, 0.5, resamples=100, seed=0)
        assert price["missed"].mean == 1.0
        assert price["sick_extra"].mean == price["healthy_extra"].mean == 0.5
        assert price["healthy_asked"].mean == 1.0

    @pytest.mark.parametrize(("threshold", "acceleration"), [(0.0, 4.0), (1.0, 8.0)])
    def test_ends(self, threshold, acceleration):
        records = [record("a", 0.9, 2), record("b", 0.5)]
        assert price_of(records, threshold, 0.3, resamples=10, seed=0)["fixed_acceleration"] == acceleration


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """A bundle for any acceleration, whose detector sees something in every image."""
    bundle = tiny_bundle(NetAD.build(TINY_BACKBONE, anatomy="brain"))
    sampler = LineSampler(SamplerConfig(lines=90, ranked=True))
    torch.nn.init.normal_(sampler.population.logits)
    sampler.ranking.copy_(sampler.population.logits.detach())
    return save_bundle(
        replace(bundle, sampler=sampler.requires_grad_(False)), tmp_path_factory.mktemp("ranked") / "tiny"
    )


@pytest.fixture
def arguments(ground, ranked, tmp_path):
    data = ["--data", str(ground.data), "--lesion-free", str(ground.lesion_free), "--split", "all", "--slices", "2"]
    scan = ["--accelerations", "4", "2", "--noise", "0.01", "--workers", "1", "-o", str(tmp_path / "results")]
    return ["evaluate", str(ranked), "--second-look", *data, *scan]


def results(tmp_path):
    return json.loads((tmp_path / "results" / "second_look.json").read_text())


def test_everybody_is_asked_for_is_no_different_from_the_second_acceleration(arguments, tmp_path, capsys):
    assert main([*arguments, "--threshold", "0"]) == 0
    assert "second_look.md: 1 groups" in capsys.readouterr().out
    (group,) = results(tmp_path)["groups"]
    assert group["fixed_acceleration"] == pytest.approx(2, rel=0.02)
    assert group["inside"]["gain"]["mean"] == pytest.approx(0, abs=0.02)
    assert group["inside"]["second_look"] == group["inside"]["both_rounds"]
    assert group["healthy_extra"]["mean"] == pytest.approx(1, rel=0.05)
    assert group["missed"]["mean"] == 0
    page = (tmp_path / "results" / "second_look.md").read_text()
    assert "| tiny | σ 0.01 |" in page
    assert "4× → 2× where the score passes 0, 30 % of the patients sick" in page


def test_nobody_is_asked_for_is_the_first_acceleration(arguments, tmp_path):
    assert main([*arguments, "--threshold", "1", "--sick", "0.1"]) == 0
    (group,) = results(tmp_path)["groups"]
    assert group["fixed_acceleration"] == pytest.approx(4, rel=0.02)
    assert group["inside"]["second_look"] == group["inside"]["first_round"] == group["inside"]["fixed"]
    assert group["inside"]["both_rounds"]["mean"] > group["inside"]["first_round"]["mean"]
    assert group["missed"]["mean"] == 1


def test_it_goes_on_from_its_records(arguments, tmp_path):
    assert main(arguments) == 0
    before = (tmp_path / "results" / "second_look.jsonl").read_bytes()
    assert main(arguments) == 0
    assert (tmp_path / "results" / "second_look.jsonl").read_bytes() == before


def test_cohorts_that_tell_nothing_are_refused(ground, ranked, tmp_path):
    settings = SecondLookSettings(
        bundles=(str(ranked),), data=(ground.lesion_free,), output=tmp_path, split="all", workers=1, progress=False
    )
    with pytest.raises(InputError, match="a cohort needs sick and healthy patients; of brain-flair there are 0 sick"):
        evaluate_second_look(settings)
    with pytest.raises(InputError, match="has no detector"):
        evaluate_second_look(replace(settings, bundles=(str(ground.without_detector),)))
    assert load_bundle(ground.without_detector).netad is None


@pytest.mark.parametrize(("option", "values", "sentence"), [
    ("--accelerations", ["4", "8"], "the first above the second"),
    ("--sick", ["1.5"], "share of sick patients must lie between 0 and 1"),
])  # fmt: skip
def test_impossible_settings_are_a_sentence(arguments, capsys, option, values, sentence):
    assert main([*arguments, option, *values]) != 0
    assert sentence in capsys.readouterr().err
