"""Anomaly maps for training: of trained detectors, or, before there are any, of a simulated one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from pass_recon.anomaly import NetAD
from training.data.dataset import Slices
from training.data.manifest import training_facts
from training.engine.frozen import Frozen
from training.engine.run_folder import RunFolder, read_tensors

NETAD = "netad.safetensors"
# How a detector of patches sees a lesion: blurred by about a token, sometimes missed, now and then where none is.
_BLUR_FRACTION, _MISSED, _FALSE, _OFF = 0.02, 0.15, 0.15, 0.1


def simulated_map(item: Slices, draw: torch.Generator) -> Tensor:
    """What a detector of ordinary skill might make of the lesions of a slice, ``(ro, pe)`` in 0 to 1.

    One time in ten nothing at all, so that the reconstructor works without a detector too.
    """
    mask = item.anomaly_mask.float()
    chance = torch.rand(4, generator=draw)
    if chance[0] < _OFF:
        return torch.zeros_like(mask)
    seen = torch.zeros_like(mask) if chance[1] < _MISSED else mask
    if chance[2] < _FALSE:
        seen = torch.maximum(seen, _blob(mask.shape, draw))
    width = max(3, int(_BLUR_FRACTION * max(mask.shape))) | 1
    blurred = seen[None, None]
    for _ in range(2):  # twice a box is nearly a Gaussian
        blurred = functional.avg_pool2d(blurred, width, stride=1, padding=width // 2, count_include_pad=False)
    peak = blurred.amax().clamp(min=1e-6)
    return (blurred[0, 0] / peak * (0.5 + 0.5 * chance[3])) if float(peak) > 1e-5 else blurred[0, 0]


def _blob(shape: torch.Size, draw: torch.Generator) -> Tensor:
    centre = torch.rand(2, generator=draw) * torch.tensor(shape)
    radius = (0.01 + 0.04 * torch.rand((), generator=draw)) * max(shape)
    rows, columns = (torch.arange(n, dtype=torch.float32) for n in shape)
    return ((rows[:, None] - centre[0]).square() + (columns - centre[1]).square() < radius**2).float()


class TrainedDetectors(Frozen):
    """The detectors of a run of `train netad`, by anatomy and contrast, as a source of maps for training slices.

    Parameters
    ----------
    run
        Its folder.
    off
        Share of the slices that get a map of zeros.
    """

    def __init__(self, run: str | Path, *, off: float = 0.1) -> None:
        super().__init__()
        self.netads, self._off = nn.ModuleDict(load_detectors(run)), off

    def forward(self, item: Slices, draw: torch.Generator) -> Tensor:
        """The map of a whole slice, ``(ro, pe)``; a little noise keeps the detector from seeing more than it will."""
        if torch.rand((), generator=draw) < self._off:
            return torch.zeros_like(item.image.real)
        noise = 0.01 * torch.randn(item.image.shape, dtype=item.image.dtype, generator=draw)
        return self.map_of(item.anatomy, item.contrast, item.image + noise)

    def map_of(self, anatomy: str, contrast: str, image: Tensor) -> Tensor:
        """What the detector for an examination sees in an image, both ``(ro, pe)``; zeros where there is none, as at
        a scanner with a bundle that has none.
        """
        examination = f"{anatomy}-{contrast}"
        if examination not in self.netads:
            return torch.zeros_like(image.real)
        netad = self.netads[examination]
        assert isinstance(netad, NetAD)
        found: Tensor = netad.anomaly_map(image[None])[0]
        return found

    def missing(self, examinations: Iterable[str]) -> list[str]:
        """A sentence for each examination without a detector."""
        return [f"there is no detector for {name}: its anomaly maps are zero" for name in examinations
                if name not in self.netads]  # fmt: skip


def opened_detectors(
    netad: str, data: Sequence[Path], examinations: Sequence[str], run: RunFolder
) -> TrainedDetectors | None:
    """The detectors of a run, if one is named; what of the data they do not know is told."""
    if not netad:
        return None
    detectors = TrainedDetectors(netad)
    present = {row["examination"] for row in training_facts(data)}
    for sentence in detectors.missing(sorted(present & set(examinations))):
        run.tell(sentence)
    return detectors


def load_detectors(run: str | Path) -> dict[str, NetAD]:
    """The detectors that a run of `train netad` made, by examination, frozen; they share one backbone."""
    tensors, about = read_tensors(Path(run) / NETAD)
    netads: dict[str, NetAD] = {}
    for examination, configuration in about["examinations"].items():
        weights = {k.removeprefix(f"{examination}."): v for k, v in tensors.items() if k.startswith(f"{examination}.")}
        shared = next(iter(netads.values())).backbone if netads else None
        if shared is None:
            weights |= {
                f"backbone.{k.removeprefix('backbone.')}": v for k, v in tensors.items() if k.startswith("backbone.")
            }
        netads[examination] = NetAD.restore(configuration, weights, backbone=shared).eval().requires_grad_(False)
    return netads
