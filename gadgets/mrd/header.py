"""The MRD header: what kind of scan this is, how large its grids are, and what we refuse.

MRD speaks of x, y, z and of encoding steps; here it becomes readout (ro) and phase encoding (pe). The grid of
phase-encoding lines is that of ``encodedSpace``, with the centre of k-space at line ``pe // 2``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gadgets.mrd.header_xml import read_header, texts_of
from gadgets.mrd.noise import noise_bandwidth
from gadgets.properties import Properties
from pass_recon.anatomies import Recognition, recognise
from pass_recon.sampling.budget import acs_count, acs_fraction, acs_range
from pass_recon.types import InputError

_log = logging.getLogger(__name__)

# With these modes the calibration lines are a scan of their own, possibly of another contrast.
_SEPARATE_CALIBRATION = ("separate", "external")
# More missing lines on one side than on the other, as a share of all, before it is called partial Fourier.
_PARTIAL_FOURIER = 0.05

# A grid that is more times as large as the lines that can be acquired is not meant: zeros to twice the size are usual.
_TIMES = 3
# Fewer lines are an ACS rather than a grid.
_LEAST_GRID = 64

# Images are interpolated to twice or four times the resolution of the data, never to more times than this.
_FINEST = 8

# Samples or pixels along one axis that no 2D scan has more of.
_LARGEST = 4096

# Where headers tell what was examined, without marks and in small letters. Of several names the first is the closest to
# the images.
_BODY_PARTS = ("bodypartexamined", "bodypart", "bodyregion", "anatomicregion")
_NAMES = ("protocolname", "seriesdescription", "seriesname", "sequencename", "sequencedescription", "studydescription",
          "examdescription", "requestedproceduredescription", "performedprocedurestepdescription")  # fmt: skip


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
    multiband
        Slices that are excited together.
    remarks
        What the header says wrongly and how it was understood.
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
    multiband: int = 1
    remarks: tuple[str, ...] = ()

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

    ``examination`` is anatomy and contrast as bundles are named, ``brain-t1``, empty where the header does not tell;
    ``examination_reason`` says why. ``protocol`` is the protocol's name, empty where there is none, and ``slices`` how
    many there are to be. ``document`` is the header as it came.

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
        self.document = header.encode() if isinstance(header, str) else bytes(header)
        parsed = read_header(header)
        if not parsed.encoding:
            raise InputError("the header describes no encoding")
        self._encodings: list[Any] = parsed.encoding
        self.noise_bandwidth = noise_bandwidth(parsed)
        self.examination, self.examination_reason = recognised(header)
        self.protocol = getattr(parsed.measurementInformation, "protocolName", None) or ""
        slices = parsed.encoding[0].encodingLimits.slice
        self.slices = 1 if slices is None else slices.maximum - slices.minimum + 1
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

    def separate_calibration(self, space: int) -> bool:
        """Whether lines of an encoding space that are marked as calibration are a scan of their own.

        Where the space itself says nothing, another one may: the calibration scan often has a space to itself.
        """
        modes = [_calibration_mode(encoding) for encoding in self._encodings]
        own = modes[space] if space < len(modes) else ""
        return own in _SEPARATE_CALIBRATION or (not own and any(mode in _SEPARATE_CALIBRATION for mode in modes))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the header says wrongly, of the encoding spaces used so far, and how it was understood."""
        return tuple(dict.fromkeys(remark for known in self._known.values() for remark in known.remarks))

    def acs_lines(self, encoding: Encoding) -> range:
        """Lines that must have come before a plan can be made."""
        return acs_range(encoding.pe, acs_count(encoding.pe, acs_fraction(self.properties.acceleration)))

    @cached_property
    def _known(self) -> dict[int, Encoding]:
        return {}


def recognised(header: bytes | str) -> Recognition:
    """What was examined, by what the header says of body part and names."""
    body_parts = texts_of(header, _BODY_PARTS)
    found = recognise(next((part for part in body_parts if part.lower() != "unknown"), ""), texts_of(header, _NAMES))
    _log.info("the header tells of %s: %s", found.examination or "no known examination", found.reason)
    return found


