"""The table of findings is that of fastMRI+, and ensembles are means of normalised embeddings."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pass_recon.anatomies import ANATOMIES
from pass_recon.anomaly import prompts
from pass_recon.types import InputError


@pytest.mark.parametrize("anatomy", ["brain", "knee"])
def test_table_holds_every_label_of_the_annotations(anatomy: str, shared_data: Path) -> None:
    with (shared_data / "fastmri_plus" / f"{anatomy}.csv").open(newline="") as file:
        annotated = {(row["label"].strip(), row["study_level"] == "Yes") for row in csv.DictReader(file)}
    table = ANATOMIES[anatomy].findings
    assert {(finding.label, finding.study_level) for finding in table} == annotated
    assert len({finding.phrase for finding in table}) == len(table)


def test_only_pathologies_are_diagnoses() -> None:
    brain = [finding.label for finding in prompts.diagnoses("brain")]
    assert {"Enlarged ventricles", "Lacunar infarct"} <= set(brain)
    assert not {"Normal for age", "Normal variant", "Motion artifact", "Possible artifact"} & set(brain)
    assert len(prompts.diagnoses("knee")) == 21


def bag_of_words(texts: Sequence[str]) -> Tensor:
    """Unnormalised: an embedding whose length depends on the text."""

    def word_vector(word: str) -> Tensor:
        return torch.randn(16, generator=torch.Generator().manual_seed(sum(map(ord, word))))

    return torch.stack([torch.stack([word_vector(word) for word in text.split()]).sum(0) for text in texts])


def test_ensemble_is_the_mean_of_normalised_embeddings() -> None:
    texts = ["a brain", "an MR image of a much longer sentence about a brain"]
    mean = F.normalize(bag_of_words(texts), dim=-1).mean(dim=0)
    torch.testing.assert_close(prompts.ensemble(bag_of_words, texts), mean / mean.norm())


def test_every_state_comes_in_every_template() -> None:
    texts = prompts.sentences(prompts.ABNORMAL_STATES, "knee")
    assert len(set(texts)) == len(prompts.ABNORMAL_STATES) * len(prompts.TEMPLATES)
    assert "an MR image of a knee with a lesion." in texts


def test_features_of_states_and_findings() -> None:
    states = prompts.state_features(bag_of_words, "brain")
    findings = prompts.finding_features(bag_of_words, "brain")
    assert states.shape == (2, 16)
    assert findings.shape == (26, 16)
    torch.testing.assert_close(torch.cat([states, findings]).norm(dim=-1), torch.ones(28))
    assert float(states[0] @ states[1]) < 0.999


@pytest.mark.parametrize("function", [prompts.state_features, prompts.finding_features])
def test_unknown_anatomy_is_refused(function: object) -> None:
    with pytest.raises(InputError, match="unknown anatomy 'liver'; known are brain, knee"):
        function(bag_of_words, "liver")  # type: ignore[operator]
