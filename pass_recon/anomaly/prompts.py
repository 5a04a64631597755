"""What NetAD compares images with: sentences about normal and abnormal anatomy, and the findings of fastMRI+.

The labels are those of the fastMRI+ annotations (Zhao et al., Scientific Data 2022); the phrases are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pass_recon.anatomies import Finding, anatomy_named

TextEncoder = Callable[[Sequence[str]], Tensor]
"""Texts → normalised embeddings ``(texts, embed_dim)``."""


TEMPLATES = (
    "an MR image of {}.",
    "a magnetic resonance image showing {}.",
    "an MRI slice of {}.",
    "a cropped MR image of {}.",
    "a grayscale MR image of {}.",
    "a radiology image of {}.",
    "a low-resolution MR image of {}.",
    "a medical scan showing {}.",
)
NORMAL_STATES = (
    "a normal {}",
    "a healthy {}",
    "an unremarkable {}",
    "a {} without lesion",
    "a {} without abnormality",
    "a {} without pathology",
    "intact tissue of the {}",
)
ABNORMAL_STATES = (
    "an abnormal {}",
    "a diseased {}",
    "a {} with a lesion",
    "a {} with an abnormality",
    "a {} with pathology",
    "a {} with an injury",
    "damaged tissue of the {}",
)


def diagnoses(anatomy: str) -> tuple[Finding, ...]:
    """The pathologies of an anatomy: what a lesion may be called.

    Raises
    ------
    InputError
        If the anatomy is unknown.
    """
    return tuple(finding for finding in anatomy_named(anatomy).findings if finding.category == "pathology")


def sentences(states: Sequence[str], anatomy: str) -> list[str]:
    """Each state of the anatomy in each template."""
    return [template.format(state.format(anatomy)) for state in states for template in TEMPLATES]


def ensemble(encode: TextEncoder, texts: Sequence[str]) -> Tensor:
    """The mean of normalised embeddings, normalised: ``(embed_dim,)``."""
    return F.normalize(F.normalize(encode(texts), dim=-1).mean(dim=0), dim=-1)


def state_features(encode: TextEncoder, anatomy: str) -> Tensor:
    """Text features ``(2, embed_dim)`` of the normal and the abnormal anatomy.

    Raises
    ------
    InputError
        If the anatomy is unknown.
    """
    diagnoses(anatomy)
    groups = (NORMAL_STATES, ABNORMAL_STATES)
    return torch.stack([ensemble(encode, sentences(states, anatomy)) for states in groups])


def finding_features(encode: TextEncoder, anatomy: str) -> Tensor:
    """Text features ``(diagnoses, embed_dim)``, in the order of ``diagnoses(anatomy)``."""
    phrases = [f"a {anatomy} with {finding.phrase}" for finding in diagnoses(anatomy)]
    return torch.stack([ensemble(encode, [template.format(phrase) for template in TEMPLATES]) for phrase in phrases])
