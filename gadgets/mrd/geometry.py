"""From the encoded grid to the image that the header asks for: its field of view, and pixels as many as wanted.

Whatever the two grids are, a pixel of the image shows what lies at its place: nothing is stretched. What the scan has
not seen is black. Both grids have the centre of their field of view at pixel ``n // 2``.

Images here are torch tensors, because they come from the reconstruction and the Fourier transforms are torch's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gadgets.mrd.header import Encoding
from pass_recon.physics.fourier import resize_centre
from pass_recon.types import Box


def to_recon_space(image: Tensor, encoding: Encoding) -> Tensor:
    """``(ro, pe)`` complex on the pixels of the image to be sent, by Fourier interpolation.

    Intensities are kept: a uniform image stays what it is.

    Returns
    -------
    ``encoding.recon_shape`` complex.
    """
    readout, phase = _axes(tuple(image.shape), encoding)
    image = readout.copied(image, 0) if readout.same_pixels else readout.sinc() @ image
    return phase.copied(image, 1) if phase.same_pixels else image @ phase.sinc().mT


def map_to_recon_space(anomaly_map: Tensor, encoding: Encoding) -> Tensor:
    """The same for a map ``(ro, pe)`` in 0 to 1, interpolated linearly so that it stays there."""
    readout, phase = _axes(tuple(anomaly_map.shape), encoding)
    found = readout.copied(anomaly_map, 0) if readout.same_pixels else readout.hat() @ anomaly_map
    found = phase.copied(found, 1) if phase.same_pixels else found @ phase.hat().mT
    return found.clamp(0, 1)


def boxes_to_recon_space(boxes: tuple[Box, ...], shape: tuple[int, int], encoding: Encoding) -> tuple[Box, ...]:
    """The same for boxes of an image of ``shape`` (ro, pe); what lies outside is cut off, and empty boxes go."""
    readout, phase = _axes(shape, encoding)
    moved = []
    for box in boxes:
        ro, ro_end = (readout.edge(end) for end in (box.readout, box.readout + box.readout_size))
        pe, pe_end = (phase.edge(end) for end in (box.phase, box.phase + box.phase_size))
        if ro_end > ro and pe_end > pe:
            moved.append(replace(box, readout=ro, phase=pe, readout_size=ro_end - ro, phase_size=pe_end - pe))
    return tuple(moved)


@dataclass(frozen=True)
class _Axis:
    """One axis of both grids: so many pixels of such a size, in mm, and so many of another."""

    pixels: int
    pixel_mm: float
    wanted: int
    wanted_mm: float

    @property
    def same_pixels(self) -> bool:
        return abs(self.wanted_mm / self.pixel_mm - 1) * max(self.pixels, self.wanted) < 1e-2  # of a pixel, at the edge

    def copied(self, image: Tensor, axis: int) -> Tensor:
        """Pixel by pixel, with zeros around if the wanted field of view is the larger one."""
        shape = list(image.shape)
        shape[axis] = self.wanted
        return resize_centre(image, shape)

    def sinc(self) -> Tensor:
        """``(wanted, pixels)`` complex64: Fourier interpolation, without what the wanted pixels are too large for."""
        places, numbers = self._places(), torch.arange(self.pixels, dtype=torch.float64)
        waves = torch.arange(self.pixels, dtype=torch.float64) - self.pixels // 2
        waves = waves[waves.abs() * self.wanted_mm <= self.pixels * self.pixel_mm / 2 + 1e-9]
        there = torch.exp(2j * math.pi * torch.outer(places, waves) / self.pixels)
        back = torch.exp(-2j * math.pi * torch.outer(waves, numbers) / self.pixels)
        return ((there @ back) * self._seen(places)[:, None] / self.pixels).to(torch.complex64)

    def hat(self) -> Tensor:
        """``(wanted, pixels)`` float32: linear interpolation."""
        places = self._places().clamp(0, self.pixels - 1)
        distance = (places[:, None] - torch.arange(self.pixels)).abs()
        return ((1 - distance).clamp(min=0) * self._seen(self._places())[:, None]).float()

    def edge(self, edge: int) -> int:
        """Where the edge before a pixel comes to lie, within the wanted grid."""
        middle = (edge - 0.5 - self.pixels // 2) * self.pixel_mm / self.wanted_mm + self.wanted // 2
        return min(max(math.floor(middle + 1), 0), self.wanted)

    def _places(self) -> Tensor:
        """Centre of each wanted pixel, counted in pixels of the encoded grid."""
        numbers = torch.arange(self.wanted, dtype=torch.float64) - self.wanted // 2
        return numbers * self.wanted_mm / self.pixel_mm + self.pixels // 2

    def _seen(self, places: Tensor) -> Tensor:
        """Which places lie in the encoded field of view: of its first pixel all, and all before it begins anew."""
        return (places >= -0.5) & (places < self.pixels)


def _axes(shape: tuple[int, ...], encoding: Encoding) -> tuple[_Axis, _Axis]:
    fields = encoding.encoded_fov_mm[0] / encoding.oversampling, encoding.encoded_fov_mm[1]
    readout, phase = (
        _Axis(pixels, field / pixels, wanted, wanted_field / wanted)
        for pixels, field, wanted, wanted_field in zip(
            shape, fields, encoding.recon_shape, encoding.recon_fov_mm[:2], strict=True
        )
    )
    return readout, phase
