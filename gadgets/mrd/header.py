"""The MRD header: what kind of scan this is, how large its grids are, and what we refuse.

MRD speaks of x, y, z and of encoding steps; here it becomes readout (ro) and phase encoding (pe). The grid of
phase-encoding lines is that of ``encodedSpace``, with the centre of k-space at line ``pe // 2``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ismrmrd.xsd

from gadgets.mrd.noise import noise_bandwidth
from gadgets.properties import Properties
from pass_recon.anatomies import recognise
from pass_recon.sampling.budget import acs_count, acs_fraction, acs_range
from pass_recon.types import InputError

_log = logging.getLogger(__name__)

# With these modes the calibration lines are a scan of their own, possibly of another contrast.
_SEPARATE_CALIBRATION = ("separate", "external")
# More missing lines on one side than on the other, as a share of all, before it is called partial Fourier.
_PARTIAL_FOURIER = 0.05


@dataclass(frozen=True)
class Encoding:
    """One encoding space of a 2D Cartesian scan.

    Attributes
    ----------
    sampled_readout
        Samples of a full readout as the scanner takes it, oversampling included.
    oversampling
        Encoded over reconstructed field of view along readout, 2 on most scanners.
    pe
        Phase-encoding lines of the full grid.
    centre_step
        The encoding step that goes through the centre of k-space.
    steps
        First and last encoding step that the scan can acquire.
    encoded_fov_mm, recon_fov_mm
        Fields of view along (readout, phase encoding, slice).
    recon_shape
        (readout, phase encoding) pixels of the images to be sent.
    averages
        How often each line is to come.
    separate_calibration
        Whether calibration lines must stay out of the image.
    """

    sampled_readout: int
    oversampling: float
    pe: int
    centre_step: int
    steps: tuple[int, int]
    encoded_fov_mm: tuple[float, float, float]
    recon_fov_mm: tuple[float, float, float]
    recon_shape: tuple[int, int]
    averages: int
    separate_calibration: bool

    @property
    def ro(self) -> int:
        """Readout samples once oversampling is removed."""
        return round(self.sampled_readout / self.oversampling)

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Size of a pixel of the encoded grid, oversampling removed, along readout and phase encoding."""
        return self.encoded_fov_mm[0] / self.oversampling / self.ro, self.encoded_fov_mm[1] / self.pe

    def line_of(self, step: int) -> int:
        """Line of the grid that belongs to an encoding step; outside 0 to pe − 1 for a step off the grid."""
        return step - self.centre_step + self.pe // 2

    @property
    def reachable(self) -> tuple[int, int]:
        """First and last line of the grid that the header says can be acquired."""
        first, last = (self.line_of(step) for step in self.steps)
        return max(first, 0), min(last, self.pe - 1)

    @property
    def partial_fourier(self) -> float | None:
        """Share of k-space that is acquired when one side is cut short, rounded; None for a symmetric scan."""
        first, last = self.reachable
        below, above = self.pe // 2 - first, last + 1 - self.pe // 2
        if abs(below - above) <= _PARTIAL_FOURIER * self.pe:
            return None
        return round((below + above) / (2 * max(below, above)), 3)


class ScanContext:
    """A scan's header and the user's properties: all that a stage must know besides the data.

    ``examination`` is anatomy and contrast as bundles are named, ``brain-t1``; empty where the header does not tell.

    Parameters
    ----------
    header
        ISMRMRD XML.
    properties
        Settings of the chain.

    Raises
    ------
    InputError
        If this is no ISMRMRD header, or describes a 3D or non-Cartesian scan.
    """

    def __init__(self, header: bytes | str, properties: Properties) -> None:
        self.properties = properties
        parsed = _parse(header)
        if not parsed.encoding:
            raise InputError("the header describes no encoding")
        self._encodings: list[Any] = parsed.encoding
        self.noise_bandwidth = noise_bandwidth(parsed)
        self.examination = _recognised(parsed)
        self.first_encoding = self.encoding(0)

    def encoding(self, space: int) -> Encoding:
        """The encoding space that an acquisition refers to.

        Raises
        ------
        InputError
            If the header does not describe it, or it is 3D or not Cartesian.
        """
        if space >= len(self._encodings):
            raise InputError(f"encoding space {space} is not in the header, which describes {len(self._encodings)}")
        if space not in self._known:
            self._known[space] = _encoding(self._encodings[space])
        return self._known[space]

    def acs_lines(self, encoding: Encoding) -> range:
        """Lines that must have come before a plan can be made."""
        return acs_range(encoding.pe, acs_count(encoding.pe, acs_fraction(self.properties.acceleration)))

    @cached_property
    def _known(self) -> dict[int, Encoding]:
        return {}


def _recognised(parsed: Any) -> str:
    measurement, study = parsed.measurementInformation, parsed.studyInformation
    names = [
        getattr(part, name, None) or ""
        for part, name in (
            (measurement, "protocolName"),
            (measurement, "seriesDescription"),
            (measurement, "sequenceName"),
            (study, "studyDescription"),
        )
    ]
    found = recognise(getattr(study, "bodyPartExamined", None) or "", names)
    _log.info("the header tells of %s: %s", found.examination or "no known examination", found.reason)
    return found.examination


def _parse(header: bytes | str) -> Any:
    try:
        return ismrmrd.xsd.CreateFromDocument(header)
    except (ValueError, TypeError) as error:  # what xsdata raises for text that is no XML, and for missing elements
        raise InputError(f"not an ISMRMRD header: {error}") from error


def _encoding(encoding: Any) -> Encoding:
    encoded, recon, limits = encoding.encodedSpace, encoding.reconSpace, encoding.encodingLimits
    _refuse_what_is_not_2d_cartesian(encoding)
    pe = encoded.matrixSize.y
    step = limits.kspace_encoding_step_1
    mode = encoding.parallelImaging.calibrationMode if encoding.parallelImaging else None
    fovs = [(space.fieldOfView_mm.x, space.fieldOfView_mm.y, space.fieldOfView_mm.z) for space in (encoded, recon)]
    sizes = (encoded.matrixSize.x, pe, recon.matrixSize.x, recon.matrixSize.y)
    if min(sizes) < 1 or min(*fovs[0][:2], *fovs[1][:2]) <= 0:
        raise InputError(f"matrix sizes and fields of view must be positive, got {sizes} and {fovs} mm")
    return Encoding(
        sampled_readout=encoded.matrixSize.x,
        oversampling=max(fovs[0][0] / fovs[1][0], 1.0),
        pe=pe,
        centre_step=pe // 2 if step is None else step.center,
        steps=(0, pe - 1) if step is None else (step.minimum, step.maximum),
        encoded_fov_mm=fovs[0],
        recon_fov_mm=fovs[1],
        recon_shape=(recon.matrixSize.x, recon.matrixSize.y),
        averages=1 if limits.average is None else limits.average.maximum + 1,
        separate_calibration=mode is not None and mode.value in _SEPARATE_CALIBRATION,
    )


def _refuse_what_is_not_2d_cartesian(encoding: Any) -> None:
    trajectory = encoding.trajectory.value
    if trajectory != "cartesian":
        raise InputError(f"only Cartesian scans are supported; the header's trajectory is {trajectory!r}")
    z, steps = encoding.encodedSpace.matrixSize.z, encoding.encodingLimits.kspace_encoding_step_2
    if z > 1:
        raise InputError(f"only 2D scans are supported; the encoded matrix has z = {z}")
    if steps is not None and steps.maximum > steps.minimum:
        raise InputError(
            f"only 2D scans are supported; kspace_encoding_step_2 runs from {steps.minimum} to {steps.maximum}"
        )
