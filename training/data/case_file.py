"""The one form of data: an HDF5 file a case (one volume of one patient), one slice after the other.

    /image         (slices, ro, pe) complex64              the ground truth; peak of the volume 1
    /coil_maps     (slices, coils, ro, pe, 2) float16      real and imaginary part, Σ|S|² = 1 on the support
    /coil_images   (slices, coils, ro, pe, 2) float16      measured cases alone, with their noise
    /lesion_mask   (slices, ro, pe) bool                   where lesions are known pixel by pixel
    /slices        (slices,) JSON text                     boxes, remarks, label, caption of each slice: `SliceRecord`
    attribute "case"   JSON text                           everything else: `CaseInfo`

Half precision has a relative error of at most 2⁻¹¹ a component, so 70 dB below the signal of each pixel: a tenth of the
noise of the best coil image or less. Coil images are stored rather than k-space because k-space would spread that error
of its bright centre over the whole image; their Fourier transform costs less than reading the same bytes again. The
arrays lie in the file in one piece and uncompressed: noise does not compress, and a slice is one read.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import h5py
import numpy as np
import torch
from torch import Tensor

from pass_recon.common.files import written_aside
from pass_recon.common.hdf5 import make_room, open_hdf5
from pass_recon.common.settings import checked, from_dict
from pass_recon.types import Box, InputError

FORM_VERSION = 1
SUFFIX = ".h5"
UNLABELLED, NORMAL, ABNORMAL = -1, 0, 1
Source = Literal["fastmri", "nifti", "simulated"]


@checked
@dataclass(frozen=True)
class CaseInfo:
    """What is known about a case as a whole.

    Attributes
    ----------
    name
        Name of the case and of its file.
    source
        Where it comes from.
    origin
        The source file's name, or the seed of a simulated patient.
    patient_id
        Splits keep all cases of one patient together.
    anatomy, contrast
        In small letters, as bundles are named: ``brain``, ``flair``.
    acquisition
        fastMRI's word for it; empty elsewhere.
    pixel_mm, slice_mm
        Size of a pixel along readout and phase encoding, distance of slices; 0 where unknown.
    noise
        Standard deviation of a complex sample of one coil as a fraction of the volume's peak, E|n|² = noise². Measured
        cases: an estimate of the noise that their coil images hold. Others: the suggestion for noise added on reading.
    measured
        Whether the coil images are stored; otherwise k-space is made on reading.
    reviewed
        Whether somebody looked for findings; only then does the absence of a finding mean anything.
    line_range
        First line with data along phase encoding, and the one after the last: outside, the scanner filled in zeros.
    scale
        The volume's peak in the units of its source: what was divided out.
    fingerprint
        Of source, settings and annotation: the same fingerprint need not be prepared again.
    note
        What the user should know about it, a sentence.
    split
        The one that the source gives it; empty where patients are divided here.
    """

    name: str
    source: Source
    origin: str
    patient_id: str
    anatomy: str
    contrast: str
    acquisition: str = ""
    pixel_mm: tuple[float, float] = (0.0, 0.0)
    slice_mm: float = 0.0
    noise: float = 0.0
    measured: bool = False
    reviewed: bool = False
    line_range: tuple[int, int] = (0, 0)
    scale: float = 1.0
    fingerprint: str = ""
    note: str = ""
    split: Literal["", "train", "validation", "test"] = ""


@checked
@dataclass(frozen=True)
class SliceRecord:
    """What is known about one slice.

    Attributes
    ----------
    boxes
        Findings, in pixels of the stored arrays.
    remarks
        Boxes around what is no finding (artefacts, normal variants).
    label
        1 abnormal, 0 normal, −1 unknown.
    caption
        The findings in words.
    origin_slice
        Number of the slice in its source.
    """

    boxes: tuple[Box, ...] = ()
    remarks: tuple[Box, ...] = ()
    label: int = UNLABELLED
    caption: str = ""
    origin_slice: int = 0


@dataclass(frozen=True)
class SliceArrays:
    """The arrays of one slice: ``(ro, pe)``, ``(coils, ro, pe)``, ``(coils, ro, pe)`` and ``(ro, pe)``."""

    image: Tensor
    coil_maps: Tensor
    coil_images: Tensor | None = None
    lesion_mask: Tensor | None = None


@dataclass(frozen=True)
class CaseShape:
    """Sizes of a case."""

    slices: int
    coils: int
    readout: int
    phase: int

    def stored_bytes(self, *, measured: bool) -> int:
        """What the arrays take in a file; lesion masks, which are compressed, and text take next to nothing."""
        pixels = self.slices * self.readout * self.phase
        return pixels * (8 + self.coils * 4 * (2 if measured else 1))


@contextmanager
def writing_case(path: Path, shape: CaseShape, *, measured: bool, lesion_masks: bool) -> Iterator[CaseWriter]:
    """Write a case aside; it takes its name only once `CaseWriter.finish` was called and nothing was raised."""
    with written_aside(path) as aside:
        make_room(aside, shape.slices * shape.readout * shape.phase * (9 + 4 * shape.coils * (1 + measured)))
        with h5py.File(aside, "a") as file:
            writer = CaseWriter(file, shape, measured=measured, lesion_masks=lesion_masks)
            yield writer
            writer.check_complete()


class CaseWriter:
    """Fills a case slice by slice, so that a volume of any length takes the memory of one slice."""

    def __init__(self, file: h5py.File, shape: CaseShape, *, measured: bool, lesion_masks: bool) -> None:
        self._file = file
        self._records: dict[int, SliceRecord] = {}
        self._finished = False
        plane, coils = (shape.readout, shape.phase), (shape.slices, shape.coils, shape.readout, shape.phase, 2)
        self._shape = shape
        file.create_dataset("image", (shape.slices, *plane), np.complex64)
        file.create_dataset("coil_maps", coils, np.float16)
        if measured:
            file.create_dataset("coil_images", coils, np.float16)
        if lesion_masks:
            # Masks are nearly empty: compressed they cost nothing to keep and little to read.
            file.create_dataset("lesion_mask", (shape.slices, *plane), bool, chunks=(1, *plane), compression=1)

    def put(self, index: int, arrays: SliceArrays, record: SliceRecord) -> None:
        """Write slice ``index``."""
        if not bool(torch.isfinite(torch.view_as_real(arrays.image)).all()):
            raise InputError(f"slice {index} holds NaN or infinity")
        self._file["image"][index] = arrays.image.numpy()
        self._file["coil_maps"][index] = _halves(arrays.coil_maps)
        if arrays.coil_images is not None:
            self._file["coil_images"][index] = _halves(arrays.coil_images)
        if arrays.lesion_mask is not None:
            self._file["lesion_mask"][index] = arrays.lesion_mask.numpy()
        self._records[index] = record

    def finish(self, info: CaseInfo) -> None:
        """Add what is known about the whole; every slice must have been put before."""
        missing = sorted(set(range(self._shape.slices)) - set(self._records))
        if missing:
            raise InputError(f"slices {missing} of {info.name} were never written")
        rows = [json.dumps(asdict(self._records[index])) for index in range(self._shape.slices)]
        self._file.create_dataset("slices", data=rows, dtype=h5py.string_dtype())
        self._file.attrs["form_version"] = FORM_VERSION
        self._file.attrs["case"] = json.dumps(asdict(info))
        self._finished = True

    def check_complete(self) -> None:
        """Refuse to keep a file that `finish` never completed."""
        if not self._finished:
            raise InputError("the case was not finished")


class CaseFile:
    """A case, open for reading.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    info
        What is known about the whole.
    records
        What is known about each slice.
    shape
        Its sizes.

    Raises
    ------
    InputError
        If the file is missing, damaged, or not of this form.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._memory: mmap.mmap | None = None
        self._file = open_hdf5(self.path, "a prepared case")
        try:
            self.info, self.records, self.shape = self._read_description()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> CaseFile:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.shape.slices

    def close(self) -> None:
        """Close the file; what `halves` gave stays readable."""
        self._file.close()

    def image(self, index: int) -> Tensor:
        """``(ro, pe)`` complex64 ground truth of a slice."""
        return self._stored("image", index).clone()

    def halves(self, name: str, index: int) -> Tensor:
        """``(coils, ro, pe, 2)`` float16 as stored: ``coil_maps``, or ``coil_images`` of a measured case.

        The file itself, read once it is used: copy it before changing it.
        """
        return self._stored(name, index)

    def coil_maps(self, index: int) -> Tensor:
        """``(coils, ro, pe)`` complex64."""
        return torch.view_as_complex(self.halves("coil_maps", index).float())

    def coil_images(self, index: int) -> Tensor:
        """``(coils, ro, pe)`` complex64: measured, or S·x without noise."""
        if self.info.measured:
            return torch.view_as_complex(self.halves("coil_images", index).float())
        return self.coil_maps(index) * self.image(index)

    def lesion_mask(self, index: int) -> Tensor | None:
        """``(ro, pe)`` bool where lesions are known pixel by pixel, else None."""
        return torch.from_numpy(self._file["lesion_mask"][index]) if "lesion_mask" in self._file else None

    def anomaly_mask(self, index: int) -> Tensor:
        """``(ro, pe)`` bool: the lesions' pixels where they are known, the insides of the boxes elsewhere."""
        mask = self.lesion_mask(index)
        return box_mask(self.records[index].boxes, self.shape.readout, self.shape.phase) if mask is None else mask

    def _stored(self, name: str, index: int) -> Tensor:
        """A slice of an array that lies in the file in one piece, mapped to memory.

        Against reading through HDF5 this saves a copy, and the kernel fetches a slice as a whole: from a cold disk a
        third of the time.
        """
        dataset = self._file[name]
        count = math.prod(dataset.shape[1:])
        if not 0 <= index < len(dataset):
            raise IndexError(f"{self.path.name} has {len(dataset)} slices, asked for number {index}")
        first = dataset.id.get_offset() + index * count * dataset.dtype.itemsize
        if self._memory is None:
            with self.path.open("rb") as file:
                # Copy on write, as PyTorch knows no tensor that cannot be written to.
                self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if hasattr(mmap, "MADV_WILLNEED"):
            page = first - first % mmap.PAGESIZE
            self._memory.madvise(mmap.MADV_WILLNEED, page, first - page + count * dataset.dtype.itemsize)
        values = np.frombuffer(self._memory, dataset.dtype, count, first)
        return torch.from_numpy(values.reshape(dataset.shape[1:]))

    def _read_description(self) -> tuple[CaseInfo, tuple[SliceRecord, ...], CaseShape]:
        version = self._file.attrs.get("form_version")
        if version != FORM_VERSION:
            raise InputError(f"{self.path} is not a prepared case of form {FORM_VERSION} (found {version})")
        info = from_dict(CaseInfo, json.loads(self._file.attrs["case"]))
        records = tuple(from_dict(SliceRecord, json.loads(row)) for row in self._file["slices"].asstr())
        return info, records, CaseShape(*self._file["coil_maps"].shape[:4])


def box_mask(boxes: tuple[Box, ...], readout: int, phase: int) -> Tensor:
    """``(ro, pe)`` bool: True inside any of the boxes."""
    mask = torch.zeros(readout, phase, dtype=torch.bool)
    for box in boxes:
        mask[box.readout : box.readout + box.readout_size, box.phase : box.phase + box.phase_size] = True
    return mask


def _halves(x: Tensor) -> np.ndarray:
    return torch.view_as_real(x).half().numpy()
