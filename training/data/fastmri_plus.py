"""fastMRI+: findings that radiologists marked in fastMRI, read from its CSV files.

A row is a box on a slice (``study_level`` No) or a statement about the whole study (Yes). Boxes are in pixels of
``reconstruction_rss`` flipped up/down; slices count from 0 as in the arrays. A study listed as reviewed but without a
row had no finding.

References
----------
Zhao et al., fastMRI+, Clinical pathology annotations for knee and brain fully sampled magnetic resonance imaging data,
Scientific Data 9 (2022). Labels: https://github.com/microsoft/fastmri-plus
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pass_recon.types import Box, InputError
from training.data.case_file import ABNORMAL, NORMAL, UNLABELLED

COLUMNS = ("file", "slice", "study_level", "x", "y", "width", "height", "label")
# What radiologists wrote down that is no disease. Compared in small letters.
NORMAL_LABELS = frozenset({"normal for age", "normal variant"})
ARTEFACT_LABELS = frozenset({"artifact", "possible artifact", "motion artifact"})


@dataclass(frozen=True)
class Mark:
    """A box as fastMRI+ has it: pixels of the flipped image, (x, y) its top left corner, on ``slice_index``."""

    slice_index: int
    x: int
    y: int
    width: int
    height: int
    label: str


@dataclass(frozen=True)
class Study:
    """All that fastMRI+ says about one file.

    Attributes
    ----------
    reviewed
        Whether a radiologist looked at it at all.
    marks
        The boxes.
    statements
        Labels of the study as a whole.
    """

    reviewed: bool = False
    marks: tuple[Mark, ...] = ()
    statements: tuple[str, ...] = ()

    def label(self, slice_index: int) -> int:
        """Label of a slice: 1 abnormal, 0 normal, −1 unknown.

        A finding boxed on the slice, or stated of the whole study, makes it abnormal. A slice with nothing but
        artefacts is neither a clean normal nor abnormal.
        """
        if not self.reviewed:
            return UNLABELLED
        names = {mark.label for mark in self.marks if mark.slice_index == slice_index} | set(self.statements)
        if any(is_finding(name) for name in names):
            return ABNORMAL
        return UNLABELLED if any(name.lower() in ARTEFACT_LABELS for name in names) else NORMAL

    def caption(self, slice_index: int) -> str:
        """What the radiologist wrote about a slice and about the study, each label once."""
        here = [mark.label for mark in self.marks if mark.slice_index == slice_index]
        return "; ".join(dict.fromkeys([*here, *self.statements]))


@dataclass(frozen=True)
class Annotations:
    """What fastMRI+ says, by file name without ending.

    Attributes
    ----------
    studies
        The reviewed files.
    counts
        Rows by label, as they stand in the CSV.
    ignored
        Lines that are neither a row nor a file name, with the reason.
    """

    studies: Mapping[str, Study] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def of(self, name: str) -> Study:
        """What is known about a file; never reviewed if it is not mentioned."""
        return self.studies.get(name, Study())


def is_finding(label: str) -> bool:
    """Whether a label names something abnormal: neither an artefact nor a variant of the normal."""
    return label.lower() not in NORMAL_LABELS | ARTEFACT_LABELS


def read_annotations(tables: Iterable[Path], lists: Iterable[Path] = ()) -> Annotations:
    """Read annotation tables (``brain.csv``) and lists of reviewed files (``brain_file_list.csv``).

    Raises
    ------
    InputError
        If a file cannot be read, has other columns, or a row that is not understood.
    """
    marks: dict[str, list[Mark]] = {}
    statements: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    reviewed: set[str] = set()
    ignored: list[str] = []
    for path in tables:
        for number, row in _rows(path):
            label = row["label"].strip()
            counts[label] += 1
            reviewed.add(row["file"])
            if row["study_level"].strip().lower() == "yes":
                statements.setdefault(row["file"], []).append(label)
            else:
                marks.setdefault(row["file"], []).append(_mark(row, label, f"{path}, line {number}"))
    for path in lists:
        for line in _text(path).split("\n"):
            name = line.split(",")[0].strip().removesuffix(".h5")
            # One of the lists ends in its title, "Knee data".
            if " " in name or name == "file":
                ignored.append(f"{path.name}: {name!r} is no file name")
            elif name:
                reviewed.add(name)
    studies = {
        name: Study(True, tuple(marks.get(name, ())), tuple(statements.get(name, ()))) for name in sorted(reviewed)
    }
    return Annotations(studies, dict(counts.most_common()), tuple(ignored))


def array_box(mark: Mark, drawn: tuple[int, int], full: tuple[int, int], shape: tuple[int, int]) -> Box | None:
    """A box in pixels of the image that was cropped (or padded) to ``shape`` around the centre of the full image.

    Parameters
    ----------
    mark
        The box on the flipped image.
    drawn
        ``(rows, columns)`` of the image it was drawn on, ``reconstruction_rss``.
    full
        ``(ro, pe)`` of the k-space that both come from.
    shape
        ``(ro, pe)`` of the image the box is wanted for.

    Returns
    -------
    Box or None
        None where nothing of the box is left, or it was a click without extent.
    """
    top = drawn[0] - mark.y - mark.height
    # fastMRI crops from (n − m) // 2; here index n // 2 stays at index m // 2. They differ for odd sizes.
    row, column = ((f - d) // 2 - f // 2 + s // 2 for f, d, s in zip(full, drawn, shape, strict=True))
    first = (max(top + row, 0), max(mark.x + column, 0))
    last = (min(top + mark.height + row, shape[0]), min(mark.x + mark.width + column, shape[1]))
    if last[0] <= first[0] or last[1] <= first[1] or mark.width <= 0 or mark.height <= 0:
        return None
    return Box(first[0], first[1], last[0] - first[0], last[1] - first[1], 1.0, mark.label)


def _rows(path: Path) -> Iterable[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(_text(path).splitlines())
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise InputError(f"{path} has the columns {reader.fieldnames}, fastMRI+ has {list(COLUMNS)}")
    for number, row in enumerate(reader, start=2):
        if None in row or None in row.values():
            raise InputError(f"{path}, line {number}: not {len(COLUMNS)} columns")
        row["file"] = row["file"].strip().removesuffix(".h5")
        yield number, row


def _mark(row: dict[str, str], label: str, where: str) -> Mark:
    try:
        numbers = [round(float(row[name])) for name in ("slice", "x", "y", "width", "height")]
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    slice_index, x, y, width, height = numbers
    return Mark(slice_index, x, y, width, height, label)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text: {error}") from error
