"""From the encoded grid to the image that the header asks for: phase oversampling off, pixels as many as wanted.

Images here are torch tensors, because they come from the reconstruction and the Fourier transforms are torch's.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gadgets.mrd.header import Encoding
from pass_recon.physics.fourier import fft2c, ifft2c, resize_centre
from pass_recon.types import Box


def to_recon_space(image: Tensor, encoding: Encoding) -> Tensor:
    """Crop ``(ro, pe)`` complex to the reconstructed field of view and interpolate by zero-filling k-space.

    Intensities are kept: a uniform image stays what it is.

    Returns
    -------
    ``encoding.recon_shape`` complex.
    """
    image = resize_centre(image, _field_of_view(image, encoding))
    if tuple(image.shape) == encoding.recon_shape:
        return image
    pixels = encoding.recon_shape[0] * encoding.recon_shape[1]
    gain = (pixels / image.numel()) ** 0.5  # of the orthonormal transforms
    return ifft2c(resize_centre(fft2c(image), encoding.recon_shape)) * gain


def map_to_recon_space(anomaly_map: Tensor, encoding: Encoding) -> Tensor:
    """The same for a map ``(ro, pe)`` in 0 to 1, interpolated linearly so that it stays there."""
    cropped = resize_centre(anomaly_map, _field_of_view(anomaly_map, encoding))
    if tuple(cropped.shape) == encoding.recon_shape:
        return cropped
    return interpolate(cropped[None, None], size=encoding.recon_shape, mode="bilinear", align_corners=False)[0, 0]


def boxes_to_recon_space(boxes: tuple[Box, ...], shape: tuple[int, int], encoding: Encoding) -> tuple[Box, ...]:
    """The same for boxes of an image of ``shape`` (ro, pe); what lies outside is cut off, and empty boxes go."""
    moved = []
    cropped = _field_of_view(torch.empty(shape), encoding)
    for box in boxes:
        spans = []
        for first, size, old, view, new in zip(
            (box.readout, box.phase),
            (box.readout_size, box.phase_size),
            shape,
            cropped,
            encoding.recon_shape,
            strict=True,
        ):
            corner = old // 2 - view // 2
            ends = [round((end - corner) * new / view) for end in (first, first + size)]
            spans.append([min(max(end, 0), new) for end in ends])
        (ro, ro_end), (pe, pe_end) = spans
        if ro_end > ro and pe_end > pe:
            moved.append(replace(box, readout=ro, phase=pe, readout_size=ro_end - ro, phase_size=pe_end - pe))
    return tuple(moved)


def _field_of_view(image: Tensor, encoding: Encoding) -> tuple[int, int]:
    """Pixels (ro, pe) of the encoded grid that lie within the reconstructed field of view."""
    readout = encoding.encoded_fov_mm[0] / encoding.oversampling
    fields = zip(image.shape, (readout, encoding.encoded_fov_mm[1]), encoding.recon_fov_mm[:2], strict=True)
    sizes = [max(1, min(size, round(size * recon / encoded))) for size, encoded, recon in fields]
    return sizes[0], sizes[1]
