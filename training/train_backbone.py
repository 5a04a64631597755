"""Stage 0: a small CLIP of our own, for where no published weights can be had.

    pass-recon train backbone --config training/recipes/backbone.yaml --data dataset -o runs/backbone

Two objectives. *Images and captions*: InfoNCE as in CLIP (Radford et al., 2021), except that equal captions, of which
a batch of MR images is full, are positives of one another. *Regions*: behind each block that will carry adapters, a
linear head tells tokens inside lesions from those outside, so that tokens mean something where they are; tokens of the
last block are also compared with the prompts that NetAD will use, "abnormal" and the finding inside, "normal" outside.
The heads are needed to get anywhere in minutes: sentences on normal and abnormal begin all but alike, and pull at
tokens only once the text tower has learned to tell them apart. They are not used afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pass_recon.anomaly.backbone import LEVELS, level_blocks
from pass_recon.anomaly.checkpoints import load_strictly
from pass_recon.anomaly.clip_source import load_clip
from pass_recon.anomaly.configuration import SMALL_BACKBONE, BackboneConfiguration
from pass_recon.anomaly.preprocessing import Letterbox, normalise_magnitude
from pass_recon.anomaly.prompts import ABNORMAL_STATES, NORMAL_STATES, TEMPLATES, diagnoses, sentences
from pass_recon.phantom.draws import mixed_seed
from pass_recon.types import InputError
from training.augmentation import varied
from training.engine.processes import joined_processes
from training.engine.run_folder import CHECKPOINT, SETTINGS, load_weights, opened_run
from training.engine.settings import TrainingSettings, read_table
from training.engine.trainer import Trainer
from training.images import UNNAMED, ImageSlice, ImageSource, drawn, open_images, stacked
from training.netad_validation import pixel_auc

STAGE = "backbone"
_TOKEN_SCALE, _FINDING_SCALE = 10.0, 10.0
# A token is abnormal in full where lesions cover this share of its patch.
_COVERED = 0.25
# Of what nobody reviewed, the tokens that look most abnormal may be just that, and count for nothing.
_DOUBTED = 0.05
_PROMPTS = 4
_LOCAL_BATCH = 16
_TEXT_FASTER = 5.0


@dataclass(frozen=True)
class BackboneSettings(TrainingSettings):
    """Settings of this stage; the common ones are described in `TrainingSettings`.

    Attributes
    ----------
    kinds
        ``anatomy-contrast``; all in the data by default.
    size
        Side of the images before they are fitted to the model's working size.
    model
        open_clip's model configuration.
    words
        Weight of all that involves sentences against the heads of the regions. Small, because its gradients are steep
        and would drown the others' in the tower that both share; the text tower learns at any weight under Adam.
    """

    steps: int = 500
    batch: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    validation_slices: int = 48
    kinds: tuple[str, ...] = ()
    size: int = 320
    model: dict[str, Any] = field(default_factory=lambda: deepcopy(dict(SMALL_BACKBONE.model or {})))
    words: float = 0.05
    local_images: int = 1500
    local_steps: int = 1000


class BackboneObjective(nn.Module):
    """Both objectives of a batch of images; holds the CLIP and the heads of the regions."""

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__()
        self._settings = settings
        self.clip, self._tokenizer = load_clip(BackboneConfiguration(model=settings.model))
        if not hasattr(self.clip.visual, "transformer"):
            raise InputError("a backbone of our own needs open_clip's vision transformer, without timm_model_name")
        informed_start(self.clip.visual)
        self.requires_grad_(True)
        width = self.clip.visual.conv1.out_channels
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(LEVELS))
        self._mean, self._std = (self.clip.visual.preprocess_cfg[name] for name in ("mean", "std"))

    def forward(self, batch: ImageSlice, draw: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch."""
        pooled, tokens, streams = self.tokens(batch.image)
        texts = self.encode(batch.caption)
        logits = self.clip.logit_scale.exp().clamp(max=100) * pooled @ texts.T
        captions = contrast_with_captions(logits, batch.caption)
        size, grid = tuple(self.clip.visual.image_size), tuple(self.clip.visual.grid_size)
        covered = coverage(batch.mask, size, grid)
        seen = self.seen(streams)
        regions = dense_loss(seen, covered, batch.reviewed)
        images = image_loss(seen, batch.label)
        # Sentences of one anatomy a step: they cost as much as two images.
        anatomy = batch.anatomy[int(torch.randint(len(pooled), (), generator=draw))]
        chosen = [number for number, name in enumerate(batch.anatomy) if name == anatomy]
        number = token_classes(batch.classes[chosen], size, grid)
        inside = (number > 0) & (number < UNNAMED)
        states, findings, place = self.prompts(anatomy, number[inside] - 1, draw)
        directed = _TOKEN_SCALE * (tokens[chosen] @ F.normalize(states[1] - states[0], dim=0))
        sentence = dense_loss(directed[None], covered[chosen], batch.reviewed[chosen])
        # Sentences begin all but alike, and would stay so for long.
        sentence = sentence + (states[0] @ states[1]).clamp(min=-0.2)
        named = pooled.new_zeros(())
        if bool(inside.any()):
            named = F.cross_entropy(_FINDING_SCALE * tokens[chosen][inside] @ findings.T, place)
        loss = regions + 0.3 * images + self._settings.words * (captions + sentence + named)
        return {
            "loss": loss, "captions": captions, "regions": regions, "images": images,
            "sentences": sentence, "findings": named,
        }  # fmt: skip

    def seen(self, streams: Tensor) -> Tensor:
        """What the heads say of tokens ``(levels, b, n, width)``: logits ``(levels, b, n)``."""
        plain = F.layer_norm(streams, streams.shape[-1:])
        return torch.stack([head(level)[..., 0] for head, level in zip(self.heads, plain, strict=True)])

    def tokens(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of images ``(b, ro, pe)``: normalised embeddings ``(b, embed)``, those of the last block's tokens
        ``(b, n, embed)``, and the token stream behind each level ``(levels, b, n, width)``.
        """
        visual = self.clip.visual
        blocks, found = visual.transformer.resblocks, []
        # Anew in each call, as hooks in a copy of this module, such as the moving average, would be the original's.
        hooks = [
            blocks[number - 1].register_forward_hook(lambda _block, _inputs, tokens: found.append(tokens))
            for number in level_blocks(len(blocks))
        ]
        try:
            pooled = visual(self.pixels(image))
        finally:
            for hook in hooks:
                hook.remove()
        streams = torch.stack(found)[:, :, 1:]
        embedded = F.normalize(visual.ln_post(streams[-1]) @ visual.proj, dim=-1)
        return F.normalize(pooled, dim=-1), embedded, streams

    def pixels(self, image: Tensor) -> Tensor:
        """Images ``(b, ro, pe)`` as the tower takes them, exactly as NetAD will hand them over."""
        size = tuple(self.clip.visual.image_size)
        pixels = Letterbox((image.shape[1], image.shape[2]), size).place(normalise_magnitude(image))
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self._mean, self._std))
        return (pixels[:, None] - mean) / std

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Normalised embeddings, each different sentence computed once."""
        different = list(dict.fromkeys(texts))
        tokens = self._tokenizer(different).to(self.clip.logit_scale.device)
        features = F.normalize(self.clip.text(tokens), dim=-1)
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


def dense_loss(logits: Tensor, covered: Tensor, reviewed: Tensor) -> Tensor:
    """Cross-entropy of tokens ``(levels, b, n)`` against the share of them that is lesion ``(b, n)``, balanced."""
    targets = (covered / _COVERED).clamp(max=1.0)
    each = F.binary_cross_entropy_with_logits(logits, targets.expand_as(logits), reduction="none")
    positive, negative = targets, 1 - (covered > 0).to(targets.dtype)
    doubted = (negative * logits.detach().amax(0)).topk(max(1, int(_DOUBTED * logits.shape[-1])), dim=-1).indices
    trusted = negative.scatter(-1, doubted, 0.0)
    negative = torch.where(reviewed[:, None], negative, trusted)
    inside = (each * positive).sum() / (len(logits) * positive.sum()).clamp(min=1.0)
    outside = (each * negative).sum() / (len(logits) * negative.sum()).clamp(min=1.0)
    # The hard negatives decide whether a healthy image stays dark; the mean over all is mostly air.
    hard = (each * negative).topk(max(1, logits.shape[-1] // 16), dim=-1).values.mean()
    return inside + outside + 0.5 * hard


def image_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of the most abnormal tokens of each image against its label, where that is known."""
    known = label >= 0
    top = logits.topk(max(2, logits.shape[-1] // 64), dim=-1).values.mean(-1)[:, known]
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


@torch.no_grad()
def informed_start(visual: Any) -> None:
    """Begin with smooth patterns for patches and places instead of noise: the first thousand steps, for nothing.

    The patch filters become the lowest functions of the cosine transform, positions become sines of row and column.
    """
    weight = visual.conv1.weight  # (width, 3, patch, patch)
    width, colours, height, breadth = weight.shape
    orders = sorted(((u, v) for u in range(height) for v in range(breadth)), key=lambda uv: uv[0] ** 2 + uv[1] ** 2)
    rows, columns = ((torch.arange(n) + 0.5) * math.pi / n for n in (height, breadth))
    for channel, (u, v) in enumerate(orders[:width]):
        pattern = torch.cos(u * rows)[:, None] * torch.cos(v * columns)
        # The spectrum of images falls with frequency; and no filter may drown places, as all go through one LayerNorm.
        gain = 1.5 * (1 + math.hypot(u, v)) / (colours * pattern.square().sum())
        weight[channel] = (gain * pattern).to(weight)
    grid = tuple(visual.grid_size)
    rates = 0.5 * math.pi * 1.6 ** torch.arange(width // 4)
    planes = []
    for axis in range(2):
        place = torch.linspace(-1, 1, grid[axis])[:, None] * rates
        waves = torch.cat([place.sin(), place.cos()], 1)
        planes.append(waves[:, None].expand(*grid, -1) if axis == 0 else waves[None].expand(*grid, -1))
    positions = torch.cat(planes, -1).flatten(0, 1)
    visual.positional_embedding[1:, : positions.shape[1]] = 0.7 * positions
    # Blocks that at first change little: what a patch shows reaches all heads before attention has learned anything.
    for block in visual.transformer.resblocks:
        block.attn.out_proj.weight.mul_(0.3)
        block.mlp.c_proj.weight.mul_(0.3)


def start_locally(objective: BackboneObjective, sources: Sequence[ImageSource], settings: BackboneSettings) -> float:
    """Let the first block's perceptron and the heads learn what a single patch tells of lesions, without attention.

    A step costs a hundredth of one of the whole tower, as patches are cut and filtered once; and a tower that begins
    with tokens which know where they are and how they look learns the rest in a few hundred steps instead of many
    thousands. Returns the last loss.
    """
    visual = objective.clip.visual
    size, grid = tuple(visual.image_size), tuple(visual.grid_size)
    patches, covered, reviewed = [], [], []
    with torch.no_grad():
        for place in range(settings.local_images):
            draw = torch.Generator().manual_seed(mixed_seed(settings.seed, "local", place))
            item = stacked([varied(drawn(sources, settings.seed, place), draw)])
            patches.append(visual.conv1(objective.pixels(item.image)).flatten(2).transpose(1, 2)[0])
            covered.append(coverage(item.mask, size, grid)[0])
            reviewed.append(item.reviewed[0])
    tokens, shares, trusted = torch.stack(patches), torch.stack(covered), torch.stack(reviewed)
    block, head = visual.transformer.resblocks[0], objective.heads[0]
    learned = [visual.positional_embedding, *visual.ln_pre.parameters(), *block.ln_2.parameters()]
    learned += [*block.mlp.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(learned, lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=settings.local_steps)
    draw = torch.Generator().manual_seed(mixed_seed(settings.seed, "local"))
    loss = torch.zeros(())
    for _ in range(settings.local_steps):
        chosen = torch.randint(len(tokens), (min(_LOCAL_BATCH, len(tokens)),), generator=draw)
        stream = visual.ln_pre(tokens[chosen] + visual.positional_embedding[1:])
        stream = stream + block.mlp(block.ln_2(stream))
        logits = head(F.layer_norm(stream, stream.shape[-1:]))[None, ..., 0]
        loss = dense_loss(logits, shares[chosen], trusted[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    for other in objective.heads:
        other.load_state_dict(head.state_dict())
    return float(loss.detach())


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
        torch.manual_seed(settings.seed)
        sources = open_images(data, "train", settings.kinds, settings.size)
        objective = BackboneObjective(settings)
        if settings.local_steps and run.load(CHECKPOINT) is None:
            run.log("local", 0, loss=start_locally(objective, sources, settings))
        # The text tower begins from nothing; the vision tower has something to lose.
        trainer = Trainer(objective, settings, run, processes, faster={"clip.text.": _TEXT_FASTER})
        held_out = open_images(data, "validation", settings.kinds, settings.size)
        for step in trainer.steps():
            for part in range(settings.accumulate):
                start = ((step * settings.accumulate + part) * processes.count + processes.rank) * settings.batch
                items = []
                for place in range(start, start + settings.batch):
                    draw = torch.Generator().manual_seed(mixed_seed(settings.seed, "variation", place))
                    items.append(varied(drawn(sources, settings.seed, place), draw))
                draw = torch.Generator().manual_seed(mixed_seed(settings.seed, "prompts", start))
                trainer.learn(stacked(items).to(processes.device), draw)
            trainer.advance()
            if trainer.epoch() and processes.first:
                averaged: Any = trainer.averaged.module
                trainer.keep(**region_auc(averaged, held_out, settings))


@torch.no_grad()
def region_auc(objective: BackboneObjective, sources: Sequence[Any], settings: BackboneSettings) -> dict[str, float]:
    """Whether tokens tell lesions: area under the curve over tokens and over images, by the heads."""
    size, grid = tuple(objective.clip.visual.image_size), tuple(objective.clip.visual.grid_size)
    device, found = objective.clip.logit_scale.device, {}
    for source in sources:
        count = max(2, settings.validation_slices // len(sources))
        places = torch.linspace(0, len(source) - 1, min(count, len(source))).long().unique().tolist()
        batch = stacked([source[place] for place in places]).to(device)
        logits = objective.seen(objective.tokens(batch.image)[2]).mean(0)
        truth = coverage(batch.mask, size, grid) > _COVERED
        found[f"{source.kind} tokens"] = pixel_auc(logits, truth)
        found[f"{source.kind} images"] = pixel_auc(logits.topk(4, -1).values.mean(-1), batch.label == 1)
    return found


def load_backbone(run: str | Path) -> tuple[Any, Callable[[Sequence[str]], Tensor], BackboneConfiguration]:
    """The CLIP that a run trained, its tokenizer, and the configuration for `NetAD.from_clip`."""
    configuration = BackboneConfiguration(model=read_table(Path(run) / SETTINGS)["model"])
    clip, tokenizer = load_clip(configuration)
    load_strictly(clip, load_weights(run, "clip."), f"{run}")
    return clip, tokenizer, configuration
