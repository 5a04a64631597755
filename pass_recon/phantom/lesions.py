"""Lesions: what kinds there are, where they grow, how they are painted, and the boxes drawn around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pass_recon.phantom.draws import Draws
from pass_recon.phantom.shapes import SliceGrid, WaveField, ellipsoid_distance, grown, inside
from pass_recon.phantom.tissues import Canvas
from pass_recon.types import Box, InputError

# Fewer pixels than this on a slice are not painted there: nobody could see or box them.
_FEWEST_PIXELS = 5
_SMALLEST_BOX = 6
_FADES_WITHIN_MM = 4.0


@dataclass(frozen=True)
class LesionKind:
    """One kind of lesion. Distances are in mm; tissues and landmarks are names of the canvas.

    Attributes
    ----------
    label
        The label in fastMRI+.
    phrase
        How the caption calls it.
    within
        Landmark that it does not leave, and by how much it may.
    tissue, inner, inner_from
        What it is made of, and what from which depth on.
    radii
        Smallest and largest radius.
    flatness
        Its thickness as a fraction of its radius: 1 a ball, 0.1 a crack.
    halo, halo_mm, halo_within
        Tissue around it, how far that reaches, and the landmark it does not leave.
    halo_label
        Where the halo is a finding of its own.
    near
        Landmark and depth in it close to which the lesion grows.
    levels
        Slices in which it is found; elsewhere the first kind of the anatomy takes its place.
    """

    label: str
    phrase: str
    within: tuple[str, float]
    tissue: str
    radii: tuple[float, float]
    inner: str = ""
    inner_from: float = 0.0
    flatness: float = 0.8
    halo: str = ""
    halo_mm: float = 0.0
    halo_within: str = ""
    halo_label: str = ""
    near: tuple[str, float] | None = None
    levels: tuple[float, float] = (-1e3, 1e3)


VENTRICLES = "Enlarged ventricles"

KINDS: dict[str, tuple[LesionKind, ...]] = {
    "brain": (
        LesionKind("Nonspecific white matter lesion", "a nonspecific white matter lesion", ("white", 0.6), "gliosis",
                   (2.8, 6.5), near=("ventricle", -7.0)),
        LesionKind("Lacunar infarct", "a lacunar infarct", ("white", 1.0), "gliosis", (3.2, 5.5), inner="fluid",
                   inner_from=1.2, near=("ventricle", -12.0)),
        LesionKind("Edema", "oedema", ("white", 0.8), "oedema", (13.0, 22.0), near=("pia", 9.0)),
        LesionKind("Mass", "a mass with oedema around it", ("pia", 1.0), "tumour", (7.5, 14.0), inner="necrosis",
                   inner_from=5.5, halo="oedema", halo_mm=9.0, halo_within="white", halo_label="Edema"),
        LesionKind(VENTRICLES, "enlarged ventricles", ("ventricle", 0.0), "fluid", (2.2, 4.8), levels=(2.0, 22.0)),
        LesionKind("Resection cavity", "a resection cavity", ("hull", -1.0), "gliosis", (9.0, 17.0), inner="fluid",
                   inner_from=1.8, near=("hull", 9.0), levels=(0.0, 1e3)),
    ),
    "knee": (
        LesionKind("Bone- Subchondral edema", "subchondral bone marrow oedema", ("bone", 0.0), "marrow_oedema",
                   (6.0, 11.0), near=("line", -8.0)),
        LesionKind("Meniscus Tear", "a meniscus tear", ("meniscus", 0.2), "tear", (4.5, 7.0), flatness=0.2),
        LesionKind("Cartilage - Partial Thickness loss/defect", "a partial thickness cartilage defect",
                   ("cartilage", 0.2), "effusion", (3.0, 5.5), flatness=0.6),
        LesionKind("Joint Effusion", "a joint effusion", ("recess", 0.0), "effusion", (9.0, 16.0), flatness=0.5,
                   near=("bone", -6.0)),
        LesionKind("Bone-Fracture/Contusion/dislocation", "a fracture", ("bone", 0.6), "fracture", (9.0, 16.0),
                   flatness=0.09, halo="marrow_oedema", halo_mm=4.5, halo_within="bone", near=("line", -14.0)),
    ),
}  # fmt: skip


@dataclass
class Findings:
    """What was found on each slice of a batch: masks on the device, boxes and phrases on the host."""

    masks: Tensor
    boxes: list[list[Box]]
    phrases: list[list[tuple[str, Box]]]
    distances: list[Tensor] = field(default_factory=list)

    def add(self, visible: Tensor, kind: LesionKind, label: str) -> None:
        """Record one lesion of one label from its ``(batch, ro, pe)`` mask."""
        self.masks |= visible
        for index, box in boxes_of(visible, label):
            self.boxes[index].append(box)
            if label == kind.label:
                self.phrases[index].append((kind.phrase, box))


def boxes_of(masks: Tensor, label: str = "") -> list[tuple[int, Box]]:
    """The box around each non-empty mask of ``(batch, ro, pe)``, with the mask's index; at least 6 pixels a side."""
    present = masks.flatten(1).any(1)
    edges = []
    for axis in (2, 1):
        profile = masks.any(axis).to(torch.uint8)
        edges += [profile.argmax(1), profile.shape[1] - profile.flip(1).argmax(1)]
    table = torch.stack([present.to(torch.long), *edges], 1).tolist()
    found = []
    for index, (seen, *corners) in enumerate(table):
        if seen:
            spans = [
                _widened(pair, size) for pair, size in zip((corners[:2], corners[2:]), masks.shape[1:], strict=True)
            ]
            (row, rows), (column, columns) = spans
            found.append((index, Box(row, column, rows, columns, 1.0, label)))
    return found


