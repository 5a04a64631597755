"""What only the data tell of how a scan reads its lines, learned from the first of them.

A readout that is cut short may not say where its centre is, and a header may not say that readouts are oversampled. The
strongest line tells, but the first to come may be one of noise: then lines are held until one through the centre of
k-space has come. Where nothing is in doubt, nothing is held beyond the first line of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from ismrmrd import constants as flags
from ismrmrd.acquisition import Acquisition

from gadgets.mrd.header import Encoding, ScanContext
from pass_recon.types import InputError

# How far the strongest sample may lie from the centre that is told, in samples and as a share of all.
_SAMPLES, _SHARE = 4, 0.05
# The signal near the centre that is told, as a share of the strongest, below which the centre is elsewhere.
_WEAK = 0.5
# The power beside the central half of the field of view, as a share of that within, below which it holds nothing.
_EMPTY = 0.02
# How close to 2 the ratio of pixel sizes must be.
_SAME_RATIO = 0.02
# Lines from the centre of k-space within which a line is strong.
_CENTRAL = 2

Kind = tuple[int, int, bool]


@dataclass
class Habits:
    """How a scan reads its lines.

    Attributes
    ----------
    centres
        Sample at the centre of k-space, by encoding space, number of samples and whether read backwards.
    grids
        By encoding space, samples of a full readout and what is left of them without oversampling, where the header
        tells it wrongly.
    sampled
        Encoding spaces whose lines come as they were sampled: nothing was removed upstream.
    remarks
        What is not as it was told.
    """

    centres: dict[Kind, int] = field(default_factory=dict)
    grids: dict[int, tuple[int, int]] = field(default_factory=dict)
    sampled: set[int] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)


def kind_of(acquisition: Acquisition) -> Kind:
    """What readouts have in common that have the same centre."""
    return (
        acquisition.encoding_space_ref,
        acquisition.number_of_samples,
        acquisition.is_flag_set(flags.ACQ_IS_REVERSE),
    )


def after_learning(
    acquisitions: Iterable[Acquisition], scan: ScanContext, is_image: Callable[[Acquisition], bool], habits: Habits
) -> Iterator[Acquisition]:
    """The same acquisitions, once ``habits`` are learned from the first of them."""
    rest, held = iter(acquisitions), []
    strongest: dict[Kind, Acquisition] = {}
    for acquisition in rest:
        held.append(acquisition)
        if not is_image(acquisition) or not np.isfinite(acquisition.data).all():
            continue
        try:
            encoding = scan.encoding(acquisition.encoding_space_ref)
        except InputError:
            break  # whoever reads the line says so
        kind = kind_of(acquisition)
        if kind not in strongest or _strength(acquisition) > _strength(strongest[kind]):
            strongest[kind] = acquisition
        from_centre = abs(encoding.line_of(acquisition.idx.kspace_encode_step_1) - encoding.pe // 2)
        if not _in_doubt(acquisition, encoding) or from_centre <= _CENTRAL or len(held) > 2 * encoding.pe:
            break
    for kind, acquisition in strongest.items():
        _learn(kind, acquisition, scan.encoding(kind[0]), habits)
    yield from held
    yield from rest


def _strength(acquisition: Acquisition) -> float:
    return float(np.abs(acquisition.data).sum())


def _in_doubt(acquisition: Acquisition, encoding: Encoding) -> bool:
    return _cut_short(acquisition, encoding) or _perhaps_oversampled(acquisition, encoding)


def _cut_short(acquisition: Acquisition, encoding: Encoding) -> bool:
    kept = acquisition.number_of_samples - acquisition.discard_pre - acquisition.discard_post
    full = (encoding.sampled_readout, encoding.ro)
    if _perhaps_oversampled(acquisition, encoding):
        return False
    return not any(samples in full or samples % full[0] == 0 for samples in (acquisition.number_of_samples, kept))


def _perhaps_oversampled(acquisition: Acquisition, encoding: Encoding) -> bool:
    """Whether the samples may span twice the field of view that the header says they do.

    They are twice as many as the pixels of the image, in the same field of view or in half of the matrix that is told;
    or as many, but half as large as along phase encoding.
    """
    samples, pixels = acquisition.number_of_samples, encoding.recon_shape[0]
    same_field = abs(encoding.encoded_fov_mm[0] / encoding.recon_fov_mm[0] - 1) < 1e-3
    if samples == encoding.sampled_readout and same_field:
        along, across = encoding.pixel_mm
        narrow = samples == pixels and abs(across / along - 2) < _SAME_RATIO
        return narrow or samples == 2 * pixels
    return samples == 2 * pixels and samples < encoding.sampled_readout and encoding.oversampling > 1


def _learn(kind: Kind, acquisition: Acquisition, encoding: Encoding, habits: Habits) -> None:
    space, samples, _ = kind
    if samples == encoding.sampled_readout and encoding.oversampling > 1:
        habits.sampled.add(space)
    if _cut_short(acquisition, encoding):
        told, found = acquisition.center_sample, _centre_sample(acquisition, encoding.sampled_readout)
        if found is not None:
            habits.centres[kind] = found
            habits.remarks.append(
                f"readouts of {samples} samples say that their centre is sample {told}, the signal has it at {found}: "
                f"{found} is taken"
            )
    elif _perhaps_oversampled(acquisition, encoding) and _sides_are_empty(acquisition):
        habits.grids[space] = samples, samples // 2
        habits.remarks.append(
            f"readouts have {samples} samples, of whose image only the central half shows anything, where the header "
            f"tells of {encoding.sampled_readout} over {encoding.encoded_fov_mm[0]:g} mm and of "
            f"{encoding.recon_shape[0]} pixels over {encoding.recon_fov_mm[0]:g} mm: taken for 2-fold oversampling "
            "that it does not tell of"
        )


def _centre_sample(acquisition: Acquisition, full: int) -> int | None:
    """The sample at the centre of k-space if that is plainly not the one that is told, else None."""
    magnitudes = np.abs(acquisition.data).sum(axis=0)
    samples = len(magnitudes)
    smooth = np.median(np.stack([magnitudes[:-2], magnitudes[1:-1], magnitudes[2:]]), axis=0)
    reach = max(_SAMPLES, round(_SHARE * samples))
    told, found = acquisition.center_sample, int(smooth.argmax()) + 1
    near = smooth[max(told - 1 - reach, 0) : max(told + reach, 0)]
    if 0 < told < samples and near.max(initial=0.0) >= _WEAK * smooth.max():
        return None
    # Readouts are cut on one side, before the echo or after it: the other one is half of a full readout.
    half = -(-samples // full) * full // 2
    first, last = samples - half, half
    nearest = min((first, last), key=lambda place: abs(place - found))
    return nearest if abs(nearest - found) <= 2 * reach else min(max(found, first), last)


def _sides_are_empty(acquisition: Acquisition) -> bool:
    """Whether only the central half of the field of view holds anything, along readout."""
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(acquisition.data, axes=-1)), axes=-1)
    power = (np.abs(image) ** 2).sum(axis=0)
    quarter = len(power) // 4
    inside = power[quarter : len(power) - quarter]
    beside = np.concatenate([power[: quarter - 2], power[len(power) - quarter + 2 :]])
    return bool(beside.mean() < _EMPTY * inside.mean())
