"""Magnitude volumes (NIfTI) as cases: brought to the form's orientation and grid, with simulated phase and coils.

Orientation: heads lie as a radiologist looks at them. Axial (brain): readout from anterior to posterior, phase
encoding from the patient's right to left, slices from the feet up. Coronal (knee): readout from head to foot, phase
encoding likewise.

Grid: a volume whose pixels make a field of view of 200 to 260 mm on the wanted matrix keeps its pixels and is cropped
or padded; any other is resampled to 240 mm. Slices thinner than 3 mm are averaged to about that. Slices that show
next to nothing are dropped.

The magnitude, as it is, counts as the noiseless truth; coil maps and phase come from the simulated patients' arrays.
k-space is not stored: it is made on reading, with fresh noise each time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from pass_recon.anatomies import ANATOMIES
from pass_recon.common.memory import limit
from pass_recon.phantom import paint_lesions
from pass_recon.phantom.draws import mixed_seed
from pass_recon.physics.fourier import resize_centre
from pass_recon.types import Box, InputError
from training.data.case_file import (
    ABNORMAL,
    NORMAL,
    UNLABELLED,
    CaseInfo,
    CaseShape,
    SliceArrays,
    SliceRecord,
    writing_case,
)
from training.data.jobs import fingerprint_of
from training.data.receivers import SimulatedReceivers

ENDINGS = (".nii.gz", ".nii")
MASK_ENDING = "_lesions"
# The patient is what stands before the session and the contrast: patient03_study1_FLAIR, sub-01_ses-2_T1w.
_NAME = re.compile(
    r"(?P<patient>.+?)(?P<session>_(study|ses|session|visit)-?\w+?)?_(?P<contrast>flair|t1w?|t2w?|pdw?)", re.IGNORECASE
)
_KEPT_MM, _RESAMPLED_MM, _SLICE_MM = (200.0, 260.0), 240.0, 3.0
_BYTES_OF_VOXEL = 16  # as it lies in the file, and as what is made of it
_SHOWN = 0.04  # of the pixels of a slice must show anatomy


@dataclass(frozen=True)
class VolumeSettings:
    """How magnitude volumes are prepared.

    Attributes
    ----------
    anatomy
        ``brain`` (cut axially) or ``knee`` (cut coronally).
    contrast
        For volumes whose name does not tell.
    shape
        ``(ro, pe)``.
    coils
        Of the simulated array.
    noise
        Noise of a complex sample of one coil, as a fraction of the peak, suggested for reading.
    lesion_label
        What the lesion masks show, in fastMRI+'s words.
    smallest_lesion
        Connected pixels below which a spot of a lesion mask gets no box.
    painted
        Lesions to paint into each volume, as simulated patients have them; the case's name then tells the seed.
    seed
        Of phase, coils and painted lesions.
    """

    anatomy: str = "brain"
    contrast: str = ""
    shape: tuple[int, int] = (320, 320)
    coils: int = 12
    noise: float = 0.01
    lesion_label: str = "Nonspecific white matter lesion"
    smallest_lesion: int = 4
    painted: int = 0
    seed: int = 0


@dataclass(frozen=True)
class VolumeJob:
    """One NIfTI volume to be prepared, with its lesion mask if there is one."""

    path: Path
    mask: Path | None
    settings: VolumeSettings

    @property
    def name(self) -> str:
        """The file's name without ending."""
        return _stem(self.path) + (f"_painted_{self.settings.seed}" if self.settings.painted else "")

    def size(self) -> int:
        """With all slices of the volume; those that show nothing will be left out."""
        import nibabel
        from nibabel.orientations import io_orientation

        file: Any = nibabel.load(self.path)
        # Of the axes left, posterior and superior, the one that is neither readout nor phase encoding.
        in_plane = ANATOMIES[self.settings.anatomy].patient_directions[:2]
        (through,) = {0, 1, 2} - {axis for direction in in_plane for axis, part in enumerate(direction) if part}
        axis = io_orientation(file.affine)[:, 0].tolist().index(through)
        slices = file.shape[axis] // _slab_thickness(float(file.header.get_zooms()[axis]))
        return CaseShape(slices, self.settings.coils, *self.settings.shape).stored_bytes(measured=False)

    def fingerprint(self) -> str:
        """Of the files and the settings."""
        mask = None if self.mask is None else fingerprint_of(self.mask)
        return fingerprint_of(self.path, self.settings, mask)

    def write(self, path: Path, fingerprint: str) -> None:
        """Prepare the volume.

        Raises
        ------
        InputError
            If it is damaged, shows nothing, or its contrast is unknown.
        """
        patient, contrast = parse_name(_stem(self.path))
        contrast = contrast or self.settings.contrast
        if not contrast:
            raise InputError(f"{self.path.name}: the name tells no contrast, and none was given")
        volume = read_volume(self.path, self.settings.anatomy)
        mask = None if self.mask is None else read_volume(self.mask, self.settings.anatomy)
        if mask is not None and mask.values.shape != volume.values.shape:
            raise InputError(
                f"{self.path.name} has the shape {volume.values.shape}, its lesion mask {mask.values.shape}"
            )
        scan = on_grid(volume, mask, self.settings.shape)
        boxes = [self._lesion_boxes(scan, index) for index in range(len(scan.magnitude))]
        if self.settings.painted:
            scan, painted = self._painted(scan, contrast)
            boxes = [(*real, *simulated) for real, simulated in zip(boxes, painted, strict=True)]
        self._write(path, scan, boxes, (patient, contrast), fingerprint)

    def _write(
        self, path: Path, scan: GridVolume, boxes: list[tuple[Box, ...]], about: tuple[str, str], fingerprint: str
    ) -> None:
        settings = self.settings
        receivers = SimulatedReceivers(self.name, settings.seed, settings.coils, settings.anatomy)
        shape = CaseShape(len(scan.magnitude), settings.coils, *settings.shape)
        middle = (int(scan.origin[-1]) + int(scan.origin[0])) / 2
        with writing_case(path, shape, measured=False, lesion_masks=scan.mask is not None) as case:
            for index in range(shape.slices):
                level = (int(scan.origin[index]) - middle) * scan.slice_mm
                maps, phase = receivers.on_slice(settings.shape, scan.pixel_mm, level)
                image = scan.magnitude[index] * torch.polar(torch.ones_like(phase), phase)
                mask = None if scan.mask is None else scan.mask[index]
                record = self._record(mask, boxes[index], int(scan.origin[index]))
                case.put(index, SliceArrays(image, maps, lesion_mask=mask), record)
            case.finish(
                CaseInfo(
                    name=self.name,
                    source="nifti",
                    origin=self.path.name,
                    patient_id=about[0],
                    anatomy=settings.anatomy,
                    contrast=about[1],
                    pixel_mm=(scan.pixel_mm, scan.pixel_mm),
                    slice_mm=scan.slice_mm,
                    noise=settings.noise,
                    reviewed=self.mask is not None,
                    line_range=(0, settings.shape[1]),
                    scale=scan.peak,
                    fingerprint=fingerprint,
                )
            )

    def _record(self, mask: Tensor | None, boxes: tuple[Box, ...], origin: int) -> SliceRecord:
        label = ABNORMAL if boxes else NORMAL if self.mask is not None else UNLABELLED
        if not boxes and mask is not None and bool(mask.any()):
            # Spots too small for a box are lesions nevertheless: such a slice is no example of a normal one.
            label = UNLABELLED
        caption = "; ".join(dict.fromkeys(box.label for box in boxes))
        return SliceRecord(boxes=boxes, label=label, caption=caption, origin_slice=origin)

    def _lesion_boxes(self, scan: GridVolume, index: int) -> tuple[Box, ...]:
        if scan.mask is None:
            return ()
        return mask_boxes(scan.mask[index], self.settings.lesion_label, self.settings.smallest_lesion)

    def _painted(self, scan: GridVolume, contrast: str) -> tuple[GridVolume, tuple[tuple[Box, ...], ...]]:
        settings = self.settings
        result = paint_lesions(
            scan.magnitude,
            anatomy=settings.anatomy,
            contrast=contrast,
            pixel_mm=scan.pixel_mm,
            slice_mm=scan.slice_mm,
            lesions=settings.painted,
            seed=mixed_seed(settings.seed, _stem(self.path), "painted") % 2**31,
        )
        peak = float(result.image.max())
        mask = result.lesion_masks if scan.mask is None else result.lesion_masks | scan.mask
        return replace(scan, magnitude=result.image / peak, mask=mask, peak=scan.peak * peak), result.boxes


