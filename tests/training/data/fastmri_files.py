"""Files of fastMRI's exact form, small in coils and slices: what the tests know about them is known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD" xmlns:xs="http://www.w3.org/2001/XMLSchema"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="http://www.ismrm.org/ISMRMRD ismrmrd.xsd">
  <studyInformation><studyTime>12:00:00</studyTime></studyInformation>
  <measurementInformation>
    <measurementID>45096_27654_1</measurementID><patientPosition>HFS</patientPosition>
    <protocolName>AX T1</protocolName>
  </measurementInformation>
  <acquisitionSystemInformation>
    <systemVendor>SIEMENS</systemVendor><systemModel>Skyra</systemModel>
    <systemFieldStrength_T>2.893620</systemFieldStrength_T>
    <relativeReceiverNoiseBandwidth>0.793000</relativeReceiverNoiseBandwidth>
    <receiverChannels>{coils}</receiverChannels>
  </acquisitionSystemInformation>
  <experimentalConditions><H1resonanceFrequency_Hz>123228000</H1resonanceFrequency_Hz></experimentalConditions>
  <encoding>
    <encodedSpace>
      <matrixSize><x>{readout}</x><y>{phase}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>{encoded_x}</x><y>{encoded_y}</y><z>7.5</z></fieldOfView_mm>
    </encodedSpace>
    <reconSpace>
      <matrixSize><x>320</x><y>320</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>{recon}</x><y>{recon}</y><z>5.0</z></fieldOfView_mm>
    </reconSpace>
    <trajectory>cartesian</trajectory>
    <encodingLimits>
      <kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum><center>{centre}</center>
      </kspace_encoding_step_1>
      <kspace_encoding_step_2><minimum>0</minimum><maximum>0</maximum><center>0</center></kspace_encoding_step_2>
      <average><minimum>0</minimum><maximum>1</maximum><center>0</center></average>
      <slice><minimum>0</minimum><maximum>15</maximum><center>0</center></slice>
      <contrast><minimum>0</minimum><maximum>0</maximum><center>0</center></contrast>
      <phase><minimum>0</minimum><maximum>0</maximum><center>0</center></phase>
      <repetition><minimum>0</minimum><maximum>0</maximum><center>0</center></repetition>
      <set><minimum>0</minimum><maximum>0</maximum><center>0</center></set>
      <segment><minimum>0</minimum><maximum>0</maximum><center>0</center></segment>
    </encodingLimits>
    <parallelImaging>
      <accelerationFactor><kspace_encoding_step_1>1</kspace_encoding_step_1>
      <kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>
      <calibrationMode>other</calibrationMode>
    </parallelImaging>
    <echoTrainLength>1</echoTrainLength>
  </encoding>
  <sequenceParameters><TR>250</TR><TE>2.64</TE><TI>300</TI><flipAngle_deg>70</flipAngle_deg>
    <sequence_type>Flash</sequence_type></sequenceParameters>
</ismrmrdHeader>
"""