def _widened(edges: Sequence[int], size: int) -> tuple[int, int]:
    first, stop = edges
    extent = min(max(stop - first, _SMALLEST_BOX), size)
    start = min(max(first - (extent - (stop - first)) // 2, 0), size - extent)
    return start, extent


class LesionPlan:
    """Which lesions each patient has, decided before the anatomy is painted, since some change the anatomy.

    Parameters
    ----------
    draws
        Random numbers of the lesions alone.
    anatomy
        ``"brain"`` or ``"knee"``.
    counts
        Number of lesions of each patient.
    grid
        The slices; those of a patient are neighbours in the batch.
    labels
        Kinds to choose from; None for all of the anatomy.
    allowed
        Indices of the slices in which lesions may have their middle; None for all.

    Raises
    ------
    InputError
        If a label is not one of the anatomy's.
    """

    def __init__(
        self,
        draws: Draws,
        anatomy: str,
        counts: Sequence[int],
        grid: SliceGrid,
        labels: Sequence[str] | None = None,
        allowed: Sequence[int] | None = None,
    ) -> None:
        kinds = KINDS[anatomy]
        known = [kind.label for kind in kinds]
        unknown = set(labels or ()) - set(known)
        if unknown:
            raise InputError(f"no simulated {anatomy} lesion {sorted(unknown)}; there are {known}")
        offered = [kind for kind in kinds if labels is None or kind.label in labels]
        levels, patients = grid.level.tolist(), grid.patient.tolist()
        slices_of = [
            [i for i, p in enumerate(patients) if p == patient and (allowed is None or i in allowed)]
            for patient in range(draws.patients)
        ]
        ventricles = torch.zeros(draws.patients)
        self.lesions: list[_Lesion] = []
        for number in range(max(counts, default=0)):
            choice, place = draws.uniform(0.0, 1.0).tolist(), draws.uniform(0.0, 1.0).tolist()
            size = draws.uniform(0.0, 1.0)
            chosen: list[LesionKind | None] = []
            home = []
            for patient, count in enumerate(counts):
                kind = offered[min(int(choice[patient] * len(offered)), len(offered) - 1)]
                places = [i for i in slices_of[patient] if kind.levels[0] <= levels[i] <= kind.levels[1]]
                if not places or (kind.label == VENTRICLES and ventricles[patient]):
                    kind, places = kinds[0], slices_of[patient]
                home.append(places[min(int(place[patient] * len(places)), len(places) - 1)])
                chosen.append(kind if number < count else None)
                if chosen[-1] is not None and kind.label == VENTRICLES:
                    low, high = kind.radii
                    ventricles[patient] = low + (high - low) * float(size[patient])
            self.lesions.append(_Lesion(chosen, torch.tensor(home, device=grid.device), size, draws))
        self.enlarged_ventricles = ventricles.to(grid.device)

    def paint(self, canvas: Canvas) -> Findings:
        """Paint the lesions on the finished anatomy and say where they are."""
        batch = len(canvas.grid.level)
        findings = Findings(
            torch.zeros(canvas.grid.shape, dtype=torch.bool, device=canvas.grid.device),
            [[] for _ in range(batch)],
            [[] for _ in range(batch)],
        )
        for lesion in self.lesions:
            lesion.paint(canvas, findings)
        return findings


class _Lesion:
    """The n-th lesion of every patient of a batch, of whatever kind it is in each."""

    def __init__(self, kinds: list[LesionKind | None], home: Tensor, size: Tensor, draws: Draws) -> None:
        self.kinds, self.home, self.size = kinds, home, size
        self.turn = draws.uniform(-1.2, 1.2)
        self.stretch = draws.uniform(0.8, 1.2, 2)
        self.strength = draws.uniform(0.8, 1.0)
        self.preference = WaveField(draws, 12.0, 45.0)
        self.wobble = WaveField(draws, 6.0, 16.0)

    def paint(self, canvas: Canvas, findings: Findings) -> None:
        grid = canvas.grid
        for kind in dict.fromkeys(kind for kind in self.kinds if kind is not None):
            of_patient = torch.tensor([k is kind for k in self.kinds], device=grid.device)
            slices = of_patient[grid.patient].nonzero().flatten()
            if kind.label == VENTRICLES:
                mask = torch.zeros_like(findings.masks)
                mask[slices] = canvas.landmarks["ventricle"][slices] > 0.0
                findings.add(mask, kind, kind.label)
            else:
                self._paint_kind(canvas, findings, kind, slices)

    def _paint_kind(self, canvas: Canvas, findings: Findings, kind: LesionKind, slices: Tensor) -> None:
        grid, part = canvas.grid, canvas.grid.only(slices)
        landmark = canvas.landmarks[kind.within[0]] + kind.within[1]
        rows, columns, slack = self._choose_centre(canvas, findings, kind, landmark)
        away = self._distance(kind, part, rows, columns, grid.level[self.home])
        core = torch.minimum(away, landmark[slices] + part.spread(slack))
        seen = ((core > 0.0).flatten(1).sum(1) >= _FEWEST_PIXELS)[:, None, None]
        masks = {kind.label: (core > 0.0) & seen}
        if kind.halo:
            limit = canvas.landmarks[kind.halo_within][slices]
            around = (torch.minimum(away + kind.halo_mm - 1.0, limit) > 0.0) & seen
            if kind.halo_label:
                masks[kind.halo_label] = around & ~masks[kind.label]
            else:
                masks[kind.label] = masks[kind.label] | around
        # Where the lesion only grazes a slice, it would leave a shadow that no mask covers.
        near = grown(torch.stack(list(masks.values())).any(0), 1 + int(_FADES_WITHIN_MM / grid.pixel_mm))
        strength = part.spread(self.strength) * near
        soft = 1.3 * grid.pixel_mm
        if kind.halo:
            cover = inside(away + kind.halo_mm - 1.0, 4.0) * inside(limit, soft)
            canvas.paint(kind.halo, 0.85 * strength * cover, slices=slices)
        canvas.paint(kind.tissue, strength * inside(core, soft), slices=slices)
        if kind.inner:
            canvas.paint(kind.inner, strength * inside(core - kind.inner_from, 1.5 * soft), slices=slices)
        taken = torch.full_like(canvas.signal, -1e3)
        taken[slices] = away
        findings.distances.append(taken)
        for label, mask in masks.items():
            everywhere = torch.zeros_like(findings.masks)
            everywhere[slices] = mask
            findings.add(everywhere, kind, label)

    def _distance(self, kind: LesionKind, part: SliceGrid, rows: Tensor, columns: Tensor, levels: Tensor) -> Tensor:
        """Signed distance to the surface of the lesion, positive inside: a turned ellipsoid with an uneven surface."""
        low, high = kind.radii
        radius = (low + (high - low) * self.size).clamp(min=1.8 * part.pixel_mm)
        thickness = (radius * kind.flatness * self.stretch[:, 0]).clamp(min=0.6 * part.pixel_mm)
        height = (0.8 * radius).clamp(min=0.6 * part.slice_mm)
        radii = tuple(part.spread(extent) for extent in (thickness, radius * self.stretch[:, 1], height))
        away = ellipsoid_distance(self._turned_offsets(part, rows, columns, levels), radii)
        # Higher waves on a larger lesion would tear pieces off.
        return away + 0.13 * kind.flatness * part.spread(radius.clamp(max=9.0)) * self.wobble.on(part)

    def _choose_centre(
        self, canvas: Canvas, findings: Findings, kind: LesionKind, landmark: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Coordinates of the best place on each patient's home slice, and the room that is missing there."""
        grid = canvas.grid
        score = landmark[self.home].clamp(max=0.6 * kind.radii[0]) * 3.0
        if kind.near is not None:
            score = score - 0.15 * (canvas.landmarks[kind.near[0]][self.home] - kind.near[1]).abs()
        for other in findings.distances:
            score = score - 3.0 * (other[self.home] + 8.0).clamp(min=0.0)
        score = score + 2.0 * self.preference.on(grid.only(self.home))
        best = score.flatten(1).argmax(1)
        room = landmark[self.home].flatten(1).gather(1, best[:, None])[:, 0]
        slack = (1.6 * grid.pixel_mm - room).clamp(min=0.0)
        columns = grid.shape[2]
        return grid.readout[best // columns], grid.phase[best % columns], slack

    def _turned_offsets(
        self, part: SliceGrid, rows: Tensor, columns: Tensor, levels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        readout, phase = part.readout[:, None] - part.spread(rows), part.phase[None, :] - part.spread(columns)
        cosine, sine = part.spread(torch.cos(self.turn)), part.spread(torch.sin(self.turn))
        level = part.level[:, None, None] - part.spread(levels)
        return cosine * readout + sine * phase, cosine * phase - sine * readout, level
