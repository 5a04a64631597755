"""What a NetAD is made of, as a bundle's card stores it: plain values and no weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pass_recon.anomaly.adapters import PUBLISHED_MIX
from pass_recon.common.settings import checked, from_dict, to_dict
from pass_recon.types import BundleError, InputError

Configuration = TypeVar("Configuration")


@checked
@dataclass(frozen=True)
class BackboneConfiguration:
    """Which CLIP to use. Exactly one of these forms:

    ============================  =======================================================================
    ``name`` and ``pretrained``   open_clip's name and tag (``ViT-L-14-336``, ``openai``), downloaded once
    ``name="hf-hub:org/repo"``    a model of the Hugging Face hub, for example BiomedCLIP
    ``name`` and ``path``         a checkpoint file of that architecture
    ``path``                      a folder with ``open_clip_config.json`` and weights
    ``model``                     a configuration of our own, untrained; its weights travel with the bundle
    ``model`` and ``path``        a checkpoint file of that architecture
    ============================  =======================================================================

    Attributes
    ----------
    name, pretrained, path
        See above. ``pretrained="random"`` is a named architecture without its weights, for tests.
    model
        open_clip's model configuration: ``embed_dim``, ``vision_cfg``, ``text_cfg``.
    image_size
        Working size ``(height, width)``; the model's own if None.
    mean, std
        Normalisation of the three input channels; the model's own if None.
    fingerprint
        Of the vision weights that the adapters were trained on; others are then refused.
    """

    name: str = ""
    pretrained: str = ""
    path: str = ""
    model: Mapping[str, Any] | None = None
    image_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fingerprint: str = ""

    @property
    def travels(self) -> bool:
        """True where nobody but the bundle can supply the vision weights."""
        return not self.path and (self.model is not None or self.pretrained == "random")

    @property
    def described(self) -> str:
        """A few words for messages."""
        if self.model is not None:
            return self.path or "the model configuration"
        return " ".join(filter(None, (self.name, self.pretrained, self.path))) or "an empty configuration"

    def replace(self, **changes: Any) -> BackboneConfiguration:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it, without the fields left at their defaults."""
        fields = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        return json.loads(json.dumps({name: value for name, (value, default) in fields.items() if value != default}))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BackboneConfiguration:
        """From ``to_dict``; unknown names and values of the wrong type raise a ``BundleError``."""
        return _of_bundle(cls, values)


SMALL_BACKBONE = BackboneConfiguration(
    model={
        "embed_dim": 96,
        "vision_cfg": {
            "timm_model_name": "pass_convolutional_vit",
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 240,
        },
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    }
)
"""Ours: 0.8 million weights, 20 × 20 tokens of an image fitted to 240 × 240, sized for two CPU cores."""


@checked
@dataclass(frozen=True)
class NetADConfiguration:
    """Everything of a NetAD that is not a weight, for a bundle's card.

    Attributes
    ----------
    backbone
        Which CLIP.
    anatomy
        ``"brain"`` or ``"knee"``.
    mix
        Weights of the token stream, the pixel-level and the image-level adapter.
    score_fraction
        The image score is the mean over this fraction of its tokens, the most abnormal ones; 1 is as published.
    calibration
        ``"fitted"`` (a temperature and an offset), or ``"min-max"`` of each map, as the published weights expect.
    memory_tokens
        Remembered normal tokens for each branch and level.
    diagnoses
        Labels of the fine-grained text features, in their order.
    """

    backbone: BackboneConfiguration
    anatomy: str = "brain"
    mix: tuple[float, float, float] = PUBLISHED_MIX
    score_fraction: float = 0.02
    calibration: Literal["fitted", "min-max"] = "fitted"
    memory_tokens: int = 0
    diagnoses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.score_fraction <= 1:
            raise InputError(f"score_fraction must be above 0 and at most 1, got {self.score_fraction}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {**to_dict(self), "backbone": self.backbone.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetADConfiguration:
        """From ``to_dict``; unknown or missing names and values of the wrong type raise a ``BundleError``."""
        return _of_bundle(cls, values)


def _of_bundle(configuration_class: type[Configuration], values: Mapping[str, Any]) -> Configuration:
    try:
        return from_dict(configuration_class, values)
    except InputError as error:
        raise BundleError(str(error)) from error
