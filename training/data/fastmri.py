"""A fastMRI volume as a case: coil images cropped, coil maps estimated, annotations brought into the arrays' pixels.

Differences from the paper: it re-simulates the brain's k-space from the coil-combined crop, F(S x). That removes the
coils' noise and flatters every result by 2 to 5 dB. Here the image of each coil is cropped and keeps its noise;
``resimulate`` does what the paper did.

The phase-encoding axis of a case is that of the crop: k-space on it is the Fourier transform of the cropped coil
images, so its ``pe`` lines are spaced 1 / (pe · pixel) apart, wider than the scanner's where the field of view was
cut. Lines that the scanner did not measure stay empty (but for the leakage of the cut) and are outside
``CaseInfo.line_range``. A volume with fewer lines than the crop keeps its own: padding its image would invent lines
between those of the scanner, and a quarter of them would be 2.7× for a volume of 213 lines on a grid of 320. Along the
readout, where no line is counted, it is padded with zeros. Pixels keep their size.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pass_recon.physics.fourier import fft2c, ifft2c, resize_centre
from pass_recon.physics.noise import noise_level
from pass_recon.types import InputError
from training.data.case_file import CaseInfo, CaseShape, SliceArrays, SliceRecord, writing_case
from training.data.fastmri_file import FastMriVolume
from training.data.fastmri_plus import Study, array_box, is_finding
from training.data.jobs import NotAskedFor, fingerprint_of

_SPLITS: dict[str, Literal["train", "validation", "test"]] = {
    "train": "train", "val": "validation", "validation": "validation", "test": "test",
}  # fmt: skip


@dataclass(frozen=True)
class FastMriSettings:
    """How fastMRI volumes are prepared.

    Attributes
    ----------
    acquisitions
        fastMRI's words; empty for all.
    shape
        ``(ro, pe)`` of the crop; a volume with fewer lines keeps its own number.
    resimulate
        Keep the coil-combined image alone, as the paper did.
    calibration_width
        Lines (and readout samples) around the centre of k-space from which the coil maps are estimated.
    own_split
        Whether the split is fastMRI's, told by the folder of a file.
    """

    acquisitions: tuple[str, ...] = ()
    shape: tuple[int, int] = (320, 320)
    resimulate: bool = False
    calibration_width: int = 24
    own_split: bool = False


def published_split(path: Path) -> Literal["train", "validation", "test"]:
    """The split of a file by the folders that it lies in, such as ``multicoil_val``; the innermost that tells counts.

    Raises
    ------
    InputError
        If none does.
    """
    for folder in reversed(path.parts[:-1]):
        words = re.split(r"[^a-z]+", folder.lower())
        for name, split in _SPLITS.items():
            if name in words:
                return split
    raise InputError(f"{path} lies in no folder that tells train, val or test, as multicoil_val does")


@dataclass(frozen=True)
class FastMriJob:
    """One fastMRI file to be prepared."""

    path: Path
    settings: FastMriSettings
    study: Study

    @property
    def name(self) -> str:
        """The file's name without ending."""
        return self.path.stem

    def size(self) -> int:
        """From the shape of its k-space."""
        with FastMriVolume(self.path) as volume:
            if self.settings.acquisitions and volume.acquisition not in self.settings.acquisitions:
                return 0
            shape = CaseShape(*volume.shape[:2], *self._matrix(volume))
        return shape.stored_bytes(measured=not self.settings.resimulate)

    def fingerprint(self) -> str:
        """Of the file, the settings and its annotations."""
        return fingerprint_of(self.path, self.settings, self.study)

    def write(self, path: Path, fingerprint: str) -> None:
        """Prepare the volume, one slice in memory at a time.

        Raises
        ------
        NotAskedFor
            If its acquisition is not among those wanted.
        InputError
            If it is damaged or cannot be used.
        """
        with FastMriVolume(self.path) as volume:
            wanted = self.settings.acquisitions
            if wanted and volume.acquisition not in wanted:
                raise NotAskedFor(f"acquisition {volume.acquisition or 'unknown'}")
            self._write(path, volume, fingerprint)

    def _write(self, path: Path, volume: FastMriVolume, fingerprint: str) -> None:
        settings, (slices, coils, _, phase) = self.settings, volume.shape
        lines, matrix = volume.geometry.line_range(phase), self._matrix(volume)
        peak, noise = self._survey(volume, lines)
        measured = not settings.resimulate
        shape = CaseShape(slices, coils, *matrix)
        with writing_case(path, shape, measured=measured, lesion_masks=False) as case:
            for index in range(slices):
                coil_images = cropped_coil_images(volume.kspace(index), matrix) / peak
                maps = _coil_maps(coil_images, settings.calibration_width)
                image = (maps.conj() * coil_images).sum(0)
                case.put(
                    index, SliceArrays(image, maps, coil_images if measured else None), self._record(volume, index)
                )
            first, last = (_scaled_line(line, phase, matrix[1]) for line in (lines[0], lines[1] - 1))
            case.finish(
                CaseInfo(
                    name=self.name,
                    source="fastmri",
                    origin=self.path.name,
                    patient_id=volume.patient_id,
                    anatomy=volume.anatomy,
                    contrast=volume.contrast,
                    acquisition=volume.acquisition,
                    pixel_mm=_pixel_mm(volume),
                    slice_mm=volume.geometry.recon_mm[2],
                    noise=noise / peak if measured else 0.0,
                    measured=measured,
                    reviewed=self.study.reviewed,
                    line_range=(first, last + 1),
                    scale=peak,
                    fingerprint=fingerprint,
                    note=self._note(volume),
                    split=published_split(self.path) if self.settings.own_split else "",
                )
            )

    def _matrix(self, volume: FastMriVolume) -> tuple[int, int]:
        return self.settings.shape[0], min(self.settings.shape[1], volume.shape[3])

    def _survey(self, volume: FastMriVolume, lines: tuple[int, int]) -> tuple[float, float]:
        """Peak of the root sum of squares in the crop over all slices, and the noise of a k-space sample."""
        peaks, noises = [], []
        for index in range(len(volume)):
            kspace = volume.kspace(index)
            coil_images = cropped_coil_images(kspace, self._matrix(volume))
            peaks.append(float(coil_images.abs().square().sum(0).sqrt().max()))
            measured = kspace[..., lines[0] : lines[1]]
            noises.append(float(noise_level(measured, torch.ones(measured.shape[-1], dtype=torch.bool))))
        if max(peaks) <= 0:
            raise InputError(f"{volume.path.name} is empty: all of its k-space is zero")
        return max(peaks), sum(noises) / len(noises)

    def _note(self, volume: FastMriVolume) -> str:
        notes = []
        beyond = sorted({mark.slice_index for mark in self.study.marks} - set(range(len(volume))))
        if beyond:
            notes.append(f"annotated slices {beyond} do not exist, there are {len(volume)}")
        points = sum(mark.width <= 0 or mark.height <= 0 for mark in dict.fromkeys(self.study.marks))
        if points:
            notes.append(f"{points} annotated boxes are points or lines without extent and are left out")
        (readout, phase), wanted = volume.shape[-2:], self.settings.shape
        if readout < wanted[0]:
            notes.append(f"images of {readout} pixels along the readout were padded with zeros to {wanted[0]}")
        if phase < wanted[1]:
            notes.append(f"the scanner's {phase} lines are fewer than {wanted[1]} and are kept as they are")
        return "; ".join(notes)

    def _record(self, volume: FastMriVolume, index: int) -> SliceRecord:
        full = volume.shape[-2:]
        marks = [mark for mark in dict.fromkeys(self.study.marks) if mark.slice_index == index]
        found = [array_box(mark, volume.drawn, full, self._matrix(volume)) for mark in marks]
        boxes = [box for box in found if box is not None]
        return SliceRecord(
            boxes=tuple(box for box in boxes if is_finding(box.label)),
            remarks=tuple(box for box in boxes if not is_finding(box.label)),
            label=self.study.label(index),
            caption=self.study.caption(index),
            origin_slice=index,
        )


def cropped_coil_images(kspace: Tensor, shape: tuple[int, int]) -> Tensor:
    """``(coils, ro, pe)`` k-space to coil images ``(coils, *shape)`` around the same centre."""
    return resize_centre(ifft2c(kspace), shape).contiguous()


def _coil_maps(coil_images: Tensor, calibration_width: int) -> Tensor:
    from pass_recon.physics.coils import espirit_maps

    # Half precision keeps no number below 6e-8; what is stored and what the image was made with shall be the same.
    maps = espirit_maps(fft2c(coil_images), calibration_width)
    return torch.view_as_complex(torch.view_as_real(maps).half().float())


def _scaled_line(line: int, phase: int, wanted: int) -> int:
    """The line of the cropped grid that lies where ``line`` of the full grid does in k-space."""
    scaled = (line - phase // 2) * wanted / phase + wanted // 2
    inside = math.ceil(scaled) if line < phase // 2 else math.floor(scaled)
    return min(max(inside, 0), wanted - 1)


def _pixel_mm(volume: FastMriVolume) -> tuple[float, float]:
    extent = volume.geometry.encoded_mm
    return extent[0] / volume.shape[2], extent[1] / volume.shape[3]
