"""From an acquisition to one centred k-space line: what scanners and upstream gadgets do to a readout, undone.

The stock NoiseAdjust and RemoveROOversampling may or may not have run before us; both are recognised and made up for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ismrmrd import constants as flags
from ismrmrd.acquisition import Acquisition

from gadgets.mrd.header import Encoding, ScanContext
from gadgets.mrd.lines import Line
from gadgets.mrd.noise import NoiseScans
from gadgets.mrd.opening import Habits, after_learning, kind_of
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

# Samples by which a readout may be longer than its grid, for centres that are counted differently.
_SLACK = 2


def is_noise(acquisition: Acquisition) -> bool:
    """Whether this is a noise scan."""
    return bool(acquisition.is_flag_set(flags.ACQ_IS_NOISE_MEASUREMENT))


def is_for_images(acquisition: Acquisition) -> bool:
    """Whether this is a line of an image or of its calibration."""
    return not is_noise(acquisition) and not acquisition.flags & _NOT_FOR_IMAGES


class Readouts:
    """Turns acquisitions into whitened, centred lines without readout oversampling.

    Noise scans that reach us are kept until the first line: whoever whitens before us does not pass them on.
    """

    def __init__(self, scan: ScanContext) -> None:
        self._scan = scan
        self._noise = NoiseScans(scan.noise_bandwidth)
        self._coils: int | None = None
        self._remarks: dict[str, None] = {}  # ordered, without repetitions
        self._habits = Habits()

    @property
    def remarks(self) -> list[str]:
        """What was made up for so far: noise scans that could not be used, samples that the header does not tell of."""
        return [*self._noise.remarks, *self._habits.remarks, *self._remarks]

    def after_learning(
        self, acquisitions: Iterable[Acquisition], is_image: Callable[[Acquisition], bool]
    ) -> Iterator[Acquisition]:
        """The same acquisitions, from the first lines of which it is learned how the scan reads; see `opening`."""
        return after_learning(acquisitions, self._scan, is_image, self._habits)

    def add_noise(self, acquisition: Acquisition) -> None:
        """Keep a noise scan. Those that come after the first line are ignored, as Gadgetron does."""
        if self._coils is None:
            self._noise.add(acquisition)

    def line(self, acquisition: Acquisition, *, of_image: bool = True) -> Line:
        """The k-space line ``(coils, ro)`` with its centre at ``ro // 2``.

        Parameters
        ----------
        acquisition
            A line of an image, or of a calibration scan, which may have other coils.
        of_image
            Which of the two.

        Raises
        ------
        InputError
            If it holds NaN, changes the number of coils, or does not fit the grid.
        """
        data = acquisition.data
        coils = self._coils or data.shape[0]
        if of_image and data.shape[0] != coils:
            raise InputError(f"the line has {data.shape[0]} coils, those before it had {coils}")
        finite = np.isfinite(data)
        if not finite.all():
            raise InputError(f"the line holds {data.size - int(finite.sum())} values that are NaN or infinite")
        encoding = self._scan.encoding(acquisition.encoding_space_ref)
        readout = Readout.of(acquisition, encoding, self._habits)
        for remark in readout.remarks:
            self._remarks[remark] = None
        line = readout.centred(self._noise.whiten(data, acquisition.sample_time_us))
        if of_image:
            self._coils = coils
        return line


@dataclass(frozen=True)
class Readout:
    """How a line was read, and the grid that it belongs to.

    Attributes
    ----------
    first, last
        Samples that count, half-open: the others are to be discarded.
    centre
        Of these the one at the centre of k-space.
    grid
        Samples of a full readout like this one.
    ro
        Samples once its oversampling is removed.
    reverse
        Whether it was read backwards.
    removed_upstream
        Oversampling that was removed before the line came to us, 1 for none.
    remarks
        What the header does not tell, or tells wrongly.
    """

    first: int
    last: int
    centre: int
    grid: int
    ro: int
    reverse: bool
    removed_upstream: float
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, acquisition: Acquisition, encoding: Encoding, habits: Habits) -> Readout:
        """Read it off an acquisition, and off what is known of others like it.

        Raises
        ------
        InputError
            If the readout is longer than the grid and not a multiple of it, or its centre lies elsewhere than it can.
        """
        total, remarks = acquisition.number_of_samples, []
        known = (encoding.sampled_readout, encoding.ro)
        first, last = acquisition.discard_pre, total - acquisition.discard_post
        if first >= last:
            remarks.append(
                f"lines of {total} samples are said to begin with {acquisition.discard_pre} and end with "
                f"{acquisition.discard_post} to be discarded: none is"
            )
            first, last = 0, total
        learned = habits.centres.get(kind_of(acquisition))
        centre = (_centre(acquisition, encoding, first, last) if learned is None else learned) - first
        grid, ro = (total, encoding.ro) if total in known else _grid(last - first, centre, encoding)
        if grid == encoding.ro and acquisition.encoding_space_ref in habits.sampled:
            grid = encoding.sampled_readout  # a short readout of a scan that comes as it was sampled
        grid, ro = habits.grids.get(acquisition.encoding_space_ref, (grid, ro))
        if grid > encoding.sampled_readout:
            remarks.append(
                f"readouts have {grid} samples where the header's encoded matrix has {encoding.sampled_readout}: taken "
                f"for {grid // encoding.sampled_readout}-fold oversampling that it does not tell of"
            )
        removed = encoding.oversampling if grid == encoding.ro == ro else 1.0
        if removed > 1 and grid == round(removed * encoding.recon_shape[0]):
            remarks.append(
                f"readouts have {grid} samples where the header's encoded matrix has {encoding.sampled_readout} and "
                f"its images {encoding.recon_shape[0]} pixels: taken for oversampling that was removed before; if none "
                "was, the header's encoded matrix is too large and the image is squashed along readout"
            )
        reverse = acquisition.is_flag_set(flags.ACQ_IS_REVERSE)
        return cls(first, last, centre, grid, ro, reverse, removed, tuple(remarks))

    def centred(self, data: Line) -> Line:
        """Undo reversal, discarded samples, asymmetric echo and readout oversampling.

        Parameters
        ----------
        data
            ``(coils, samples)``, those of the acquisition or whitened.

        Returns
        -------
        ``(coils, ro)`` complex64 with the centre of k-space at ``ro // 2``.
        """
        line, samples, centre = data[:, self.first : self.last], self.last - self.first, self.centre
        symmetric = centre == samples // 2
        if self.reverse:
            line = line[:, ::-1]
            # A symmetric readout has its centre at n // 2 whichever way it is read; an asymmetric one is mirrored.
            centre = centre if symmetric else samples - 1 - centre
        start = self.grid // 2 - centre
        line = line[:, max(-start, 0) : self.grid - start]  # of centres counted differently a sample or two
        if line.shape[1] != self.grid:
            line = np.pad(line, ((0, 0), (max(start, 0), self.grid - line.shape[1] - max(start, 0))))
        if self.grid != self.ro:
            line = remove_oversampling(line, self.ro)
        elif self.reverse and symmetric and self.removed_upstream > 1:
            line = _move(line, 1 - 1 / self.removed_upstream)
        return np.ascontiguousarray(line, dtype=np.complex64)


def remove_oversampling(line: Line, ro: int) -> Line:
    """Crop the line's image ``(coils, samples)`` to its central ``ro`` pixels, as RemoveROOversampling does."""
    return resample(line, ro)


