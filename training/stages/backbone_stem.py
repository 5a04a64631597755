"""Before a backbone sees whole images, its convolutional stem learns on crops to tell lesions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pass_recon.anomaly.backbone import Backbone
from pass_recon.anomaly.preprocessing import Letterbox, normalise_magnitude
from pass_recon.common.settings import checked
from pass_recon.phantom.draws import mixed_seed
from training.data.augmentation import varied
from training.data.images import ImageSource, drawn
from training.engine.run_folder import RunFolder
from training.engine.settings import TrainingSettings

COVERED = 0.25
"""A token is abnormal in full where lesions cover this share of its patch."""
# Of what nobody reviewed, the tokens that look most abnormal may be just that, and count for nothing.
_DOUBTED = 0.05
# Crops: how many at once, their side in tokens, and the magnitude (of 255) up to which there is nothing to see.
_BATCH, _TOKENS, _AIR = 16, 10, 20
_LOG = 50


@checked
@dataclass(frozen=True)
class CropSettings(TrainingSettings):
    """Settings of the steps on crops; the common ones are described in `TrainingSettings`.

    Attributes
    ----------
    local_steps
        Steps on crops before all others; 0 for none.
    local_images
        How many varied images the crops are from.
    local_rate
        Learning rate at the top of their schedule.
    """

    local_steps: int = 1500
    local_images: int = 4000
    local_rate: float = 3e-3


def dense_loss(logits: Tensor, covered: Tensor, reviewed: Tensor) -> Tensor:
    """Cross-entropy and 1 − Dice of places ``(levels, b, n)`` against the share of them that is lesion ``(b, n)``.

    Dice is of each image: in that of a batch one large lesion hides all small ones.
    """
    target = (covered / COVERED).clamp(max=1.0).expand_as(logits)
    empty = (covered == 0).to(logits.dtype)
    doubted = (empty * logits.detach().amax(0).sigmoid()).topk(max(1, int(_DOUBTED * logits.shape[-1])), dim=-1).indices
    trusted = torch.where(reviewed[:, None], 1.0, torch.ones_like(empty).scatter(-1, doubted, 0.0))
    weight = torch.where(covered > 0, 1.0, trusted)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    seen = torch.sigmoid(logits) * weight
    both, sums = (seen * target).sum(-1), (seen + target).sum(-1)
    return 10 * (weight * each).mean() + (1 - (2 * both + 1) / (sums + 1)).mean()


class Crops:
    """Squares cut from images that were varied once, every other one around a lesion.

    Parameters
    ----------
    backbone
        Whose stem is to learn from them.
    sources, settings
        Of the run.
    """

    def __init__(self, backbone: Backbone, sources: Sequence[ImageSource], settings: CropSettings) -> None:
        self._backbone, self._seed = backbone, settings.seed
        images, masks, reviewed = [], [], []
        for place in range(settings.local_images):
            draw = torch.Generator().manual_seed(mixed_seed(settings.seed, "local", place))
            item = varied(drawn(sources, settings.seed, place), draw)
            letterbox = Letterbox((item.image.shape[0], item.image.shape[1]), backbone.size)
            image, mask = normalise_magnitude(item.image[None]), item.mask[None].float()
            images.append((255 * letterbox.place(image)).to(torch.uint8))
            masks.append(letterbox.place(mask) > 0.5)
            reviewed.append(item.reviewed)
        self._images, self._masks, self._reviewed = torch.cat(images), torch.cat(masks), torch.stack(reviewed)
        self._sick = self._masks.flatten(1).any(1).nonzero().flatten()

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Coloured pixels ``(b, 3, side, side)``, lesions ``(b, side, side)``, and whether the rest is known normal."""
        draw = torch.Generator().manual_seed(mixed_seed(self._seed, "crops", step))
        pixels, masks, reviewed = [], [], []
        for number in range(_BATCH):
            pool = self._sick if number % 2 and len(self._sick) else torch.arange(len(self._images))
            chosen = int(pool[int(torch.randint(len(pool), (), generator=draw))])
            # Around something: a lesion, or else any place that is not air.
            worth = self._masks[chosen] if number % 2 else self._images[chosen] > _AIR
            rows, columns = self._around(worth, draw)
            flip = [-1] if torch.rand((), generator=draw) < 0.5 else []
            pixels.append(self._images[chosen, rows, columns].flip(flip))
            masks.append(self._masks[chosen, rows, columns].flip(flip))
            reviewed.append(self._reviewed[chosen])
        mean, std = self._backbone.mean, self._backbone.std
        coloured = (torch.stack(pixels)[:, None].to(mean.device) / 255 - mean) / std
        return coloured, torch.stack(masks).float().to(mean.device), torch.stack(reviewed).to(mean.device)

    def _around(self, worth: Tensor, draw: torch.Generator) -> tuple[slice, slice]:
        """A square with one of the places worth it in it, not in its middle."""
        side = _TOKENS * self._backbone.patch[0]
        places = worth.nonzero()
        count = max(1, len(places))
        place = places[int(torch.randint(count, (), generator=draw))] if len(places) else torch.zeros(2)
        shift = torch.randint(-side // 4, side // 4 + 1, (2,), generator=draw)
        first = [int((place[axis] + shift[axis] - side // 2).clamp(0, worth.shape[axis] - side)) for axis in range(2)]
        return slice(first[0], first[0] + side), slice(first[1], first[1] + side)


def start_locally(
    backbone: Backbone,
    sources: Sequence[ImageSource],
    settings: CropSettings,
    run: RunFolder,
) -> None:
    """Let a convolutional stem learn to tell lesions on crops, by two linear heads that are not used afterwards."""
    stem: Any = backbone.visual.trunk.patch_embed
    fine, coarse = stem.proj
    heads = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in (backbone.width // 2, backbone.width))
    for head in heads:
        nn.init.constant_(head.get_parameter("bias"), -4.0)  # lesions are rare: all that is known before the first step
    heads.to(backbone.mean.device)
    crops = Crops(backbone, sources, settings)
    weights = [*stem.proj.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(weights, settings.local_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.local_rate, total_steps=settings.local_steps)
    total = 0.0
    for step in range(settings.local_steps):
        pixels, mask, reviewed = crops.batch(step)
        detail = fine(pixels)
        loss = pixels.new_zeros(())
        for head, features in zip(heads, (detail, coarse(detail)), strict=True):
            seen, covered = head(features)[:, 0], F.adaptive_avg_pool2d(mask, features.shape[-2:])
            edge = seen.shape[-1] // _TOKENS  # there the surroundings are missing
            inner = (slice(None), slice(edge, -edge), slice(edge, -edge))
            loss = loss + dense_loss(seen[inner].flatten(1)[None], covered[inner].flatten(1), reviewed)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, settings.gradient_clip)
        optimiser.step()
        schedule.step()
        total += float(loss.detach())
        if (step + 1) % _LOG == 0:
            run.log("local", step + 1, loss=total / _LOG)
            total = 0.0