@dataclass(frozen=True)
class Volume:
    """Values ``(slices, ro, pe)`` in the form's orientation, with the distances of samples in mm."""

    values: Tensor
    spacing: tuple[float, float, float]


@dataclass(frozen=True)
class GridVolume:
    """A volume on the grid of a case: ``(slices, ro, pe)``, of peak 1 after division by ``peak``.

    ``origin`` holds the number of each kept slice.
    """

    magnitude: Tensor
    mask: Tensor | None
    origin: Tensor
    pixel_mm: float
    slice_mm: float
    peak: float


def find_volumes(folder: Path, settings: VolumeSettings) -> list[VolumeJob]:
    """All volumes below a folder, each with the lesion mask of its scan, ``<patient>[_<session>]_lesions.nii.gz``."""
    paths = sorted(path for path in folder.rglob("*") if path.name.endswith(ENDINGS))
    masks = {path.parent / _stem(path).removesuffix(MASK_ENDING): path for path in paths if _is_mask(path)}
    jobs = []
    for path in paths:
        if not _is_mask(path):
            match = _NAME.fullmatch(_stem(path))
            scan = _stem(path) if match is None else match["patient"] + (match["session"] or "")
            mask = masks.get(path.parent / scan) or masks.get(path.parent / _stem(path))
            jobs.append(VolumeJob(path, mask, settings))
    return jobs


