"""From an acquisition to one centred k-space line: what scanners and upstream gadgets do to a readout, undone.

The stock NoiseAdjust and RemoveROOversampling may or may not have run before us; both are recognised and made up for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ismrmrd import constants as flags
from ismrmrd.acquisition import Acquisition
from numpy.typing import NDArray

from gadgets.mrd.header import Encoding, ScanContext
from gadgets.mrd.noise import NoiseScans
from pass_recon.types import InputError

# Scans that hold no image: navigators, dummy scans, phase correction, feedback and other calibrations of the scanner.
_NOT_FOR_IMAGES = sum(
    1 << (flag - 1)
    for flag in (
        flags.ACQ_IS_NAVIGATION_DATA,
        flags.ACQ_IS_PHASECORR_DATA,
        flags.ACQ_IS_HPFEEDBACK_DATA,
        flags.ACQ_IS_DUMMYSCAN_DATA,
        flags.ACQ_IS_RTFEEDBACK_DATA,
        flags.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
        flags.ACQ_IS_PHASE_STABILIZATION_REFERENCE,
        flags.ACQ_IS_PHASE_STABILIZATION,
    )
)

Line = NDArray[np.complex64]


def is_noise(acquisition: Acquisition) -> bool:
    """Whether this is a noise scan."""
    return bool(acquisition.is_flag_set(flags.ACQ_IS_NOISE_MEASUREMENT))


def is_for_images(acquisition: Acquisition) -> bool:
    """Whether this is a line of an image or of its calibration."""
    return not is_noise(acquisition) and not acquisition.flags & _NOT_FOR_IMAGES


class Readouts:
    """Turns acquisitions into whitened, centred lines without readout oversampling.

    Noise scans that reach us are kept until the first line: whoever whitens before us does not pass them on.

    Attributes
    ----------
    noise_failures
        Why the noise scans could not be used; whoever reads them takes them away.
    """

    def __init__(self, scan: ScanContext) -> None:
        self.noise_failures: list[str] = []
        self._scan = scan
        self._noise = NoiseScans(scan.noise_bandwidth)
        self._coils: int | None = None

    def add_noise(self, acquisition: Acquisition) -> None:
        """Keep a noise scan. Those that come after the first line are ignored, as Gadgetron does."""
        if self._coils is None:
            self._noise.add(acquisition)

    def line(self, acquisition: Acquisition) -> Line:
        """The k-space line ``(coils, ro)`` with its centre at ``ro // 2``.

        Raises
        ------
        InputError
            If it holds NaN, changes the number of coils, or does not fit the grid.
        """
        data = acquisition.data
        coils = self._coils or data.shape[0]
        if data.shape[0] != coils:
            raise InputError(f"the line has {data.shape[0]} coils, those before it had {coils}")
        finite = np.isfinite(data)
        if not finite.all():
            raise InputError(f"the line holds {data.size - int(finite.sum())} values that are NaN or infinite")
        if self._noise:
            data = self._whiten(data, acquisition.sample_time_us)
        line = centred_line(acquisition, data, self._scan.encoding(acquisition.encoding_space_ref))
        self._coils = coils
        return line

    def _whiten(self, line: Line, dwell_us: float) -> Line:
        try:
            return self._noise.whiten(line, dwell_us)
        except InputError as error:
            # Better an image with correlated noise than none.
            self.noise_failures.append(f"the noise scan cannot be used, nothing is whitened: {error}")
            self._noise.clear()
            return line


def centred_line(acquisition: Acquisition, data: Line, encoding: Encoding) -> Line:
    """Undo reversal, discarded samples, asymmetric echo and readout oversampling.

    Parameters
    ----------
    acquisition
        Says how the line was read.
    data
        ``(coils, samples)``, those of the acquisition or whitened.
    encoding
        The grid.

    Returns
    -------
    ``(coils, ro)`` complex64 with the centre of k-space at ``ro // 2``.

    Raises
    ------
    InputError
        If the readout is longer than the grid or its centre lies elsewhere than it can.
    """
    samples, centre = acquisition.number_of_samples, _centre(acquisition, encoding)
    grid = _full_readout(samples, centre, encoding)
    line = _without_discarded(acquisition, data)
    reverse, symmetric = acquisition.is_flag_set(flags.ACQ_IS_REVERSE), centre == samples // 2
    if reverse:
        line = line[:, ::-1]
        # A symmetric readout has its centre at n // 2 whichever way it is read; an asymmetric one is mirrored.
        centre = centre if symmetric else samples - 1 - centre
    start = grid // 2 - centre
    if start < 0 or start + samples > grid:
        raise InputError(f"a readout of {samples} samples with its centre at {centre} does not fit a grid of {grid}")
    if samples != grid:
        line = np.pad(line, ((0, 0), (start, grid - samples - start)))
    if grid != encoding.ro:
        line = remove_oversampling(line, encoding.ro)
    elif reverse and symmetric and encoding.oversampling > 1:
        line = _move(line, 1 - 1 / encoding.oversampling)
    return np.ascontiguousarray(line, dtype=np.complex64)


def remove_oversampling(line: Line, ro: int) -> Line:
    """Crop the line's image ``(coils, samples)`` to its central ``ro`` pixels, as RemoveROOversampling does."""
    first = line.shape[-1] // 2 - ro // 2
    return _centred(np.fft.fft, _centred(np.fft.ifft, line)[:, first : first + ro])


def _centred(transform: Callable[..., Any], line: Line) -> Line:
    # numpy, not torch: for one line torch's threads cost more than the work, a hundred times more on a busy machine,
    # and a process that only sorts lines need not import it.
    transformed = np.fft.fftshift(transform(np.fft.ifftshift(line, axes=-1), norm="ortho"), axes=-1)
    return transformed.astype(np.complex64, copy=False)


def _without_discarded(acquisition: Acquisition, line: Line) -> Line:
    before, after = acquisition.discard_pre, acquisition.discard_post
    if before or after:
        line = line.copy()
        line[:, :before] = 0
        line[:, line.shape[1] - after :] = 0
    return line


def _centre(acquisition: Acquisition, encoding: Encoding) -> int:
    """Sample at the centre of k-space; many converters leave it at 0, and a full readout is symmetric."""
    samples, centre = acquisition.number_of_samples, acquisition.center_sample
    full = samples in (encoding.sampled_readout, encoding.ro) and abs(centre - samples // 2) <= 1
    if full or centre == 0 or centre >= samples or samples == encoding.sampled_readout:
        return int(samples // 2)
    return int(centre)


def _full_readout(samples: int, centre: int, encoding: Encoding) -> int:
    """Size of the grid that these samples belong to: with readout oversampling, or without it if that was removed.

    An asymmetric echo is short on one side only, so its longer side tells.
    """
    reach = 2 * max(centre, samples - centre)
    removed_upstream = abs(reach - encoding.ro) <= abs(reach - encoding.sampled_readout)
    return encoding.ro if removed_upstream and samples <= encoding.ro else encoding.sampled_readout


def _move(line: Line, samples: float) -> Line:
    """Shift ``(coils, ro)`` k-space towards higher indices by a fraction of a sample.

    A line that was read backwards and lost its oversampling before it could be turned round is off by this much: the
    mirror axis lies between two samples, and after the removal they are further apart.
    """
    n = line.shape[-1]
    ramp = np.exp(2j * np.pi * samples / n * (np.arange(n) - n // 2)).astype(np.complex64)
    return _centred(np.fft.fft, _centred(np.fft.ifft, line) * ramp)
