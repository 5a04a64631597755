"""fastMRI's files: multi-coil k-space, the scanner's header, and what their attributes say.

Format: HDF5 with ``kspace`` ([averages,] slices, coils, readout, phase) complex64, ``ismrmrd_header`` (XML),
``reconstruction_rss`` (slices, rows, columns), attributes ``acquisition``, ``patient_id``, ``max``, ``norm``. Readout
is sampled twice as densely as needed; along phase encoding the scanner's lines lie around index pe // 2, and columns
that it did not measure are zero.

References
----------
Zbontar et al., fastMRI: An Open Dataset and Benchmarks for Accelerated MRI, arXiv:1811.08839 (2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pass_recon.common.hdf5 import open_hdf5
from pass_recon.common.xml import parse_xml
from pass_recon.types import InputError

DEFAULT_ACQUISITIONS = ("AXT1", "AXFLAIR", "CORPD_FBK")
CONTRASTS = {
    "AXT1": "t1", "AXT1PRE": "t1", "AXT1POST": "t1post", "AXT2": "t2", "AXFLAIR": "flair",
    "CORPD_FBK": "pd", "CORPDFS_FBK": "pdfs",
}  # fmt: skip
_SPACE = "{http://www.ismrm.org/ISMRMRD}"


@dataclass(frozen=True)
class Geometry:
    """What the header of a volume says about its grid.

    Attributes
    ----------
    encoded_matrix, recon_matrix
        ``(readout, phase)``.
    encoded_mm, recon_mm
        Field of view along readout, phase encoding and slice.
    first_line, last_line, centre_line
        Limits of the phase-encoding lines as the scanner counted them, and the one through the centre of k-space.
    """

    encoded_matrix: tuple[int, int]
    recon_matrix: tuple[int, int]
    encoded_mm: tuple[float, float, float]
    recon_mm: tuple[float, float, float]
    first_line: int
    last_line: int
    centre_line: int

    def line_range(self, phase: int) -> tuple[int, int]:
        """First measured column of a k-space with ``phase`` columns, and the one after the last."""
        offset = phase // 2 - self.centre_line
        return max(self.first_line + offset, 0), min(self.last_line + offset + 1, phase)


class FastMriVolume:
    """A fastMRI file, open for reading slice by slice.

    Parameters
    ----------
    path
        The file.
    undersampled
        Take a volume of a test set too, which holds a mask and no ground truth.

    Attributes
    ----------
    acquisition, patient_id
        fastMRI's words. A file without a patient is a patient of its own.
    header_xml
        The scanner's header.
    geometry
        What it says about the grid.
    shape
        ``(slices, coils, ro, pe)`` of the k-space; averages, which some volumes hold one by one, are averaged.
    mask
        ``(pe,)`` bool, the columns of a test set that were sampled; None without a mask.
    drawn
        ``(rows, columns)`` of ``reconstruction_rss``, on which annotations were drawn.

    Raises
    ------
    InputError
        If the file is missing, damaged, single-coil, undersampled, or has no header or another one's.
    """

    def __init__(self, path: str | Path, *, undersampled: bool = False) -> None:
        self.path = Path(path)
        self._undersampled = undersampled
        self._file = open_hdf5(self.path, "a fastMRI volume")
        try:
            self._describe()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> FastMriVolume:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.shape[0]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def anatomy(self) -> str:
        """``brain`` or ``knee``, from the acquisition's first letters: axial brains, coronal knees."""
        return "knee" if self.acquisition.startswith("COR") else "brain"

    @property
    def contrast(self) -> str:
        """In small letters, as bundles are named."""
        return CONTRASTS.get(self.acquisition, self.acquisition.lower())

    def kspace(self, index: int) -> Tensor:
        """``(coils, ro, pe)`` complex64 of a slice.

        Raises
        ------
        InputError
            If it cannot be read or holds NaN or infinity.
        """
        try:
            stored = self._file["kspace"]
            kspace = torch.from_numpy(stored[index] if stored.ndim == 4 else _averaged(stored[:, index]))
            kspace = kspace.to(torch.complex64)
        except (OSError, RuntimeError) as error:
            raise InputError(f"{self.path.name}: slice {index} cannot be read: {error}") from error
        if not bool(torch.isfinite(torch.view_as_real(kspace)).all()):
            raise InputError(f"{self.path.name}: slice {index} holds NaN or infinity")
        return kspace

    def _describe(self) -> None:
        kspace = self._file.get("kspace")
        if not isinstance(kspace, h5py.Dataset):
            raise InputError(f"{self.path.name} is no fastMRI volume: it holds no k-space")
        if kspace.ndim not in (4, 5) or kspace.dtype.kind != "c":
            raise InputError(
                f"{self.path.name}: k-space of shape {kspace.shape} ({kspace.dtype}) is not multi-coil, "
                "which is complex (slices, coils, readout, phase), or averages of that on a first axis of five"
            )
        if "mask" in self._file and not self._undersampled:
            raise InputError(f"{self.path.name} is undersampled (it holds a mask), so it has no ground truth")
        if not isinstance(self._file.get("ismrmrd_header"), h5py.Dataset):
            raise InputError(f"{self.path.name} has no ismrmrd_header")
        header = self._file["ismrmrd_header"][()]
        self.header_xml = header if isinstance(header, bytes) else str(header).encode()
        self.geometry = read_geometry(self.header_xml, self.path.name)
        self.shape: tuple[int, int, int, int] = kspace.shape[-4:]
        self._check_axes()
        self.mask = self._read_mask()
        self.acquisition = str(self._file.attrs.get("acquisition", ""))
        self.patient_id = str(self._file.attrs.get("patient_id", "") or self.path.stem)
        target = self._file.get("reconstruction_rss")
        if target is not None and (not isinstance(target, h5py.Dataset) or target.ndim < 2):
            raise InputError(f"{self.path.name}: reconstruction_rss is no array of images")
        self.drawn: tuple[int, int] = self.geometry.recon_matrix if target is None else target.shape[-2:]

    def _check_axes(self) -> None:
        """Refuse k-space whose axes are in another order than fastMRI's, or a header of another scan."""
        readout = self.geometry.encoded_matrix[0]
        if self.shape[2] != readout:
            raise InputError(
                f"{self.path.name}: the axes of the k-space, {self.shape}, do not fit the header: its third axis "
                f"should be the readout of {readout} samples"
            )
        header = parse_xml(self.header_xml, f"the header of {self.path.name}")
        channels = header.findtext(f".//{_SPACE}receiverChannels", "").strip()
        if self.shape[0] != self.shape[1] and str(self.shape[0]) == channels:
            raise InputError(
                f"{self.path.name}: the axes of the k-space, {self.shape}, do not fit the header: its second axis "
                f"should be the {channels} coils"
            )

    def _read_mask(self) -> NDArray[np.bool_] | None:
        if "mask" not in self._file:
            return None
        mask = np.asarray(self._file["mask"][()]).astype(bool).ravel()
        if mask.size != self.shape[3]:
            raise InputError(f"{self.path.name}: a mask of {mask.size} columns does not fit k-space of {self.shape[3]}")
        return mask


