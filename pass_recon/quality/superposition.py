"""Two slices in one: seen by coils that no single set of sensitivities explains."""

from __future__ import annotations

import torch
from torch import Tensor

from pass_recon.physics.coils import compress_coils, espirit_eigenvalues
from pass_recon.physics.fourier import ifft2c, power, resize_centre
from pass_recon.sampling.lines import calibration_width
from pass_recon.types import QualityFinding

_COILS = 6
_LEAST_COILS = 4
_LEAST_WIDTH = 10
_WIDTH = 24
_THRESHOLD = 0.03
# Mean second eigenvalue of ESPIRiT over the object: at most 0.42 in ordinary slices, 0.53 to 0.95 where a second slice
# was excited with the usual shift along phase encoding. Without a shift it lies under the first with nearly the same
# coil sensitivities, and hardly anything can tell.
_SECOND_EIGENVALUE = 0.5
_RIM = 0.3


def check_superposition(kspace: Tensor, line_mask: Tensor) -> list[QualityFinding]:
    """``multiband``, if the lines around the centre of ``(coils, ro, pe)`` hold more than one object."""
    width = min(_WIDTH, calibration_width(line_mask))
    if kspace.shape[0] < _LEAST_COILS or width < _LEAST_WIDTH:
        return []
    region = (min(_WIDTH, kspace.shape[1]), width)
    centre = resize_centre(kspace, region)
    centre = centre / centre.abs().max()
    virtual, _ = compress_coils(centre, min(_COILS, kspace.shape[0]))
    second = espirit_eigenvalues(virtual, region, threshold=_THRESHOLD)[1]
    image = power(ifft2c(virtual)).sum(0)
    energy = torch.nn.functional.interpolate(image[None, None], size=tuple(second.shape), mode="bilinear")[0, 0]
    energy = torch.fft.ifftshift(energy * _inside(tuple(second.shape)).to(energy.device))
    energy = torch.where(energy > 0.1 * energy.max(), energy, 0.0)
    mean = float((second * energy).sum() / energy.sum())
    if mean < _SECOND_EIGENVALUE:
        return []
    return [
        QualityFinding(
            "multiband",
            f"more than one slice lies in the data, or it folds over: the coils' second eigenvalue is {mean:.2f} on "
            f"average, of one slice it is below {_SECOND_EIGENVALUE:g}",
        )
    ]


def _inside(shape: tuple[int, ...]) -> Tensor:
    """Grid without its rims, where an object that reaches out of the field of view meets its other end."""
    within = [(torch.arange(size) - size // 2).abs() <= _RIM * size for size in shape]
    return within[0][:, None] & within[1]