@dataclass(frozen=True)
class Volume:
    """A fastMRI volume to be written.

    ``blob`` is the centre (row, column) and half size of a bright rectangle, in pixels of the 320×320 image as it lies
    in the arrays; ``margin`` the columns at each end of k-space that the scanner left at zero.
    """

    name: str = "file_brain_AXT1_200_0000001"
    acquisition: str = "AXT1"
    patient_id: str = "patient-a"
    slices: int = 2
    coils: int = 4
    readout: int = 640
    phase: int = 320
    margin: int = 0
    blob: tuple[int, int, int, int] = (120, 200, 8, 6)
    blob_slice: int = 1
    noise: float = 0.01
    scale: float = 1e-4
    seed: int = 0

    def write(self, folder: Path) -> Path:
        """Write the file; returns where."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.h5"
        kspace = np.stack([self.kspace(index) for index in range(self.slices)])
        rss = np.sqrt((np.abs(_ifft2(kspace)) ** 2).sum(1))
        top, left = (rss.shape[1] - 320) // 2, max(rss.shape[2] - 320, 0) // 2
        rss = rss[:, top : top + 320, left : left + 320].astype(np.float32)
        with h5py.File(path, "w") as file:
            file["kspace"] = kspace
            file["ismrmrd_header"] = self.header()
            file["reconstruction_rss"] = rss
            file.attrs.update(
                acquisition=self.acquisition,
                patient_id=self.patient_id,
                max=float(rss.max()),
                norm=float(np.linalg.norm(rss)),
            )
        return path

    def header(self) -> str:
        """The XML header."""
        pixel = 0.6875 if self.acquisition.startswith("AX") else 0.4375
        lines = self.phase - 2 * self.margin
        return HEADER.format(
            coils=self.coils, readout=self.readout, phase=self.phase, last=lines - 1, centre=lines // 2,
            encoded_x=self.readout * pixel, encoded_y=self.phase * pixel, recon=320 * pixel,
        )  # fmt: skip

    def image(self, index: int) -> np.ndarray:
        """``(readout, phase)`` object: a head-like ellipse, off centre, with the blob on its slice."""
        rows, columns = np.mgrid[: self.readout, : self.phase].astype(np.float64)
        rows, columns = rows - self.readout // 2, columns - self.phase // 2
        image = 0.4 * (((rows + 4) / 140) ** 2 + ((columns - 6) / 110) ** 2 < 1).astype(np.float64)
        image += 0.1 * (((rows - 30) / 60) ** 2 + ((columns + 20) / 40) ** 2 < 1)
        if index == self.blob_slice:
            row, column, half_rows, half_columns = self.blob
            image[(np.abs(rows - row + 160) <= half_rows) & (np.abs(columns - column + 160) <= half_columns)] = 1.0
        return image * np.exp(1j * (rows + columns) / 200)

    def coil_maps(self) -> np.ndarray:
        """``(coils, readout, phase)`` smooth maps around the object."""
        rows, columns = np.mgrid[: self.readout, : self.phase].astype(np.float64)
        rows, columns = rows - self.readout // 2, columns - self.phase // 2
        angles = 2 * np.pi * (np.arange(self.coils) + 0.3) / self.coils
        places = 190 * np.sin(angles)[:, None, None], 170 * np.cos(angles)[:, None, None]
        distance = (rows - places[0]) ** 2 + (columns - places[1]) ** 2
        maps = np.exp(-distance / 200**2) * np.exp(1j * (angles[:, None, None] + rows / 300 + columns / 250))
        return maps / np.sqrt((np.abs(maps) ** 2).sum(0))

    def kspace(self, index: int) -> np.ndarray:
        """``(coils, readout, phase)`` complex64 as the scanner would have it."""
        random = np.random.default_rng([self.seed, index])
        kspace = _fft2(self.coil_maps() * self.image(index))
        noise = random.standard_normal((2, *kspace.shape)) / np.sqrt(2)
        kspace = kspace + self.noise * (noise[0] + 1j * noise[1])
        kspace[..., : self.margin] = 0
        kspace[..., self.phase - self.margin :] = 0
        return (self.scale * kspace).astype(np.complex64)

    def row(self, *, label: str = "Edema", slice_index: int | None = None) -> str:
        """The line of fastMRI+'s table that a radiologist would have written: on the image flipped up/down."""
        row, column, half_rows, half_columns = self.blob
        height, width = 2 * half_rows + 1, 2 * half_columns + 1
        top = 320 - (row - half_rows) - height
        index = self.blob_slice if slice_index is None else slice_index
        column += min(self.phase, 320) // 2 - 160  # on a narrow image
        return f"{self.name},{index},No,{column - half_columns},{top},{width},{height},{label}"


KNEE = Volume(
    name="file1000001", acquisition="CORPD_FBK", patient_id="patient-k", phase=368, margin=18, blob=(100, 210, 7, 9)
)


def write_annotations(folder: Path, rows: list[str], reviewed: list[str]) -> tuple[Path, Path]:
    """Write a table and a list of reviewed files as fastMRI+ has them."""
    table, names = folder / "annotations.csv", folder / "file_list.csv"
    table.write_text("\n".join(["file,slice,study_level,x,y,width,height,label", *rows]) + "\n")
    names.write_text("\n".join(reviewed))
    return table, names


def _fft2(x: np.ndarray) -> np.ndarray:
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x, axes=axes), norm="ortho"), axes=axes)


def _ifft2(x: np.ndarray) -> np.ndarray:
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(x, axes=axes), norm="ortho"), axes=axes)
