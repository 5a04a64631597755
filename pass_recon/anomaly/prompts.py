"""What NetAD compares images with: sentences about normal and abnormal anatomy, and the findings of fastMRI+.

The labels are those of the fastMRI+ annotations (Zhao et al., Scientific Data 2022); the phrases are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pass_recon.types import InputError

TextEncoder = Callable[[Sequence[str]], Tensor]
"""Texts → normalised embeddings ``(texts, embed_dim)``."""


@dataclass(frozen=True)
class Finding:
    """A label of fastMRI+.

    Attributes
    ----------
    label
        As in the annotations, without surrounding blanks.
    phrase
        How a sentence would name it.
    kind
        Only a ``"pathology"`` is ever offered as a diagnosis.
    study_level
        True where the label describes the study and has no box.
    """

    label: str
    phrase: str
    kind: Literal["pathology", "normal", "artifact"] = "pathology"
    study_level: bool = False


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

FINDINGS: dict[str, tuple[Finding, ...]] = {
    "brain": (
        Finding("Nonspecific white matter lesion", "a nonspecific white matter lesion"),
        Finding("Posttreatment change", "posttreatment change"),
        Finding("Craniotomy", "a craniotomy"),
        Finding("Nonspecific lesion", "a nonspecific lesion"),
        Finding("Possible artifact", "a possible imaging artifact", "artifact"),
        Finding("Mass", "a mass"),
        Finding("Normal for age", "findings normal for age", "normal", study_level=True),
        Finding("Edema", "edema"),
        Finding("Dural thickening", "dural thickening"),
        Finding("Enlarged ventricles", "enlarged ventricles"),
        Finding(
            "Global label: Small vessel chronic white matter ischemic change",
            "chronic small vessel ischemic change of the white matter",
            study_level=True,
        ),
        Finding("Resection cavity", "a resection cavity"),
        Finding("Encephalomalacia", "encephalomalacia"),
        Finding("Lacunar infarct", "a lacunar infarct"),
        Finding("Extra-axial mass", "an extra-axial mass"),
        Finding("Normal variant", "a normal variant", "normal"),
        Finding("Craniectomy with Cranioplasty", "a craniectomy with cranioplasty"),
        Finding("Paranasal sinus opacification", "opacification of a paranasal sinus"),
        Finding("Motion artifact", "a motion artifact", "artifact", study_level=True),
        Finding("Craniectomy", "a craniectomy"),
        Finding("Likely cysts", "a likely cyst"),
        Finding("Extra-axial collection", "an extra-axial collection", study_level=True),
        Finding("Intraventricular substance", "an intraventricular substance"),
        Finding("Absent septum pellucidum", "an absent septum pellucidum"),
        Finding("Global white matter disease", "diffuse white matter disease", study_level=True),
        Finding("Colpocephaly", "colpocephaly", study_level=True),
        Finding(
            "Innumerable bilateral focal brain lesions", "innumerable bilateral focal brain lesions", study_level=True
        ),
        Finding("Possible demyelinating disease", "possible demyelinating disease", study_level=True),
        Finding("Pineal cyst", "a pineal cyst"),
        Finding("Global Ischemia", "global ischemia", study_level=True),
    ),
    "knee": (
        Finding("Meniscus Tear", "a meniscus tear"),
        Finding("Cartilage - Partial Thickness loss/defect", "a partial-thickness cartilage defect"),
        Finding("Joint Effusion", "a joint effusion"),
        Finding("Bone-Fracture/Contusion/dislocation", "a bone fracture, contusion or dislocation"),
        Finding("Bone- Subchondral edema", "subchondral bone edema"),
        Finding("Periarticular cysts", "periarticular cysts"),
        Finding("Ligament - ACL Low Grade sprain", "a low-grade sprain of the anterior cruciate ligament"),
        Finding("Ligament - ACL High Grade Sprain", "a high-grade sprain of the anterior cruciate ligament"),
        Finding("Cartilage - Full Thickness loss/defect", "a full-thickness cartilage defect"),
        Finding(
            "Ligament - MCL Low-Mod Grade Sprain", "a low to moderate grade sprain of the medial collateral ligament"
        ),
        Finding("Displaced Meniscal Tissue", "displaced meniscal tissue"),
        Finding("Bone - Lesion", "a bone lesion"),
        Finding(
            "Ligament - PCL Low-Mod grade sprain", "a low to moderate grade sprain of the posterior cruciate ligament"
        ),
        Finding(
            "LCL Complex - Low-Mod Grade Sprain",
            "a low to moderate grade sprain of the lateral collateral ligament complex",
        ),
        Finding("Soft Tissue Lesion", "a soft tissue lesion"),
        Finding("Muscle Strain", "a muscle strain"),
        Finding("Joint Bodies", "loose bodies in the joint"),
        Finding("Patellar Retinaculum - High grade sprain", "a high-grade sprain of the patellar retinaculum"),
        Finding("Ligament - PCL High Grade", "a high-grade sprain of the posterior cruciate ligament"),
        Finding("LCL Complex- High Grade Sprain", "a high-grade sprain of the lateral collateral ligament complex"),
        Finding("artifact", "an imaging artifact", "artifact", study_level=True),
        Finding("Ligament - MCL High Grade sprain", "a high-grade sprain of the medial collateral ligament"),
    ),
}
"""Every label of fastMRI+ by anatomy, the most frequent first."""


def diagnoses(anatomy: str) -> tuple[Finding, ...]:
    """The pathologies of an anatomy: what a lesion may be called.

    Raises
    ------
    InputError
        If the anatomy is unknown.
    """
    if anatomy not in FINDINGS:
        raise InputError(f"unknown anatomy {anatomy!r}; known are {', '.join(FINDINGS)}")
    return tuple(finding for finding in FINDINGS[anatomy] if finding.kind == "pathology")


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
