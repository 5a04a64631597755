"""A small vision transformer with a convolutional stem, registered with timm so that open_clip builds it by name.

Early convolutions help transformers see better (Xiao et al., 2021), and most of all where training is short: tokens
that convolutions made already tell edges, textures and small spots from each other, which linear patches from nothing
learn only after very many images.
"""

from __future__ import annotations

from typing import Any

from timm.layers import PatchEmbed
from timm.models import VisionTransformer, register_model

from pass_recon.anomaly.vision_tower import BLOCKS, HEADS, MLP_RATIO, PATCH, SIZE, WIDTH, stem


class ConvolutionalStem(PatchEmbed):
    """timm's ``PatchEmbed`` with a stack of strided convolutions in the place of one linear patch.

    Parameters
    ----------
    img_size, patch_size, in_chans, embed_dim
        As timm gives them; the patch is a multiple of 4 pixels.
    options
        The others of ``PatchEmbed``.

    Attributes
    ----------
    proj
        First to features of every 4 × 4 pixels, ``embed_dim / 2`` of them, where small spots are found; then to tokens.
    """

    def __init__(self, img_size: Any, patch_size: int, in_chans: int, embed_dim: int, **options: Any) -> None:
        super().__init__(img_size, patch_size, in_chans, embed_dim, **options)
        self.proj = stem(in_chans, patch_size, embed_dim)  # type: ignore[assignment]


@register_model
def pass_convolutional_vit(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """Ours; ``pretrained`` is timm's to pass, and nothing."""
    for unused in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        options.pop(unused, None)
    settings = {
        "img_size": SIZE,
        "patch_size": PATCH,
        "embed_dim": WIDTH,
        "depth": BLOCKS,
        "num_heads": HEADS,
        "mlp_ratio": MLP_RATIO,
        "embed_layer": ConvolutionalStem,
    }
    model = VisionTransformer(**{**settings, **options})
    # open_clip looks there for a pooling that only convolutional networks have.
    model.default_cfg = {}  # type: ignore[assignment]
    return model
