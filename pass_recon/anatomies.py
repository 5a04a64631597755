"""The one table of anatomies and contrasts: their names, what to find in them, and how a scan's header tells them.

To add an anatomy, add an entry to ``ANATOMIES``, paint it in a module that the entry names (``pass_recon.phantom`` has
ours), and give it kinds of lesions in ``pass_recon.phantom.lesions``. This module imports nothing heavy, since gadgets
that only sort lines read it too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pass_recon.types import InputError

Direction = tuple[float, float, float]


@dataclass(frozen=True)
class Finding:
    """A label of fastMRI+.

    Attributes
    ----------
    label
        As in the annotations, without surrounding blanks.
    phrase
        How a sentence would name it.
    category
        Only a ``"pathology"`` is ever offered as a diagnosis.
    study_level
        True where the label describes the study and has no box.
    """

    label: str
    phrase: str
    category: Literal["pathology", "normal", "artifact"] = "pathology"
    study_level: bool = False


@dataclass(frozen=True)
class Contrast:
    """A weighting that images can have.

    Attributes
    ----------
    title
        How a sentence calls it.
    words
        Words of protocol names that tell it, any of them.
    excluded
        Words that tell of something else, whatever ``words`` say.
    repetition_time_ms, echo_time_ms
        Of a typical scan, for the headers of simulated ones.
    """

    title: str
    words: tuple[str, ...]
    excluded: tuple[str, ...] = ()
    repetition_time_ms: float = 0.0
    echo_time_ms: float = 0.0


@dataclass(frozen=True)
class Anatomy:
    """A part of the body that images are made of.

    Attributes
    ----------
    contrasts
        Names of those it is simulated and trained in, the default first.
    view
        How a caption calls its slices.
    phantom
        Module that paints simulated patients: ``paint(streams, grid, contrast, enlarged)``, ``place_of(box, shape)``,
        ``LEVELS_MM``, ``SLICE_MM``, ``FIELD_OF_VIEW_MM``.
    array_mm
        Half axes (readout, phase) of the surface on which the loops of a simulated array lie.
    body_parts
        Values of DICOM's BodyPartExamined that name it.
    words
        Words of protocol names that tell it.
    fastmri_directions
        Unit vectors of readout and phase encoding of fastMRI's arrays in the patient's coordinates (left, posterior,
        superior).
    patient_directions
        The same and that of the slices, of simulated patients.
    findings
        Labels of fastMRI+ (Zhao et al., Scientific Data 2022), the most frequent first; the phrases are ours.
    """

    contrasts: tuple[str, ...]
    view: str
    phantom: str
    array_mm: tuple[float, float]
    body_parts: tuple[str, ...]
    words: tuple[str, ...]
    fastmri_directions: tuple[Direction, Direction]
    patient_directions: tuple[Direction, Direction, Direction]
    findings: tuple[Finding, ...]


CONTRASTS: dict[str, Contrast] = {
    "t1": Contrast(
        "T1-weighted",
        ("t1", "t1w", "t1 weighted", "axt1", "axt1post", "axt1pre", "t1post", "t1pre", "t1gd", "t1c", "t1ce"),
        ("map", "mapping", "rho"),
        600.0,
        10.0,
    ),
    "flair": Contrast("FLAIR", ("flair", "tirm", "axflair"), (), 9000.0, 90.0),
    "pd": Contrast(
        "proton-density-weighted",
        ("pd", "pdw", "corpd", "proton density"),
        # Suppressed fat: another contrast, for which nothing was trained.
        ("fs", "fatsat", "fat sat", "fat saturated", "fat saturation", "fat suppressed", "fat suppression", "fatsup",
         "fatsuppressed", "spair", "stir", "spir", "dixon", "chemsat", "water", "we", "pdfs", "corpdfs", "pdwfs",
         "ideal", "fat", "f s", "fatsupp", "supp", "suppressed", "suppression", "chess", "special", "proset"),
        2500.0,
        30.0,
    ),
}  # fmt: skip
"""By name."""

_BRAIN_FINDINGS = (
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
    Finding("Innumerable bilateral focal brain lesions", "innumerable bilateral focal brain lesions", study_level=True),
    Finding("Possible demyelinating disease", "possible demyelinating disease", study_level=True),
    Finding("Pineal cyst", "a pineal cyst"),
    Finding("Global Ischemia", "global ischemia", study_level=True),
)
_KNEE_FINDINGS = (
    Finding("Meniscus Tear", "a meniscus tear"),
    Finding("Cartilage - Partial Thickness loss/defect", "a partial-thickness cartilage defect"),
    Finding("Joint Effusion", "a joint effusion"),
    Finding("Bone-Fracture/Contusion/dislocation", "a bone fracture, contusion or dislocation"),
    Finding("Bone- Subchondral edema", "subchondral bone edema"),
    Finding("Periarticular cysts", "periarticular cysts"),
    Finding("Ligament - ACL Low Grade sprain", "a low-grade sprain of the anterior cruciate ligament"),
    Finding("Ligament - ACL High Grade Sprain", "a high-grade sprain of the anterior cruciate ligament"),
    Finding("Cartilage - Full Thickness loss/defect", "a full-thickness cartilage defect"),
    Finding("Ligament - MCL Low-Mod Grade Sprain", "a low to moderate grade sprain of the medial collateral ligament"),
    Finding("Displaced Meniscal Tissue", "displaced meniscal tissue"),
    Finding("Bone - Lesion", "a bone lesion"),
    Finding("Ligament - PCL Low-Mod grade sprain", "a low to moderate grade sprain of the posterior cruciate ligament"),
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
)

ANATOMIES: dict[str, Anatomy] = {
    "brain": Anatomy(
        contrasts=("flair", "t1"),
        view="axial head",
        phantom="pass_recon.phantom.anatomy_head",
        array_mm=(125.0, 105.0),
        body_parts=("brain", "head"),
        words=("brain", "head", "cerebral", "cerebrum", "neuro", "cranial", "axt1", "axt1post", "axt1pre", "axflair",
               "ax t1", "ax flair", "ax t2 flair"),
        fastmri_directions=((0.0, -1.0, 0.0), (1.0, 0.0, 0.0)),
        patient_directions=((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),  # axial, upwards
        findings=_BRAIN_FINDINGS,
    ),
    "knee": Anatomy(
        contrasts=("pd",),
        view="coronal knee",
        phantom="pass_recon.phantom.anatomy_knee",
        array_mm=(110.0, 90.0),
        body_parts=("knee",),
        words=("knee", "corpd", "corpdfs"),
        fastmri_directions=((0.0, 0.0, 1.0), (1.0, 0.0, 0.0)),
        patient_directions=((0.0, 0.0, -1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),  # coronal, towards the front
        findings=_KNEE_FINDINGS,
    ),
}  # fmt: skip
"""By name, as bundles are named."""

# Parts of the body that a protocol's name can hold beside a word such as "head", and what is no patient at all.
_ELSEWHERE = frozenset((
    "abdomen", "abdominal", "ankle", "aorta", "arm", "breast", "cardiac", "cervical", "chest", "clavicle", "coccyx",
    "elbow", "extremity", "femoral", "femur", "finger", "foot", "hand", "heart", "hip", "humeral", "humerus",
    "kidney", "kidneys", "larynx", "leg", "liver", "lumbar", "lung", "mamma", "mandible", "metacarpal", "metatarsal",
    "myocardium", "neck", "orbit", "orbits", "pancreas", "pelvis", "prostate", "radial", "radius", "sacrum",
    "shoulder", "spinal", "spine", "sternum", "thigh", "thoracic", "thorax", "throat", "tibial", "tmj", "toe",
    "uterus", "wrist",
    "bladder", "bowel", "calf", "carotid", "dental", "ear", "eye", "eyes", "face", "facial", "fetal", "fetus", "fibula",
    "forearm", "iac", "jaw", "ovary", "parotid", "pituitary", "rectum", "rib", "ribs", "sinus", "sinuses", "spleen",
    "talus", "teeth", "testis", "thyroid", "tibia", "tongue", "ulna", "vertebra", "vertebral",
))  # fmt: skip
_NO_PATIENT = frozenset(("phantom", "qa", "qc", "mouse", "rat", "spectroscopy"))
_UNTOLD = ("", "unknown", "undefined", "unspecified", "none", "na", "n a", "wholebody", "whole body")


class Recognition(NamedTuple):
    """What a header says that was scanned: ``examination`` such as ``brain-t1``, empty where none is known, and why."""

    examination: str
    reason: str


def recognise(body_part: str, names: Sequence[str]) -> Recognition:
    """Tell anatomy and contrast from what a header says.

    The body part decides where it is told, and vetoes what the names say. Names are read by whole words, so that a
    femoral head is no head and T1rho no T1.

    Parameters
    ----------
    body_part
        DICOM's BodyPartExamined, or nothing.
    names
        Names of protocol, series, sequence and study.
    """
    told = " ".join(_words(body_part))
    texts = [_words(name) for name in names]
    if objects := _among(texts, _NO_PATIENT):
        return Recognition("", f"no patient: the word {objects!r}")
    if told in _UNTOLD:
        anatomy, reason = _anatomy_by_names(texts)
    else:
        anatomy = next((name for name, known in ANATOMIES.items() if told in known.body_parts), "")
        reason = f"body part {body_part!r}"
    if not anatomy:
        return Recognition("", f"no anatomy that is known ({reason})")
    contrast, why = _contrast_by_names(texts, ANATOMIES[anatomy].contrasts)
    return Recognition(f"{anatomy}-{contrast}" if contrast else "", f"{anatomy} ({reason}), {why}")


def _anatomy_by_names(texts: Sequence[Sequence[str]]) -> tuple[str, str]:
    # A coil tells where the patient lies, not what is imaged.
    texts = [[word for word, after in zip(text, [*text[1:], ""], strict=False) if after != "coil"] for text in texts]
    if elsewhere := _among(texts, _ELSEWHERE - {word for known in ANATOMIES.values() for word in known.words}):
        return "", f"the word {elsewhere!r}"
    found = {name: word for name, known in ANATOMIES.items() if (word := _found(texts, known.words))}
    if len(found) != 1:
        return "", f"the words {', '.join(map(repr, found.values()))}" if found else "no word that names one"
    [(name, word)] = found.items()
    return name, f"the word {word!r}"


def _contrast_by_names(texts: Sequence[Sequence[str]], offered: Sequence[str]) -> tuple[str, str]:
    """The contrast that the first telling name tells, empty where it tells of two or of none; and why."""
    for text in texts:
        found = {name: word for name, known in CONTRASTS.items() if (word := _found([text], known.words))}
        if len(found) > 1:
            return "", f"but {' and '.join(map(repr, found.values()))} tell of different contrasts"
        for name, word in found.items():
            if other := _found(texts, CONTRASTS[name].excluded):
                return "", f"but {other!r} beside {word!r} tells of another contrast"
            return (name, f"contrast by {word!r}") if name in offered else ("", f"but nothing was trained for {word!r}")
    return "", "but no contrast that is known"


def _among(texts: Sequence[Sequence[str]], words: frozenset[str]) -> str:
    """The first word of the texts that is one of these; empty if none is."""
    return next((word for text in texts for word in text if word in words), "")


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())  # of any alphabet: T1ρ is no T1


def _found(texts: Sequence[Sequence[str]], phrases: Sequence[str]) -> str:
    """The first of some phrases, each one or several words, that stands in one of the texts; empty if none does."""
    joined = [f" {' '.join(text)} " for text in texts]
    return next((phrase for phrase in phrases if any(f" {phrase} " in text for text in joined)), "")


def anatomy_named(name: str) -> Anatomy:
    """The anatomy of that name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in ANATOMIES:
        raise InputError(f"unknown anatomy {name!r}; known are {', '.join(ANATOMIES)}")
    return ANATOMIES[name]
