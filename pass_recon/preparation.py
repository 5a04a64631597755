"""From the ACS of a scan to what planning and reconstruction start from: intensity scale, coil maps, the first image.

`Pipeline`, the evaluation and the training of the AS network all start here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pass_recon.physics.coils import compress_coils, espirit_maps
from pass_recon.physics.fourier import fft1c, ifft1c, power, resize_centre
from pass_recon.reconstruction.classical import (
    cg_sense,
    low_resolution_phase,
    magnitude_prior,
    zero_filled,
)
from pass_recon.sampling.lines import MOST_FOR_MAPS, acs_mask, calibration_run, calibration_width
from pass_recon.types import InputError

MAXIMUM_CALIBRATION_WIDTH = MOST_FOR_MAPS
MINIMUM_CALIBRATION_WIDTH = 4
VIRTUAL_COILS = 12
_READOUT_GAP = 0.2
_KERNEL_WIDTH = 10
# A first glimpse is taken with fewer coils and a smaller kernel, on a grid along phase encoding that holds the lines of
# the ACS, what the coil maps add to them, and some room to spare.
_GLIMPSE_COILS, _GLIMPSE_KERNEL_WIDTH, _GLIMPSE_ROOM = 6, 6, 38


@dataclass(frozen=True)
class PreparedScan:
    """Slices of one scan at an image peak of about 1, with their coil maps.

    Attributes
    ----------
    kspace
        ``(slices, coils, ro, pe)`` complex64, divided by ``scale``.
    coil_maps
        ``(slices, coils, ro, pe)`` complex64 with ``Σ|S|² = 1`` on their support.
    scale
        ``(slices, 1, 1)``: images times this have the unit of the signal again.
    acs
        ``(pe,)`` bool on the CPU, the lines that the scale comes from.
    """

    kspace: Tensor
    coil_maps: Tensor
    scale: Tensor
    acs: Tensor

    @cached_property
    def acs_image(self) -> Tensor:
        """``(slices, ro, pe)`` complex64: the coil-combined image of the ACS alone, zero-filled to the full grid."""
        return zero_filled(self.kspace, self.coil_maps, self.acs.to(self.kspace.device))


def prepare(
    kspace: Tensor,
    acs: Tensor,
    *,
    coil_maps: Tensor | None = None,
    calibration: Tensor | None = None,
    calibration_lines: Tensor | None = None,
) -> PreparedScan:
    """Scale k-space by its ACS, and find the coil maps.

    Parameters
    ----------
    kspace
        ``(slices, coils, ro, pe)`` complex64 in any unit.
    acs
        ``(pe,)`` bool: the centred lines that every plan of this scan begins with. Plan and reconstruction must be told
        the same ones, to see one scale.
    coil_maps
        ``(slices, coils, ro, pe)`` where they are known.
    calibration
        K-space of the same shape to estimate the coil maps from; by default ``kspace``.
    calibration_lines
        ``(pe,)`` bool: its lines, of which those of `calibration_run` count; by default ``acs``.

    Raises
    ------
    InputError
        If there are too few lines around the centre to estimate coil maps from.
    """
    scale = intensity_scale(kspace, acs)
    if coil_maps is None:
        run = _run_for_maps(acs if calibration_lines is None else calibration_lines, kspace.shape[-3])
        source = kspace if calibration is None else calibration
        # Lines that are moved as a whole give the object another phase, and the coils the same maps.
        coil_maps = _maps_of_lines(source[..., run.start : run.stop], kspace.shape[-1])
    # Real numbers times real ones: a complex tensor divided by a real one takes five times as long.
    scaled = torch.view_as_complex(torch.view_as_real(kspace) * (1 / scale)[..., None, :, :, None])
    return PreparedScan(scaled, coil_maps, scale, acs)


def glimpse(kspace: Tensor, acs: Tensor, calibration_lines: Tensor) -> Tensor:
    r"""The image of the ACS that a plan is made from, in a quarter of the time of ``prepare(...).acs_image``.

    Few lines make an image that is smooth along phase encoding, and so are its coil maps: on a grid of few points

    .. math:: x = P \sum_c \bar S_c\, F^H y_c

    is all there is, and P, zero-filling in k-space, gives the other pixels. Plans differ from those of the whole image
    in one line of 80, once in six.

    Parameters
    ----------
    kspace
        ``(slices, coils, ro, pe)`` complex64.
    acs
        ``(pe,)`` bool: the lines to make the image of.
    calibration_lines
        ``(pe,)`` bool: the lines to estimate the coil maps from, of which those of `calibration_run` count.

    Returns
    -------
    Tensor
        ``(slices, ro, pe)`` complex64, in no particular unit.

    Raises
    ------
    InputError
        If there are too few lines around the centre to estimate coil maps from.
    """
    pe, run = kspace.shape[-1], _run_for_maps(calibration_lines, kspace.shape[-3])
    grid = min(pe, -(-(int(acs.sum()) + _GLIMPSE_ROOM) // 16) * 16)
    largest = torch.view_as_real(kspace).abs().amax((-4, -3, -2, -1), keepdim=True).squeeze(-1).clamp(min=1e-30)
    lines = resize_centre(kspace * (acs.to(kspace.device) / largest), (kspace.shape[-2], grid))
    lines, matrix = compress_coils(lines, min(_GLIMPSE_COILS, lines.shape[-3]))
    calibration = matrix @ kspace[..., run.start : run.stop].flatten(-2)
    maps = _maps_of_lines(calibration.unflatten(-1, (-1, len(run))), grid, kernel_width=_GLIMPSE_KERNEL_WIDTH)
    small = zero_filled(lines, maps, lines.new_ones(grid, dtype=torch.bool))
    return ifft1c(resize_centre(fft1c(small, -1), (small.shape[-2], pe)), -1)


def classical_image(scan: PreparedScan, line_mask: Tensor) -> Tensor:
    """``(slices, ro, pe)`` complex64: CG-SENSE of the lines ``(pe,)`` with all that the scan itself tells."""
    # Without the centre of k-space the low-resolution image shows edges alone.
    prior = magnitude_prior(scan.acs_image) if bool(scan.acs[len(scan.acs) // 2]) else None
    phase = low_resolution_phase(scan.kspace, scan.coil_maps, line_mask, calibration_width(line_mask))
    return cg_sense(scan.kspace, scan.coil_maps, line_mask, prior=prior, phase=phase)


def scale_lines(line_mask: Tensor, count: int) -> Tensor:
    """Mask ``(pe,)`` on the CPU of the lines that the intensity scale comes from: at most ``count`` around the centre.

    Where the centre itself is missing, those that did come around it.
    """
    mask, pe = line_mask.cpu(), line_mask.shape[-1]
    width = calibration_width(mask)
    if width >= MINIMUM_CALIBRATION_WIDTH or not bool(mask.any()):
        return acs_mask(pe, min(max(width, 1), count))
    lines = mask.nonzero().flatten()
    nearest = lines[(lines - pe // 2).abs().argsort(stable=True)[:MOST_FOR_MAPS]]
    return torch.zeros_like(mask).index_fill(0, nearest, True)


def acquired_lines(kspace: Tensor) -> Tensor:
    """Mask ``(pe,)`` on the CPU of the lines of ``(..., coils, ro, pe)`` that hold anything in any slice."""
    return (kspace != 0).flatten(0, -2).any(0).cpu()


def no_calibration(lines: Tensor) -> str:
    """The sentence for a scan without coil maps, given the mask ``(pe,)`` of its lines."""
    return (
        f"no coil maps: {len(calibration_run(lines))} lines around the centre of k-space were acquired, "
        f"at least {MINIMUM_CALIBRATION_WIDTH} are needed"
    )


def _run_for_maps(lines: Tensor, coils: int) -> range:
    run = calibration_run(lines)
    if len(run) < MINIMUM_CALIBRATION_WIDTH and coils > 1:
        raise InputError(no_calibration(lines))
    return run


def acs_maps(kspace: Tensor, width: int) -> Tensor:
    """Coil maps from the ACS as a plan and a reconstruction use them.

    ESPIRiT with a larger kernel, a higher threshold and more support than usual: of so few lines the usual settings
    darken or crop tissue, in images of the knee, which fills the field of view, by 4 to 5 dB at 4×. Two things pull at
    the support: air inside it adds noise (0.1 to 0.3 dB from a crop of 0.7 to one of 0.6), and from 0.8 on tissue of
    single patients is lost (1 to 10 dB, with higher thresholds sooner). A gap beyond the ends of the readout, because
    legs and necks reach them: without one, maps explain a simulated knee to 36 dB of its peak, with it to 48 dB of 13
    lines and to 51 dB of 26.

    Parameters
    ----------
    kspace
        ``(..., coils, ro, pe)`` in any unit; what lies outside the ACS is ignored.
    width
        Number of ACS lines.

    Returns
    -------
    Tensor
        ``(..., coils, ro, pe)``.
    """
    return _maps_of_lines(resize_centre(kspace, (kspace.shape[-2], width)), kspace.shape[-1])


def _maps_of_lines(lines: Tensor, pe: int, *, kernel_width: int = _KERNEL_WIDTH) -> Tensor:
    """Maps ``(..., coils, ro, pe)`` of consecutive lines ``(..., coils, ro, n)``."""
    coils, ro, width = lines.shape[-3:]
    if coils == 1:  # Nothing tells a coil from the object: a crop would only blacken dark tissue.
        return lines.new_ones(*lines.shape[:-1], pe)
    # Where there are few lines, the readout still has enough samples to make up for some of them.
    gap = round(_READOUT_GAP * ro)
    samples = round((1 + _READOUT_GAP) * MAXIMUM_CALIBRATION_WIDTH)
    region = min(samples, ro + gap), min(MAXIMUM_CALIBRATION_WIDTH, width)
    centre = resize_centre(lines, (ro, region[1]))
    centre = centre / centre.abs().amax((-3, -2, -1), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    # What a kernel costs goes with the square of the coils; the first twelve hold all but a thousandth of the
    # energy; with ten, images of the knee lose 0.2 dB.
    virtual, matrix = compress_coils(centre, min(coils, VIRTUAL_COILS))
    virtual = resize_centre(virtual, (ro, pe))
    maps = espirit_maps(virtual, region, kernel_width=kernel_width, threshold=0.03, crop=0.6, gap=gap)
    return (matrix.mH @ maps.flatten(-2)).unflatten(-1, maps.shape[-2:])


def intensity_scale(kspace: Tensor, acs: Tensor) -> Tensor:
    """Brightest pixel of the low-resolution image, the unit in which every image peaks at about 1.

    It depends on the ACS alone, because the scanner never sees a ground truth.

    Parameters
    ----------
    kspace
        ``(..., coils, ro, pe)`` complex64.
    acs
        ``(pe,)`` bool.

    Returns
    -------
    Tensor
        ``(..., 1, 1)``, 1 where the ACS holds only zeros.
    """
    # The brightest pixel is the same wherever the lines lie: nothing is shifted, and these lines alone are transformed
    # along readout.
    places = acs.nonzero().flatten().tolist() or [0]
    run = slice(places[0], places[-1] + 1)
    lines = kspace[..., run] * acs[run].to(kspace.device)
    images = torch.fft.ifft(torch.fft.ifft(lines, dim=-2, norm="ortho"), n=kspace.shape[-1], dim=-1, norm="ortho")
    scale = power(images).sum(-3).amax((-2, -1), keepdim=True).sqrt()
    return torch.where(scale > 0, scale, torch.ones_like(scale))