def parse_name(stem: str) -> tuple[str, str]:
    """Patient and contrast (``t1``, ``t2``, ``flair``, ``pd``; empty if unknown) from a file's name."""
    match = _NAME.fullmatch(stem)
    if match is None:
        return stem, ""
    return match["patient"], match["contrast"].lower().removesuffix("w")


def refuse_volume(name: str, shape: Sequence[int]) -> None:
    """Raise InputError where the volume needs more memory than there may be: a few kB, unpacked, may be terabytes."""
    needed, allowed = _BYTES_OF_VOXEL * math.prod(shape), limit()
    if needed > allowed:
        size = " by ".join(map(str, shape))
        raise InputError(
            f"{name} of {size} voxels needs about {needed / 1e9:.0f} GB, {allowed / 1e9:.0f} GB are allowed"
        )


def read_volume(path: Path, anatomy: str) -> Volume:
    """Read a NIfTI volume and turn it to the form's orientation, whatever its own.

    Raises
    ------
    InputError
        If it is damaged or not a volume of finite numbers.
    """
    import nibabel
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    try:
        file: Any = nibabel.load(path)
        refuse_volume(path.name, file.shape)
        turn = ornt_transform(io_orientation(file.affine), axcodes2ornt(("L", "P", "S")))
        file = file.as_reoriented(turn)
        values = torch.from_numpy(np.asarray(file.dataobj).astype(np.float32))
        x, y, z = (float(size) for size in file.header.get_zooms()[:3])
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name} cannot be read: {type(error).__name__}: {error}") from error
    if values.ndim != 3 or not bool(torch.isfinite(values).all()):
        raise InputError(f"{path.name} is not a volume of finite numbers (shape {tuple(values.shape)})")
    return _turned(values, (x, y, z), anatomy)