def _encoding(encoding: Any) -> Encoding:
    encoded, recon, limits = encoding.encodedSpace, encoding.reconSpace, encoding.encodingLimits
    _refuse_what_is_not_2d_cartesian(encoding)
    fovs = [(space.fieldOfView_mm.x, space.fieldOfView_mm.y, space.fieldOfView_mm.z) for space in (encoded, recon)]
    sizes = (encoded.matrixSize.x, encoded.matrixSize.y, recon.matrixSize.x, recon.matrixSize.y)
    if min(sizes) < 1 or not all((fov or 0) > 0 for fov in (*fovs[0][:2], *fovs[1][:2])):
        raise InputError(f"matrix sizes and fields of view must be positive, got {sizes} and {fovs} mm")
    if max(sizes) > _LARGEST:
        raise InputError(
            f"the header tells of a matrix of {max(sizes)}, more than the {_LARGEST} that can be meant (encoded "
            f"{sizes[0]} by {sizes[1]}, reconstructed {sizes[2]} by {sizes[3]})"
        )
    for axis, name in enumerate(("readout", "phase encoding")):
        finer = sizes[2 + axis] / fovs[1][axis] / (sizes[axis] / fovs[0][axis])
        if finer > _FINEST:
            raise InputError(
                f"the header wants images of {sizes[2]} by {sizes[3]} pixels from a matrix of {sizes[0]} by {sizes[1]}"
                f": {finer:.3g} times as fine along {name}, more than the {_FINEST} that the data can mean"
            )
    pe = encoded.matrixSize.y
    centre_step, steps, remarks = _steps(limits.kspace_encoding_step_1, pe)
    told, pe = pe, fitting_grid(centre_step, *steps, pe)
    if pe != told:
        remarks = (*remarks, grid_remark(told, pe, steps[1] - steps[0] + 1))
    ro = max(round(encoded.matrixSize.x / max(fovs[0][0] / fovs[1][0], 1.0)), 1)
    return Encoding(
        sampled_readout=encoded.matrixSize.x,
        oversampling=encoded.matrixSize.x / ro,
        pe=pe,
        centre_step=centre_step,
        steps=steps,
        encoded_fov_mm=_with_thickness(fovs[0]),
        recon_fov_mm=_with_thickness(fovs[1]),
        recon_shape=(recon.matrixSize.x, recon.matrixSize.y),
        averages=1 if limits.average is None else max(limits.average.maximum, 0) + 1,
        separate_calibration=_calibration_mode(encoding) in _SEPARATE_CALIBRATION,
        multiband=_multiband(encoding),
        remarks=remarks,
    )


def fitting_grid(centre_step: int, first: int, last: int, pe: int) -> int:
    """``pe``, unless steps ``first`` to ``last`` lie on a small part of so many lines: then what they need."""
    needed = 2 * max(centre_step - first, last + 1 - centre_step)
    return needed if needed >= _LEAST_GRID and pe > _TIMES * needed else pe


def grid_remark(told: int, taken: int, lines: int) -> str:
    """The sentence for a grid that is taken to be smaller than the header's."""
    return (
        f"the header tells of a matrix of {told} lines, of which {lines} in the middle are acquired: a matrix of "
        f"{taken} lines is taken, of the same field of view"
    )


def _with_thickness(fov: tuple[float, float, float | None]) -> tuple[float, float, float]:
    return fov[0], fov[1], fov[2] or 0.0


def _calibration_mode(encoding: Any) -> str:
    """What the header says of the calibration lines, empty where it says nothing."""
    mode = encoding.parallelImaging.calibrationMode if encoding.parallelImaging else None
    return "" if mode is None else str(mode.value)


def _multiband(encoding: Any) -> int:
    told = encoding.parallelImaging.multiband if encoding.parallelImaging else None
    return 1 if told is None else max(int(told.multiband_factor or 1), 1)


def _steps(limit: Any, pe: int) -> tuple[int, tuple[int, int], tuple[str, ...]]:
    """The step through the centre, the first and the last step, and what had to be mended of what the header says.

    Limits that are all zero say nothing. A centre that was rounded the wrong way, or left at 0, would push lines off
    the grid. What is wrong by more can only be told from the lines: the limits may be as wrong as the centre.
    """
    if limit is None or limit.maximum <= limit.minimum:
        return pe // 2, (0, pe - 1), ()
    first, last, centre = limit.minimum, limit.maximum, limit.center
    below, above = centre - first - pe // 2, last - centre - (pe - 1 - pe // 2)  # steps off the grid on either side
    wanted = centre
    if last - first + 1 == pe and (below in (1, -1) or centre <= first):
        wanted = first + pe // 2
    elif last - first + 1 < pe and max(below, above) == 1:
        wanted = centre - max(below, 0) + max(above, 0)
    if wanted == centre:
        return centre, (first, last), ()
    said = (
        f"the header puts the centre of k-space at step {centre} of {first} to {last} on a grid of {pe} lines, "
        f"where not all of them have a place; step {wanted} is taken"
    )
    return wanted, (first, last), (said,)


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
