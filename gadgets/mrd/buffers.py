"""ReconData messages ↔ arrays: how slices travel between the gadgets.

On the wire a buffer is ``[E0, E1, E2, CHA, N, S, LOC]`` in Fortran order: readout, lines, partitions, coils, and three
dimensions of which ours are always 1. In Python a slice is ``(coils, ro, pe)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gadgetron.types.recon_data import ReconBit, ReconBuffer, ReconData, SamplingDescription
from ismrmrd.acquisition import AcquisitionHeader
from numpy.typing import NDArray

from gadgets.mrd.calibration import Calibration
from gadgets.mrd.header import Encoding, ScanContext, fitting_grid
from gadgets.mrd.lines import PlacedLines
from gadgets.mrd.slices import Slice, SliceKey
from pass_recon.types import InputError

_STEPS = 1 << 16  # encoding steps are counted in 16 bits


@dataclass(frozen=True)
class SliceData:
    """One slice as a stage receives it.

    Attributes
    ----------
    key, encoding
        Which slice this is and the grid it lies on.
    header
        Header of the line nearest to the centre of k-space, which carries the slice's geometry.
    kspace
        ``(coils, ro, lines)`` complex64; all pe lines, or those of the ACS alone.
    first_line
        Line of the grid that ``kspace[..., 0]`` is.
    line_mask
        ``(lines,)`` bool, which of them were acquired.
    order
        The acquired lines of the grid in the order of acquisition.
    calibration
        ``(coils, ro, pe)`` with the calibration lines only, where these are a scan of their own; else None.
    message
        The ReconData of this slice alone.
    """

    key: SliceKey
    encoding: Encoding
    header: AcquisitionHeader
    kspace: NDArray[np.complex64]
    first_line: int
    line_mask: NDArray[np.bool_]
    order: tuple[int, ...]
    calibration: NDArray[np.complex64] | None
    message: ReconData

    @property
    def is_acs(self) -> bool:
        """Whether these are the ACS lines, sent ahead, rather than the whole slice."""
        return self.kspace.shape[-1] < self.encoding.pe


def acs_message(part: Slice) -> ReconData:
    """The ACS of a slice, sent as soon as it is complete: ``data`` and ``ref`` are the same (the format wants both)."""
    buffer = _buffer(part.image, part.acs, part.encoding)
    return ReconData([ReconBit(buffer, buffer)])


def late_acs_message(part: Slice, calibration: Calibration) -> ReconData:
    """The same at the end of a slice, of the lines that there are in place of its ACS."""
    used = range(max(part.acs.start, calibration.lines.start), min(part.acs.stop, calibration.lines.stop))
    buffer = _calibration_buffer(part, calibration, used)
    return ReconData([ReconBit(buffer, buffer)])


def slice_message(part: Slice, calibration: Calibration | None) -> ReconData:
    """A whole slice: all lines of the grid in ``data``, those to make coil maps from in ``ref``."""
    data = _buffer(part.image, range(part.encoding.pe), part.encoding)
    reference = None
    if calibration is not None:
        # Of the image itself no more than its ACS: the rest is in the data, and those who want it find it there.
        own = range(max(part.acs.start, calibration.lines.start), min(part.acs.stop, calibration.lines.stop))
        reference = _calibration_buffer(part, calibration, own if calibration.own else calibration.lines)
    return ReconData([ReconBit(data, reference)])


def keep_lines(whole: SliceData, keep: NDArray[np.bool_]) -> ReconData:
    """The message of a whole slice without the lines for which ``keep`` ``(pe,)`` is False."""
    bit = whole.message[0]
    data, headers = bit.data.data.copy(order="F"), bit.data.headers.copy()
    data[:, ~keep] = 0
    headers[~keep] = _filled(headers[~keep].shape, AcquisitionHeader())
    buffer = ReconBuffer(data, None, None, headers, bit.data.sampling)
    return ReconData([ReconBit(buffer, bit.ref)])


def slices_of(message: ReconData, scan: ScanContext) -> Iterator[SliceData]:
    """The slices of a ReconData message, from our own gadgets or from the stock BucketToBuffer.

    Raises
    ------
    InputError
        If a buffer is 3D, has no line, or does not fit the grid that the header describes.
    """
    for bit in message:
        if bit.data.data.shape[2] > 1:
            raise InputError(f"only 2D scans are supported; a buffer holds {bit.data.data.shape[2]} partitions")
        for place in np.ndindex(bit.data.data.shape[4:]):
            yield _slice_data(bit, place, scan)


def _slice_data(bit: ReconBit, place: tuple[int, ...], scan: ScanContext) -> SliceData:
    lines_of_place = (slice(None), 0, *place)
    headers = bit.data.headers[lines_of_place]
    line_mask = np.array([header.number_of_samples > 0 for header in headers])
    if not line_mask.any():
        raise InputError("a buffer holds no acquired line")
    lines = np.flatnonzero(line_mask)
    first, centre, _ = bit.data.sampling.sampling_limits[1]
    first_line = first if len(headers) < bit.data.sampling.encoded_matrix[1] else 0
    header = headers[lines[np.abs(lines + first_line - centre).argmin()]]
    encoding = _as_placed(scan.encoding(header.encoding_space_ref), bit.data, headers[lines], lines + first_line)
    if first_line + len(headers) > encoding.pe:
        raise InputError(
            f"a buffer holds lines {first_line} to {first_line + len(headers) - 1} of a grid of {encoding.pe}"
        )
    return SliceData(
        key=SliceKey.of(header),
        encoding=encoding,
        header=header,
        kspace=_array(bit.data, place),
        first_line=first_line,
        line_mask=line_mask,
        order=tuple(int(line) + first_line for line in sorted(lines, key=lambda line: headers[line].scan_counter)),
        calibration=_calibration(bit, place, encoding, first_line),
        message=ReconData([ReconBit(_only(bit.data, place), _only(bit.ref, place) if bit.ref else None)]),
    )


def _as_placed(
    encoding: Encoding, buffer: ReconBuffer, headers: NDArray[np.object_], lines: NDArray[np.int_]
) -> Encoding:
    """The encoding as the first stage has found it to be: where its centre is, and how long its readouts are."""
    half = _STEPS // 2
    steps = [header.idx.kspace_encode_step_1 for header in headers]
    offsets = {(step - int(line) + half) % _STEPS - half for step, line in zip(steps, lines, strict=True)}
    ro = buffer.data.shape[0]
    changes: dict[str, Any] = {}
    if ro != encoding.ro:
        changes = {"sampled_readout": round(ro * encoding.oversampling)}
    pe = buffer.sampling.encoded_matrix[1]
    if fitting_grid(0, -(-pe // 2), pe // 2 - 1, encoding.pe) != encoding.pe:
        changes |= {"pe": pe, "steps": (0, pe - 1)}
    pe = changes.get("pe", encoding.pe)
    if len(offsets) == 1:
        changes["centre_step"] = offsets.pop() + pe // 2
        if "pe" in changes:
            changes["steps"] = (changes["centre_step"] - pe // 2, changes["centre_step"] - pe // 2 + pe - 1)
    return replace(encoding, **changes)


def _calibration(
    bit: ReconBit, place: tuple[int, ...], encoding: Encoding, first_line: int
) -> NDArray[np.complex64] | None:
    """K-space of the calibration lines ``(coils, ro, pe)``; None where they are those of the image."""
    if bit.ref is None:
        return None
    reference, data = _array(bit.ref, place), _array(bit.data, place)
    first = bit.ref.sampling.sampling_limits[1].min - first_line
    same = data[..., first : first + reference.shape[2]] if first >= 0 else data[..., :0]
    if reference.shape == same.shape and np.array_equal(reference, same):
        return None
    return _on_grid(bit.ref, place, encoding)


def _only(buffer: ReconBuffer, place: tuple[int, ...]) -> ReconBuffer:
    """A buffer with one place (N, S, LOC) of another."""
    one = (Ellipsis, *(slice(index, index + 1) for index in place))
    return ReconBuffer(buffer.data[one], None, None, buffer.headers[one], buffer.sampling)


def _array(buffer: ReconBuffer, place: tuple[int, ...]) -> NDArray[np.complex64]:
    """``(coils, ro, lines)`` of one place (N, S, LOC) of a buffer."""
    readout_lines_coils = (slice(None), slice(None), 0, slice(None), *place)
    return np.ascontiguousarray(buffer.data[readout_lines_coils].transpose(2, 0, 1))


def _on_grid(buffer: ReconBuffer, place: tuple[int, ...], encoding: Encoding) -> NDArray[np.complex64]:
    """``(coils, ro, pe)`` with the lines of a calibration buffer in their places and zeros elsewhere."""
    lines = _array(buffer, place)
    first = buffer.sampling.sampling_limits[1].min
    grid = np.zeros((*lines.shape[:2], encoding.pe), dtype=np.complex64)
    grid[..., first : first + lines.shape[2]] = lines
    return grid


def _buffer(lines: PlacedLines, indices: range, encoding: Encoding) -> ReconBuffer:
    present = [index for index in indices if index in lines]
    if not present:
        raise InputError("no line of the image has come")
    steps = [lines.step_of(index) for index in present]
    coils, ro = lines.lines.first[steps[0]].shape
    # Written line by line in C order (coils, lines, ro), which the transposition turns into the Fortran order wanted.
    data = np.zeros((coils, len(indices), ro), dtype=np.complex64)
    headers = _filled((len(indices),), AcquisitionHeader())
    for index, step in zip(present, steps, strict=True):
        data[:, index - indices.start] = lines.lines.mean(step)
        headers[index - indices.start] = lines.lines.headers[step]
    return _recon_buffer(data, headers, indices, encoding)


def _calibration_buffer(part: Slice, calibration: Calibration, indices: range) -> ReconBuffer:
    """Lines of a calibration under the name of the slice that they are for."""
    if calibration.own:
        return _buffer(part.image, indices, part.encoding)
    first = indices.start - calibration.lines.start
    chosen = slice(first, first + len(indices))
    data = np.ascontiguousarray(calibration.kspace[..., chosen].transpose(0, 2, 1))
    headers = _filled((len(indices),), AcquisitionHeader())
    template = part.lines.headers[min(part.lines.headers, key=lambda step: abs(step - part.centre_step))]
    for place, (index, counter) in enumerate(zip(indices, calibration.counters[chosen], strict=True)):
        header = AcquisitionHeader.from_buffer_copy(template)
        header.idx.kspace_encode_step_1 = part.image.step_of(index) % _STEPS
        header.scan_counter = counter
        headers[place] = header
    return _recon_buffer(data, headers, indices, part.encoding)


def _recon_buffer(
    data: NDArray[np.complex64], headers: NDArray[np.object_], indices: range, encoding: Encoding
) -> ReconBuffer:
    return ReconBuffer(
        data.T[:, :, None, :, None, None, None],
        None,
        None,
        headers[:, None, None, None, None],
        _sampling(indices, data.shape[2], encoding),
    )


def _filled(shape: tuple[int, ...], header: AcquisitionHeader) -> NDArray[np.object_]:
    # numpy.full would look into the header for an array; assignment through an index does not.
    headers = np.empty(shape, dtype=object)
    for place in np.ndindex(shape):
        headers[place] = header
    return headers


def _sampling(indices: range, ro: int, encoding: Encoding) -> SamplingDescription:
    sampling = SamplingDescription()
    encoded, recon = encoding.encoded_fov_mm, encoding.recon_fov_mm
    sampling.encoded_FOV = (encoded[0] / encoding.oversampling, *encoded[1:])
    sampling.recon_FOV = recon
    sampling.encoded_matrix = (ro, encoding.pe, 1)
    sampling.recon_matrix = (*encoding.recon_shape, 1)
    for axis, limits in enumerate(
        [(0, ro // 2, ro - 1), (indices.start, encoding.pe // 2, indices.stop - 1), (0, 0, 0)]
    ):
        limit = sampling.sampling_limits[axis]
        limit.min, limit.center, limit.max = limits
    return sampling