def resample(line: Line, pixels: int) -> Line:
    """K-space ``(..., samples)`` of an image cropped to its central ``pixels``, or padded with zeros to them."""
    samples = line.shape[-1]
    image = _centred(np.fft.ifft, line)
    if pixels <= samples:
        first = samples // 2 - pixels // 2
        image = image[..., first : first + pixels]
    else:
        before = pixels // 2 - samples // 2
        image = np.pad(image, [(0, 0)] * (line.ndim - 1) + [(before, pixels - samples - before)])
    return _centred(np.fft.fft, image)


def _centred(transform: Callable[..., Any], line: Line) -> Line:
    # numpy, not torch: for one line torch's threads cost more than the work, a hundred times more on a busy machine,
    # and a process that only sorts lines need not import it.
    transformed = np.fft.fftshift(transform(np.fft.ifftshift(line, axes=-1), norm="ortho"), axes=-1)
    return transformed.astype(np.complex64, copy=False)


def _centre(acquisition: Acquisition, encoding: Encoding, first: int, last: int) -> int:
    """Sample at the centre of k-space; many converters leave it at 0, and a full readout is symmetric."""
    total, centre = acquisition.number_of_samples, acquisition.center_sample
    for start, samples in ((0, total), (first, last - first)):
        middle = int(start + samples // 2)
        if samples == encoding.sampled_readout or (samples == encoding.ro and abs(centre - middle) <= 1):
            return middle
    if centre == 0 or centre >= total:
        return (first + last) // 2
    return int(min(max(centre, first), last - 1))


def _grid(samples: int, centre: int, encoding: Encoding) -> tuple[int, int]:
    """Size of the grid that these samples belong to, and what is left of it once its oversampling is removed.

    An asymmetric echo is short on one side only, so its longer side tells. The grid is that of the header, the same
    without its oversampling, if that was removed upstream, or a multiple of it, if it tells of none or of too little.
    """
    reach, told = 2 * max(centre, samples - centre), encoding.sampled_readout
    if samples <= encoding.ro and abs(reach - encoding.ro) <= abs(reach - told):
        return encoding.ro, encoding.ro
    if reach <= told + _SLACK:
        return told, encoding.ro
    factor = round(reach / told)
    if factor < 2 or abs(reach - factor * told) > _SLACK:
        raise InputError(
            f"a readout of {samples} samples with its centre at {centre} does not fit the {told} samples of the "
            f"header's encoded matrix, nor a multiple of them"
        )
    told_by_field = encoding.oversampling > 1 and encoding.recon_shape[0] * encoding.oversampling == factor * told
    # The field of view is that of the samples although the matrix is not: then the pixels are finer than it says.
    return factor * told, factor * encoding.ro if told_by_field else encoding.ro


def _move(line: Line, samples: float) -> Line:
    """Shift ``(coils, ro)`` k-space towards higher indices by a fraction of a sample.

    A line that was read backwards and lost its oversampling before it could be turned round is off by this much: the
    mirror axis lies between two samples, and after the removal they are further apart.
    """
    n = line.shape[-1]
    ramp = np.exp(2j * np.pi * samples / n * (np.arange(n) - n // 2)).astype(np.complex64)
    return _centred(np.fft.fft, _centred(np.fft.ifft, line) * ramp)
