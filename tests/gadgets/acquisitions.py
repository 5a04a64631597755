"""Acquisitions of a small object made with numpy alone, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ismrmrd
import numpy as np
from ismrmrd import constants as flags
from numpy.typing import NDArray

from gadgets.mrd import ScanContext
from gadgets.properties import Properties

Array = NDArray[np.complex64]
RO, PE, COILS = 32, 48, 4
SKEWED = {
    "position": (1.5, -20.0, 33.0),
    "read_dir": (0.0, 1.0, 0.0),
    "phase_dir": (0.6, 0.0, 0.8),
    "slice_dir": (0.8, 0.0, -0.6),
    "patient_table_position": (0.0, 0.0, -1200.0),
}


def header(
    *,
    ro: int = RO,
    pe: int = PE,
    oversampling: float = 2.0,
    limits: tuple[int, int, int] | None = (0, PE - 1, PE // 2),
    averages: int = 1,
    calibration: str | None = None,
    trajectory: str = "cartesian",
    z: int = 1,
    recon: tuple[int, int] | None = None,
    recon_fov_y: float = 300.0,
    extra_limits: str = "",
    extra: str = "",
    bandwidth: float | None = None,
    encodings: int = 1,
) -> str:
    """An ISMRMRD header; limits are (minimum, maximum, centre) of the phase encoding."""

    def limit(name: str, low: int, high: int, centre: int) -> str:
        return f"<{name}><minimum>{low}</minimum><maximum>{high}</maximum><center>{centre}</center></{name}>"

    def space(name: str, x: int, y: int, fov_x: float, fov_y: float) -> str:
        return (
            f"<{name}><matrixSize><x>{x}</x><y>{y}</y><z>{z}</z></matrixSize>"
            f"<fieldOfView_mm><x>{fov_x}</x><y>{fov_y}</y><z>5</z></fieldOfView_mm></{name}>"
        )

    recon = recon or (ro, pe)
    steps = limit("kspace_encoding_step_1", *limits) if limits else ""
    several = limit("average", 0, averages - 1, 0) if averages > 1 else ""
    mode = (
        "<parallelImaging><accelerationFactor><kspace_encoding_step_1>2</kspace_encoding_step_1>"
        "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
        f"<calibrationMode>{calibration}</calibrationMode></parallelImaging>"
        if calibration
        else ""
    )
    encoding = (
        "<encoding>"
        + space("encodedSpace", round(ro * oversampling), pe, 300 * oversampling, 300)
        + space("reconSpace", *recon, 300, recon_fov_y)
        + f"<encodingLimits>{steps}{extra_limits}{several}</encodingLimits>"
        + f"<trajectory>{trajectory}</trajectory>{mode}</encoding>"
    )
    noise = f"<relativeReceiverNoiseBandwidth>{bandwidth}</relativeReceiverNoiseBandwidth>" if bandwidth else ""
    return (
        '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        f"{extra}<acquisitionSystemInformation>{noise}</acquisitionSystemInformation>"
        "<experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions>"
        f"{encoding * encodings}</ismrmrdHeader>"
    )


def scan(properties: dict[str, str] | None = None, **changes: Any) -> ScanContext:
    """A parsed header."""
    return ScanContext(header(**changes), Properties.from_text(properties or {}))


def centred(transform: Any, x: Array, axes: Sequence[int] = (-2, -1)) -> Array:
    """A centred orthonormal Fourier transform of numpy."""
    shifted = transform(np.fft.ifftshift(x, axes=axes), axes=axes, norm="ortho")
    return np.fft.fftshift(shifted, axes=axes).astype(np.complex64)


def coil_images(*, ro: int = RO, pe: int = PE, coils: int = COILS, seed: int = 0) -> Array:
    """``(coils, ro, pe)`` of an off-centre object with structure, seen by smooth coils."""
    x, y = np.meshgrid(np.linspace(-1, 1, ro), np.linspace(-1, 1, pe), indexing="ij")
    inside = (x - 0.1) ** 2 / 0.5 + (y + 0.05) ** 2 / 0.6 < 1
    image = inside * (1 + 0.4 * np.sin(5 * x + seed) * np.cos(4 * y)) * np.exp(0.5j * x)
    angles = 2 * np.pi * np.arange(coils) / coils
    sensitivities = [np.exp(-((x - np.cos(a)) ** 2 + (y - np.sin(a)) ** 2) / 2 + 1j * a) for a in angles]
    return (np.stack(sensitivities) * image).astype(np.complex64)


def kspace(**size: int) -> Array:
    """``(coils, ro, pe)`` k-space of `coil_images`."""
    return centred(np.fft.fftn, coil_images(**size))


def oversampled(k: Array, factor: int = 2) -> Array:
    """The same k-space sampled twice as densely along readout: the image with as much empty space beside it."""
    image = centred(np.fft.ifftn, k, (-2,))
    before = (factor * k.shape[-2]) // 2 - k.shape[-2] // 2
    after = (factor - 1) * k.shape[-2] - before
    return centred(np.fft.fftn, np.pad(image, ((0, 0), (before, after), (0, 0))), (-2,))


def acquisition(data: Array, step: int, *marks: int, **fields: Any) -> ismrmrd.Acquisition:
    """One acquisition of ``(coils, samples)``; fields named like counters go there, all others into the header."""
    fields.setdefault("center_sample", data.shape[1] // 2)
    made = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data, dtype=np.complex64), version=1)
    made.idx.kspace_encode_step_1 = step
    made.sample_time_us = 5.0
    for name, value in {**SKEWED, **fields}.items():
        setattr(made.idx if hasattr(made.idx, name) else made, name, value)
    for mark in marks:
        made.set_flag(mark)
    return made


def lines_of(k: Array, steps: Iterable[int] | None = None, *, mark: bool = True, **fields: Any) -> Iterator[Any]:
    """Acquisitions of the lines of ``(coils, samples, pe)``, the first and the last marked as such."""
    steps = list(range(k.shape[-1])) if steps is None else list(steps)
    for number, step in enumerate(steps):
        marks = [flags.ACQ_FIRST_IN_SLICE] if mark and number == 0 else []
        marks += [flags.ACQ_LAST_IN_SLICE] if mark and number == len(steps) - 1 else []
        yield acquisition(k[..., step], step, *marks, scan_counter=number, **fields)