def _averaged(averages: NDArray[np.complexfloating[Any, Any]]) -> NDArray[np.complex64]:
    """``(coils, ro, pe)`` from averages ``(averages, coils, ro, pe)``: each column over those that hold it."""
    counts = averages.any(axis=(1, 2)).sum(axis=0)
    return (averages.sum(axis=0) / np.maximum(counts, 1)).astype(np.complex64)


def read_geometry(xml: bytes, name: str) -> Geometry:
    """Read the grid from an MRD header of any version.

    Raises
    ------
    InputError
        If it is not XML or a number is missing.
    """
    encoding = parse_xml(xml, f"the header of {name}").find(f"{_SPACE}encoding")

    def number(*path: str) -> float:
        text = None if encoding is None else encoding.findtext("/".join(f"{_SPACE}{part}" for part in path))
        try:
            value = float(text or "")
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"the header of {name} has no number in {'/'.join(path)}")
        return value

    def matrix(space: str) -> tuple[int, int]:
        return int(number(space, "matrixSize", "x")), int(number(space, "matrixSize", "y"))

    def extent(space: str) -> tuple[float, float, float]:
        x, y, z = (number(space, "fieldOfView_mm", axis) for axis in "xyz")
        return x, y, z

    limit = ("encodingLimits", "kspace_encoding_step_1")
    return Geometry(
        matrix("encodedSpace"),
        matrix("reconSpace"),
        extent("encodedSpace"),
        extent("reconSpace"),
        *(int(number(*limit, which)) for which in ("minimum", "maximum", "center")),
    )
