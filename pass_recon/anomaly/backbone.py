"""The frozen vision tower of any open_clip model with a vision transformer, with access to its token stream.

The transformer is open_clip's (or timm's) own; what is added here are forward hooks behind four of its blocks.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pass_recon.anomaly.clip_source import resolve
from pass_recon.anomaly.configuration import BackboneConfiguration
from pass_recon.types import BundleError, InputError

LEVELS = 4
"""Adapters sit behind the blocks at ¼, ½, ¾ and 1 of the depth."""

Insertion = Callable[[int, Tensor], Tensor]
"""``(level, tokens (b, prefix + n, width)) -> tokens`` with which the next block goes on."""

# What the hooks of the running call insert, and into which backbone. A context variable, because planning and
# reconstruction use the same backbone from two threads at once.
_RUNNING: ContextVar[tuple[int, Insertion] | None] = ContextVar("pass_recon_insertion", default=None)
_KEYS = itertools.count()


def _hook(key: int, level: int, batch_first: bool, _block: nn.Module, _inputs: Any, tokens: Tensor) -> Tensor | None:
    running = _RUNNING.get()
    if running is None or running[0] != key:
        return None
    if batch_first:
        return running[1](level, tokens)
    return running[1](level, tokens.transpose(0, 1)).transpose(0, 1)


def level_blocks(depth: int) -> tuple[int, ...]:
    """Numbers (from 1) of the blocks at ¼, ½, ¾ and 1 of the depth: 6, 12, 18, 24 of ViT-L/14.

    Raises
    ------
    InputError
        If there are fewer than four blocks.
    """
    if depth < LEVELS:
        raise InputError(f"NetAD needs a transformer of at least {LEVELS} blocks, got {depth}")
    return tuple(round(depth * (level + 1) / LEVELS) for level in range(LEVELS))


def resize_positions(visual: Any, size: tuple[int, int]) -> None:
    """Interpolate the positional embedding (bicubic; the class token keeps its own) to another input size, in place.

    Parameters
    ----------
    visual
        open_clip's ``VisionTransformer``, or its ``TimmModel``, whose trunk does this itself.
    size
        ``(height, width)`` in pixels, multiples of the patch size.
    """
    if hasattr(visual, "trunk"):
        if not hasattr(visual.trunk, "set_input_size"):
            raise InputError(f"{type(visual.trunk).__name__} of the installed timm cannot change its input size")
        visual.trunk.set_input_size(img_size=size)
    else:
        old = visual.positional_embedding.detach()
        grid = (size[0] // visual.patch_size[0], size[1] // visual.patch_size[1])
        prefix, positions = old[:1], old[1:].unflatten(0, visual.grid_size).permute(2, 0, 1)[None]
        positions = F.interpolate(positions, size=grid, mode="bicubic", align_corners=False, antialias=True)
        new = torch.cat([prefix, positions[0].flatten(1).T])
        visual.positional_embedding = nn.Parameter(new, requires_grad=False)
        visual.grid_size = grid
    visual.image_size = size


class Backbone(nn.Module):
    """The vision tower of a CLIP, frozen and always in evaluation mode.

    Parameters
    ----------
    visual
        ``clip.visual`` of an open_clip model. It is frozen in place.
    configuration
        Where it came from, the working size, the mean and standard deviation of its inputs.

    Attributes
    ----------
    configuration
        With the working size, mean and standard deviation filled in.
    levels
        Numbers (from 1) of the blocks behind which adapters sit.
    width, embed_dim
        Channels of the token stream, and of the embedding shared with text.
    patch, size, grid
        Pixels of a patch, working size in pixels, and grid of tokens, each ``(rows, columns)``.

    Raises
    ------
    InputError
        If the tower is no vision transformer, or the size no multiple of the patch.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, visual: Any, configuration: BackboneConfiguration) -> None:
        super().__init__()
        blocks, self.patch, self.prefix, batch_first = _anatomy_of(visual)
        native = _pair(visual.trunk.patch_embed.img_size if hasattr(visual, "trunk") else visual.image_size)
        self.size = configuration.image_size or native
        if self.size[0] % self.patch[0] or self.size[1] % self.patch[1] or min(self.size) < 1:
            raise InputError(
                f"the working size {self.size[0]}×{self.size[1]} is no multiple of the patch "
                f"{self.patch[0]}×{self.patch[1]}"
            )
        if self.size != native:
            resize_positions(visual, self.size)
        self.visual = visual.eval().requires_grad_(False)
        self.grid = (self.size[0] // self.patch[0], self.size[1] // self.patch[1])
        self.levels = level_blocks(len(blocks))
        self.width, self.embed_dim = _dimensions(visual)
        self._key = next(_KEYS)
        for level, block in enumerate(self.levels):
            blocks[block - 1].register_forward_hook(partial(_hook, self._key, level, batch_first))
        preprocessing = getattr(visual, "preprocess_cfg", {})
        mean = configuration.mean or tuple(preprocessing["mean"])
        std = configuration.std or tuple(preprocessing["std"])
        self.configuration = configuration.replace(image_size=self.size, mean=mean, std=std)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    @classmethod
    def load(cls, configuration: BackboneConfiguration) -> Backbone:
        """The vision tower that a configuration describes, without its text tower.

        Raises
        ------
        InputError
            If the configuration names nothing that open_clip knows, or contradicts itself.
        BundleError
            If weights are missing, unreadable, do not fit, or are not those of the configuration's fingerprint.
        """
        source = resolve(configuration)
        backbone = cls(source.build_visual(), configuration)
        if source.weights is not None:
            backbone.check_fingerprint(configuration.fingerprint)
        return backbone

    def check_fingerprint(self, expected: str) -> None:
        """Raise a ``BundleError`` if other weights are loaded than those the adapters were trained on."""
        if expected and expected != (found := self.fingerprint()):
            raise BundleError(
                f"the vision weights of {self.configuration.described} have the fingerprint {found}, "
                f"the adapters were trained on {expected}"
            )

    def fingerprint(self) -> str:
        """A hash over a sample of every weight at half precision, the same for any storage format and working size."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.visual.named_parameters()):
            if name.endswith(("positional_embedding", "pos_embed")):  # interpolated to the working size
                continue
            values = weight.detach().flatten()
            sample = values[:: max(1, values.numel() // 256)].cpu().half()
            digest.update(name.encode() + sample.numpy().tobytes())
        return digest.hexdigest()[:16]

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode: whatever is trained around it, this is frozen."""
        return super().train(False)

    def forward(self, pixels: Tensor, insert: Insertion) -> Tensor:
        """Run the tower, handing the token stream to ``insert`` after each of the four levels.

        Parameters
        ----------
        pixels
            ``(b, height, width)`` of the working size, in 0 to 1.
        insert
            Called with the level and the tokens ``(b, prefix + rows·columns, width)``; returns those to go on with.

        Returns
        -------
            What the tower makes of whole images, ``(b, embed_dim)``.
        """
        if tuple(pixels.shape[1:]) != self.size:
            raise InputError(f"pixels of {tuple(pixels.shape[1:])} for a working size of {self.size}")
        coloured = (pixels[:, None] - self.mean) / self.std
        token = _RUNNING.set((self._key, insert))
        try:
            pooled: Tensor = self.visual(coloured)
        finally:
            _RUNNING.reset(token)
        return pooled

    def reduction(self) -> Tensor | None:
        """The tower's own way from its tokens to the embedding as a matrix ``(embed_dim, width)``.

        That way is ``LayerNorm(x) @ proj``. Without the bias, and without the division by each token's spread, which
        changes no angle, it is a matrix: a W₁ for adapters to begin with. None where it is no such way.
        """
        found = _way_out(self.visual)
        if found is None:
            return None
        scale, projection = found
        matrix = projection * scale
        return matrix - matrix.mean(dim=1, keepdim=True)


def _anatomy_of(visual: Any) -> tuple[nn.ModuleList, tuple[int, int], int, bool]:
    """Blocks, patch size, number of prefix tokens, and whether the token stream has the batch first."""
    trunk = getattr(visual, "trunk", None)
    if trunk is not None and hasattr(trunk, "blocks") and hasattr(trunk.patch_embed, "grid_size"):
        # Not patch_embed.patch_size: where convolutions come first, that counts their pixels and not the image's.
        size, grid = _pair(trunk.patch_embed.img_size), _pair(trunk.patch_embed.grid_size)
        return trunk.blocks, (size[0] // grid[0], size[1] // grid[1]), int(trunk.num_prefix_tokens), True
    transformer = getattr(visual, "transformer", None)
    if transformer is not None and hasattr(transformer, "resblocks"):
        batch_first = bool(getattr(transformer, "batch_first", False))  # open_clip before 2.25 has the tokens first
        return transformer.resblocks, _pair(visual.patch_size), 1, batch_first
    kind = type(visual if trunk is None else trunk).__name__
    raise InputError(f"NetAD needs a vision transformer, this CLIP has a {kind}")


def _way_out(visual: Any) -> tuple[Tensor, Tensor] | None:
    """Weights of the last norm ``(width,)`` and of the projection behind it ``(embed_dim, width)``, if that is all."""
    if not hasattr(visual, "trunk"):
        return None if getattr(visual, "proj", None) is None else (visual.ln_post.weight, visual.proj.T)
    norms = [norm for norm in (visual.trunk.norm, visual.trunk.fc_norm) if isinstance(norm, nn.LayerNorm)]
    layers = [layer for layer in visual.head.modules() if isinstance(layer, nn.Linear)]
    if len(norms) != 1 or len(layers) != 1 or isinstance(visual.trunk.head, nn.Linear):
        return None
    return norms[0].weight, layers[0].weight


def _dimensions(visual: Any) -> tuple[int, int]:
    """Channels of the token stream and of the embedding shared with text."""
    if not hasattr(visual, "trunk"):
        return int(visual.class_embedding.shape[0]), int(visual.output_dim)
    width = int(visual.trunk.embed_dim)
    for layer in reversed(list(visual.head.modules())):
        if isinstance(layer, nn.Linear):
            return width, int(layer.out_features)
    return width, int(visual.trunk.num_classes) or width


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
