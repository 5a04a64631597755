"""Stage 0: a small CLIP of our own, for where no published weights can be had.

    pass-recon train backbone --config training/recipes/shipped.yaml --data dataset -o runs/backbone

Two objectives. *Images and captions*: InfoNCE as in CLIP (Radford et al., 2021), except that equal captions, of which
a batch of MR images is full, are positives of one another. *Regions*: tokens behind each block that will carry adapters
are compared with the prompts that NetAD will use, "abnormal" inside lesions and "normal" outside, and with the names of
the findings inside. Tokens get there exactly as through adapters that begin with `Backbone.reduction`, so that a
detector begins with all that the backbone has learned. Before all that a convolutional stem learns on crops, half of
them around lesions, what a place and its surroundings tell: for the price of one image it sees four, none of them air.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pass_recon.anomaly.adapters import PUBLISHED_MIX
from pass_recon.anomaly.backbone import Backbone
from pass_recon.anomaly.checkpoints import load_strictly
from pass_recon.anomaly.clip_source import load_clip
from pass_recon.anomaly.configuration import SMALL_BACKBONE, BackboneConfiguration
from pass_recon.anomaly.convolutional_vit import ConvolutionalStem
from pass_recon.anomaly.netad import mean_logit, text_logits
from pass_recon.anomaly.preprocessing import Letterbox, normalise_magnitude
from pass_recon.anomaly.prompts import (
    ABNORMAL_STATES,
    NORMAL_STATES,
    TEMPLATES,
    diagnoses,
    sentences,
    state_features,
)
from pass_recon.common.settings import checked
from pass_recon.phantom.draws import mixed_seed
from pass_recon.types import InputError
from training.data.augmentation import varied
from training.data.heads import read_heads, with_heads
from training.data.images import UNNAMED, ImageSlice, ImageSource, drawn, open_images, stacked
from training.engine.processes import joined_processes
from training.engine.run_folder import CHECKPOINT, load_weights, opened_run, settings_of
from training.engine.trainer import Trainer, start_from
from training.engine.validation import finite_mean
from training.evaluate.statistics import score_auc
from training.stages.backbone_stem import COVERED, CropSettings, dense_loss, start_locally

STAGE = "backbone"
_FINDING_SCALE = 10.0
_PROMPTS = 4
# An image is as abnormal as this part of its tokens, the most abnormal ones.
_TOP = 100


@checked
@dataclass(frozen=True)
class BackboneSettings(CropSettings):
    """Settings of this stage, on top of those of the steps on crops and of every stage.

    Attributes
    ----------
    examinations
        ``anatomy-contrast``; all in the data by default.
    size
        Side of the images before they are fitted to the model's working size.
    model
        open_clip's model configuration.
    captions, findings
        Weights of the comparisons with captions and with the names of findings; that with normal and abnormal has 1.
    images
        Weight of the most abnormal tokens of each image against its label.
    text_faster
        Learning rate of the text tower, as a multiple.
    heads, heads_share
        File of `prepare_heads`, and the share of each batch that comes from it.
    """

    steps: int = 3000
    batch: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.03
    validation_slices: int = 48
    examinations: tuple[str, ...] = ()
    size: int = 320
    model: dict[str, Any] = field(default_factory=lambda: deepcopy(dict(SMALL_BACKBONE.model or {})))
    captions: float = 0.05
    findings: float = 0.1
    images: float = 0.5
    text_faster: float = 1.0
    heads: str = ""
    heads_share: float = 0.5


class BackboneObjective(nn.Module):
    """Both objectives of a batch of images; its weights are those of the CLIP."""

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__()
        self._settings = settings
        configuration = BackboneConfiguration(model=settings.model)
        clip, self._tokenizer = load_clip(configuration)
        self.backbone = Backbone(clip.visual, configuration)
        self.text, self.logit_scale = clip.text, clip.logit_scale
        self.requires_grad_(True)
        if self.backbone.reduction() is None:
            raise InputError("a backbone of our own needs one norm and one matrix from its tokens to the embedding")

    def forward(self, batch: ImageSlice, draw: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch."""
        pooled, features = self.tokens(batch.image)
        texts = self.encode(batch.caption)
        logits = self.logit_scale.exp().clamp(max=100) * pooled @ texts.T
        captions = contrast_with_captions(logits, batch.caption)
        size, grid = self.backbone.size, self.backbone.grid
        regions, images, findings = [], [], []
        for anatomy in dict.fromkeys(batch.anatomy):
            chosen = [number for number, name in enumerate(batch.anatomy) if name == anatomy]
            number = token_classes(batch.classes[chosen], size, grid)
            inside = (number > 0) & (number < UNNAMED)
            states, named, place = self.prompts(anatomy, number[inside] - 1, draw)
            logits = text_logits(features[:, chosen], states)
            covered = coverage(batch.mask[chosen], size, grid)
            located = batch.located[chosen]
            if bool(located.any()):
                told = dense_loss(logits[:, located], covered[located], batch.reviewed[chosen][located])
                regions.append(int(located.sum()) * told)
            images.append(len(chosen) * image_loss(logits, batch.label[chosen]))
            if bool(inside.any()):
                whole = F.normalize(features[:, chosen].mean(0), dim=-1)[inside]
                findings.append(len(chosen) * F.cross_entropy(_FINDING_SCALE * whole @ named.T, place))
        parts = {
            "regions": torch.stack([pooled.new_zeros(()), *regions]).sum() / len(pooled),
            "images": torch.stack(images).sum() / len(pooled),
            "captions": captions,
            "findings": torch.stack([pooled.new_zeros(()), *findings]).sum() / len(pooled),
        }
        weights = {name: getattr(self._settings, name, 1.0) for name in parts}
        return {"loss": torch.stack([weights[name] * value for name, value in parts.items()]).sum(), **parts}

    def tokens(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Of images ``(b, ro, pe)``: normalised embeddings ``(b, embed)``, and what NetAD's untrained adapters make of
        the tokens at each level, ``(levels, b, n, embed)`` normalised.
        """
        backbone = self.backbone
        found: list[Tensor] = []
        reduction: Any = backbone.reduction()

        def read(_level: int, tokens: Tensor) -> Tensor:
            features = F.leaky_relu(tokens[:, backbone.prefix :] @ reduction.T)
            found.append(F.normalize(features, dim=-1))
            return PUBLISHED_MIX[0] * tokens  # what adapters leave of it

        letterbox = Letterbox((image.shape[1], image.shape[2]), backbone.size)
        pooled = backbone(letterbox.place(normalise_magnitude(image)), read)
        return F.normalize(pooled, dim=-1), torch.stack(found)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Normalised embeddings, each different sentence computed once."""
        different = list(dict.fromkeys(texts))
        tokens = self._tokenizer(different).to(self.logit_scale.device)
        features = F.normalize(self.text(tokens), dim=-1)
        return features[[different.index(text) for text in texts]]

    def prompts(self, anatomy: str, present: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Ensembles ``(2, embed)`` of a few sentences on normal and abnormal; a sentence for each finding that is
        present and for a few others ``(findings, embed)``; and which of those the present ones are.
        """
        texts: list[str] = []
        for states in (NORMAL_STATES, ABNORMAL_STATES):
            every = sentences(states, anatomy)
            texts += [every[int(n)] for n in torch.randperm(len(every), generator=draw)[:_PROMPTS]]
        template = TEMPLATES[int(torch.randint(len(TEMPLATES), (), generator=draw))]
        known = diagnoses(anatomy)
        others = torch.randperm(len(known), generator=draw)[:_PROMPTS].to(present.device)
        numbers, places = torch.cat([present, others]).unique(return_inverse=True)
        named = [template.format(f"a {anatomy} with {known[int(number)].phrase}") for number in numbers]
        features = self.encode(texts + named)
        states_features = F.normalize(features[: 2 * _PROMPTS].unflatten(0, (2, _PROMPTS)).mean(1), dim=-1)
        return states_features, features[2 * _PROMPTS :], places[: len(present)]


def contrast_with_captions(logits: Tensor, captions: Sequence[str]) -> Tensor:
    """InfoNCE both ways on ``(images, texts)``, with every pair of equal captions a positive, all weighing the same.

    With captions that all differ this is CLIP's loss.
    """
    different = list(dict.fromkeys(captions))
    numbers = torch.tensor([different.index(caption) for caption in captions], device=logits.device)
    positives = (numbers[:, None] == numbers).to(logits.dtype)
    targets = positives / positives.sum(1, keepdim=True)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def image_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of the most abnormal tokens of each image against its label, where that is known."""
    known = label >= 0
    top = mean_logit(logits.topk(max(2, logits.shape[-1] // _TOP), dim=-1).values)[:, known]
    each = F.binary_cross_entropy_with_logits(top, label[known].to(top.dtype).expand_as(top), reduction="sum")
    return each / (len(top) * known.sum().clamp(min=1))


def coverage(mask: Tensor, size: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """Share of each token's patch that is lesion, ``(b, n)``."""
    placed = Letterbox((mask.shape[1], mask.shape[2]), (size[0], size[1])).place(mask.float())
    return F.adaptive_avg_pool2d(placed[:, None], (grid[0], grid[1]))[:, 0].flatten(1)


def token_classes(classes: Tensor, size: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """The finding in each token's patch ``(b, n)``, 0 for none."""
    letterbox = Letterbox((classes.shape[1], classes.shape[2]), (size[0], size[1]))
    rows, columns = letterbox.content
    fitted = F.interpolate(classes[:, None].float(), (rows.stop - rows.start, columns.stop - columns.start))[:, 0]
    padded = F.pad(fitted, (columns.start, size[1] - columns.stop, rows.start, size[0] - rows.stop))
    return F.adaptive_max_pool2d(padded[:, None], (grid[0], grid[1]))[:, 0].flatten(1).long()


def train_backbone(settings: BackboneSettings, data: Sequence[Path], run_folder: Path, device: str = "auto") -> None:
    """Train, or go on training, a CLIP; `load_backbone` reads the result.

    Parameters
    ----------
    settings
        Of the run; those of a run that goes on must be its own.
    data
        Prepared datasets.
    run_folder
        Where the run is kept.
    device
        ``auto``, ``cpu``, ``cuda`` …

    Raises
    ------
    InputError
        If data or settings do not fit.
    Interrupted
        After Ctrl-C or SIGTERM, once the run is saved.
    """
    with (
        joined_processes(device) as processes,
        opened_run(run_folder, settings, STAGE, writes=processes.first) as run,
    ):
        run.record_data(data)
        torch.manual_seed(settings.seed)
        sources = open_images(data, "train", settings.examinations, settings.size, fraction=settings.fraction)
        heads = read_heads(settings.heads, settings.size)
        examinations = sorted({source.examination for source in sources})
        objective = BackboneObjective(settings)
        trunk = getattr(objective.backbone.visual, "trunk", None)
        convolutional = isinstance(getattr(trunk, "patch_embed", None), ConvolutionalStem)
        if run.load(CHECKPOINT) is None:
            if settings.initial:
                start_from(objective, settings.initial)
            if convolutional and settings.local_steps:
                start_locally(objective.backbone.to(processes.device), sources, settings, run)
        begun = replace(settings, initial="")  # or it would begin once more, without what the crops taught
        trainer = Trainer(objective, begun, run, processes, faster={"text.": settings.text_faster})
        held_out = open_images(data, "validation", settings.examinations, settings.size)
        for step in trainer.steps():
            for part in range(settings.accumulate):
                start = ((step * settings.accumulate + part) * processes.count + processes.rank) * settings.batch
                items = []
                for place in range(start, start + settings.batch):
                    draw = torch.Generator().manual_seed(mixed_seed(settings.seed, "variation", place))
                    items.append(varied(drawn(sources, settings.seed, place), draw))
                draw = torch.Generator().manual_seed(mixed_seed(settings.seed, "prompts", start))
                batch = with_heads(items, heads, settings.heads_share, examinations, draw)
                trainer.learn(batch.to(processes.device), draw)
            trainer.advance()
            if trainer.epoch() and processes.first:
                averaged: Any = trainer.averaged.module
                areas = region_auc(averaged, held_out, settings)
                trainer.keep(areas, score=finite_mean(areas.values()))


@torch.no_grad()
def region_auc(
    objective: BackboneObjective, sources: Sequence[ImageSource], settings: BackboneSettings
) -> dict[str, float]:
    """Whether the backbone tells lesions without further training: area under the curve over tokens and images."""
    backbone, found = objective.backbone, {}
    for source in sources:
        count = max(2, settings.validation_slices // len(sources))
        places = torch.linspace(0, len(source) - 1, min(count, len(source))).long().unique().tolist()
        batch = stacked([source[place] for place in places]).to(objective.logit_scale.device)
        text = state_features(objective.encode, source.examination.split("-")[0])
        features = torch.cat([objective.tokens(part)[1] for part in batch.image.split(settings.batch)], 1)
        seen = torch.sigmoid(text_logits(features, text)).mean(0)
        truth = coverage(batch.mask, backbone.size, backbone.grid) > COVERED
        found[f"{source.examination} tokens"] = score_auc(seen, truth)
        found[f"{source.examination} images"] = score_auc(seen.topk(4, -1).values.mean(-1), batch.label == 1)
    return found


def load_backbone(run: str | Path) -> tuple[Any, Callable[[Sequence[str]], Tensor], BackboneConfiguration]:
    """The CLIP that a run trained, its tokenizer, and the configuration for `NetAD.from_clip`."""
    configuration = BackboneConfiguration(model=settings_of(run, BackboneSettings).model)
    clip, tokenizer = load_clip(configuration)
    state = {name.removeprefix("backbone."): weight for name, weight in load_weights(run).items()}
    load_strictly(clip, state, f"{run}")
    return clip, tokenizer, configuration
