"""What a reconstructor may know of a scan: how fast, how noisy, how regular. All of it from the data itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pass_recon.networks import root_mean_square, zero
from pass_recon.reconstruction.classical import noise_level

_HIDDEN = 64
# Typical value and spread of each feature over the scans of the training mixture, so that networks see about ±1.
_TYPICAL = (1.7, -3.8, -1.2, 0.25, 0.05, 3.0)
_SPREAD = (0.7, 0.8, 0.45, 0.2, 0.08, 1.0)
_MOST_COILS = 10.0
_FARTHEST = 3.0  # spreads from the typical value: what a network has never seen must not carry it away


def scan_features(kspace: Tensor, line_mask: Tensor, image: Tensor) -> Tensor:
    """Features of each scan, about between −3 and 3, without gradient.

    Parameters
    ----------
    kspace
        ``(b, coils, ro, pe)``, zero outside the mask.
    line_mask
        ``(b, pe)`` or ``(pe,)``, bool or 0 and 1.
    image
        ``(b, ro, pe)`` complex, the coil-combined image with missing lines left at zero.

    Returns
    -------
    Tensor
        ``(b, 6)``: log₂ of the acceleration; log₂ of the fraction of lines in the ACS; log₁₀ of the noise over the
        image's root mean square; the highest side lobe of the point spread function (1 / R and less for random lines,
        up to 1 for evenly spaced ones); how far the lines' centre is from that of k-space, as a fraction of all lines;
        log₂ of the number of coils, of which more than ten count as ten: they may come compressed or not.
    """
    with torch.no_grad():
        pe = line_mask.shape[-1]
        lines = (line_mask.detach() > 0.5).expand(kspace.shape[0], pe)
        acquired = lines.float()
        count = acquired.sum(-1).clamp(min=1)
        acs = _unbroken(lines).clamp(min=1)
        noise = noise_level(kspace.detach(), lines).flatten() / root_mean_square(image.detach()).flatten()
        spread = torch.fft.fft(acquired, dim=-1).abs()
        width = (2 * pe // acs).clamp(max=pe // 3)
        # The main lobe is as wide as the ACS makes it.
        place = torch.arange(pe, device=lines.device)
        apart = torch.minimum(place, pe - place)
        lobe = spread.masked_fill(apart <= width[:, None], 0).amax(-1) / count
        centre = (acquired * (place - pe // 2)).sum(-1).abs() / (count * pe)
        coils = torch.full_like(count, min(float(kspace.shape[-3]), _MOST_COILS)).log2()
        features = torch.stack(
            ((pe / count).log2(), (acs / pe).log2(), noise.clamp(min=1e-6).log10(), lobe, centre, coils), dim=-1
        )
        typical, broad = features.new_tensor(_TYPICAL), features.new_tensor(_SPREAD)
        return ((features - typical) / broad).clamp(-_FARTHEST, _FARTHEST)


def _unbroken(lines: Tensor) -> Tensor:
    """``(b,)``: how many of the lines ``(b, pe)`` follow each other without a gap around the centre of k-space."""
    centre = lines.shape[-1] // 2
    below = lines[:, :centre].flip(-1).cumprod(-1).sum(-1)
    return (below + lines[:, centre:].cumprod(-1).sum(-1)) * lines[:, centre]


class ScanCondition(nn.Module):
    """Features of a scan and number of the iteration to what modulates the networks, and factors of λ₁ and λ₂.

    Parameters
    ----------
    width
        Number of features handed on.
    iterations
        How often the networks are asked.
    """

    def __init__(self, width: int, iterations: int) -> None:
        super().__init__()
        self.scan = nn.Sequential(nn.Linear(len(_TYPICAL), _HIDDEN), nn.LeakyReLU(0.1), nn.Linear(_HIDDEN, width))
        self.iteration = nn.Parameter(0.1 * torch.randn(iterations, width))
        self.weights = nn.Linear(width, 2)
        zero(self.weights)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """``(b, 6)`` to ``(iterations, b, width)`` and factors ``(iterations, b, 2)`` between e⁻³ and e³."""
        together = functional.leaky_relu(self.scan(features) + self.iteration[:, None], 0.1)
        return together, (3 * torch.tanh(self.weights(together) / 3)).exp()