def _turned(values: Tensor, spacing: tuple[float, float, float], anatomy: str) -> Volume:
    """Values along (left, posterior, superior) with readout and phase encoding as the anatomy's patients have them."""
    in_plane = ANATOMIES[anatomy].patient_directions[:2]
    axes = [next(axis for axis, part in enumerate(direction) if part) for direction in in_plane]
    order = [*({0, 1, 2} - set(axes)), *axes]
    reversed_axes = [1 + place for place, direction in enumerate(in_plane) if sum(direction) < 0]
    through, along_readout, along_phase = (spacing[axis] for axis in order)
    turned = values.permute(order).flip(reversed_axes).contiguous()
    return Volume(turned, (through, along_readout, along_phase))


def on_grid(volume: Volume, mask: Volume | None, shape: tuple[int, int]) -> GridVolume:
    """Bring a volume to the grid: average slices, resample pixels if need be, crop or pad, drop empty slices.

    Raises
    ------
    InputError
        If nothing is left.
    """
    thickness = _slab_thickness(volume.spacing[0])
    pixel_mm = _wanted_pixel(volume.spacing[1:], shape)
    magnitude = _resampled(_slabs(volume.values, thickness), volume.spacing[1:], pixel_mm, shape).clamp(min=0)
    some = magnitude[magnitude > 0]
    if not len(some):
        raise InputError("the volume is zero everywhere")
    # Measured against the bright tissue, not against the few voxels of vessels and artefacts that are brighter still.
    shown = magnitude > 0.15 * torch.quantile(some[:: _stride(some)], 0.99)
    kept = (shown.flatten(1).float().mean(1) >= _SHOWN).nonzero().flatten()
    if not len(kept):
        raise InputError("no slice of the volume shows anything")
    lesions = None
    if mask is not None:
        covered = _slabs((mask.values > 0).float(), thickness)
        lesions = _resampled(covered, volume.spacing[1:], pixel_mm, shape)[kept] >= 0.5
    magnitude = magnitude[kept]
    peak = float(magnitude.max())
    return GridVolume(magnitude / peak, lesions, kept, pixel_mm, thickness * volume.spacing[0], peak)


def mask_boxes(mask: Tensor, label: str, smallest: int) -> tuple[Box, ...]:
    """A box around each connected spot (diagonals count) of ``(ro, pe)`` bool that has at least ``smallest`` pixels."""
    spots, _ = ndimage.label(mask.numpy(), structure=np.ones((3, 3)))
    sizes = np.bincount(spots.ravel())
    boxes = []
    for number, place in enumerate(ndimage.find_objects(spots), start=1):
        if sizes[number] >= smallest:
            rows, columns = place
            boxes.append(
                Box(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start, 1.0, label)
            )
    return tuple(boxes)


def _wanted_pixel(spacing: tuple[float, ...], shape: tuple[int, int]) -> float:
    longest = max(shape)
    square = abs(spacing[0] - spacing[1]) < 0.01 * spacing[0]
    if square and _KEPT_MM[0] <= longest * spacing[0] <= _KEPT_MM[1]:
        return spacing[0]
    return _RESAMPLED_MM / longest


def _slab_thickness(spacing: float) -> int:
    """Slices of the volume that make one of the form."""
    return max(int(_SLICE_MM / spacing + 0.5), 1)


def _slabs(values: Tensor, thickness: int) -> Tensor:
    slices = len(values) // thickness * thickness
    return values[:slices].unflatten(0, (-1, thickness)).mean(1)


def _resampled(values: Tensor, spacing: tuple[float, ...], pixel_mm: float, shape: tuple[int, int]) -> Tensor:
    size = [round(n * mm / pixel_mm) for n, mm in zip(values.shape[1:], spacing, strict=True)]
    if size != list(values.shape[1:]):
        values = torch.nn.functional.interpolate(
            values[:, None], size, mode="bicubic", align_corners=False, antialias=True
        )[:, 0]
    return resize_centre(values, shape).contiguous()


def _stride(x: Tensor) -> int:
    # torch.quantile takes at most 2²⁴ numbers.
    return max(x.numel() // 1_000_000, 1)


def _stem(path: Path) -> str:
    return next(path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending))


def _is_mask(path: Path) -> bool:
    return _stem(path).endswith(MASK_ENDING)
