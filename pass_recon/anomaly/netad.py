"""NetAD: where an MR image looks abnormal, by comparison with text and with normal images.

Differences from the published code: maps are calibrated probabilities instead of being min–max scaled image by image
(``calibration="min-max"`` brings that back); the image score is the mean over the most abnormal tokens instead of over
all, because a small lesion touches a few tokens in a thousand; images keep their aspect, padded to the working size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pass_recon.anomaly.adapters import LevelAdapters
from pass_recon.anomaly.backbone import LEVELS, Backbone
from pass_recon.anomaly.calibration import Calibration
from pass_recon.anomaly.checkpoints import check_state
from pass_recon.anomaly.clip_source import encode_texts, load_clip
from pass_recon.anomaly.configuration import BackboneConfiguration, NetADConfiguration
from pass_recon.anomaly.memory import MemoryBank
from pass_recon.anomaly.preprocessing import Letterbox, normalise_magnitude
from pass_recon.anomaly.prompts import diagnoses, finding_features, state_features
from pass_recon.networks import single_precision
from pass_recon.types import InputError

_LOGIT_SCALE = 100.0


@dataclass(frozen=True)
class AnomalyResult:
    """What NetAD sees in a batch of images.

    Attributes
    ----------
    map
        ``(b, ro, pe)`` float32, probability of an anomaly in each pixel.
    score
        ``(b,)`` float32, probability of an anomaly in the image.
    features
        ``(b, rows, columns, embed_dim)`` image-level tokens, normalised, for the fine-grained diagnosis.
    letterbox
        How the image sits in the grid of ``features``.
    """

    map: Tensor
    score: Tensor
    features: Tensor
    letterbox: Letterbox


@dataclass(frozen=True)
class AnomalyLogits:
    """What NetAD is trained on: logits of the zero-shot comparison, with gradient to the adapters.

    Attributes
    ----------
    pixel
        ``(b, levels, ro, pe)`` of the pixel-level adapters, for focal and Dice losses against masks.
    image
        ``(b, levels)`` of the image-level adapters, for binary cross-entropy against labels.
    features
        ``(b, rows, columns, embed_dim)`` as in ``AnomalyResult``, for fine-grained labels.
    """

    pixel: Tensor
    image: Tensor
    features: Tensor


def mean_logit(logits: Tensor) -> Tensor:
    """The logit of the mean over the last axis of probabilities, never forming one that rounds to 0 or 1."""
    return F.logsigmoid(logits).logsumexp(dim=-1) - F.logsigmoid(-logits).logsumexp(dim=-1)


def text_logits(features: Tensor, text: Tensor) -> Tensor:
    """Log-odds of abnormal against normal of normalised features ``(..., embed_dim)`` and texts ``(2, embed_dim)``.

    A softmax over two, ``softmax(100·⟨t, text_normal⟩, 100·⟨t, text_abnormal⟩)``, is a sigmoid of these.
    """
    return _LOGIT_SCALE * (features @ (text[1] - text[0]))


class NetAD(nn.Module):
    """The anomaly detector of PASS: a frozen CLIP with adapters, text features and a memory of normal images.

    With t the tokens h of an adapter at level l (of 4), all normalised::

        zero = softmax(100·⟨t, text_normal⟩, 100·⟨t, text_abnormal⟩)_abnormal
        few  = 1 − max_m ⟨t, m⟩              over the memory of level l
        map  = calibrate(upsample(mean_l (zero + few) / 2))          t of the pixel-level adapters
        score = calibrate(mean_l mean_top (zero + few) / 2)          t of the image-level adapters

    Without a memory, zero alone.

    Parameters
    ----------
    configuration
        Everything that is not a weight.
    backbone
        The vision tower; it may be shared between detectors.
    text, finding_text
        Normalised text features ``(2, embed_dim)`` (normal, abnormal) and ``(diagnoses, embed_dim)``.

    Raises
    ------
    InputError
        If text features do not fit the backbone or the diagnoses.
    """

    text: Tensor
    finding_text: Tensor

    def __init__(
        self, configuration: NetADConfiguration, backbone: Backbone, text: Tensor, finding_text: Tensor
    ) -> None:
        super().__init__()
        expected = ((2, backbone.embed_dim), (len(configuration.diagnoses), backbone.embed_dim))
        if (tuple(text.shape), tuple(finding_text.shape)) != expected:
            raise InputError(
                f"text features of {tuple(text.shape)} and {tuple(finding_text.shape)} do not fit the backbone's "
                f"embedding and the diagnoses: {expected[0]} and {expected[1]} are needed"
            )
        self._configuration = configuration
        self.backbone = backbone
        adapter = partial(
            LevelAdapters, backbone.width, backbone.embed_dim, mix=configuration.mix, prefix=backbone.prefix
        )
        self.adapters = nn.ModuleList(adapter(last=level == LEVELS - 1) for level in range(LEVELS))
        self.memory = MemoryBank(LEVELS, configuration.memory_tokens, backbone.embed_dim)
        self.map_calibration = Calibration()
        self.score_calibration = Calibration()
        self.register_buffer("text", text.detach().clone().float())
        self.register_buffer("finding_text", finding_text.detach().clone().float())

    @classmethod
    def build(cls, backbone: BackboneConfiguration, *, anatomy: str = "brain", **settings: Any) -> NetAD:
        """A detector with untrained adapters: the CLIP is loaded, the prompts are encoded, the text tower is let go.

        Parameters
        ----------
        backbone
            Which CLIP.
        anatomy
            ``"brain"`` or ``"knee"``.
        settings
            Further fields of ``NetADConfiguration``.

        Raises
        ------
        InputError, BundleError
            As ``Backbone.load``.
        """
        diagnoses(anatomy)  # an unknown anatomy is told before a large CLIP is loaded
        clip, tokenizer = load_clip(backbone)
        return cls.from_clip(clip, tokenizer, backbone, anatomy=anatomy, **settings)

    @classmethod
    def from_clip(
        cls,
        clip: Any,
        tokenizer: Callable[[Sequence[str]], Tensor],
        backbone: BackboneConfiguration,
        *,
        anatomy: str = "brain",
        **settings: Any,
    ) -> NetAD:
        """A detector with untrained adapters on a CLIP in memory, for example one just trained; freezes its vision."""
        encode = partial(encode_texts, clip, tokenizer)
        labels = tuple(finding.label for finding in diagnoses(anatomy))
        configuration = NetADConfiguration(backbone, anatomy=anatomy, diagnoses=labels, **settings)
        text, findings = state_features(encode, anatomy), finding_features(encode, anatomy)
        return cls(configuration, Backbone(clip.visual, backbone), text, findings)

    @classmethod
    def restore(
        cls,
        configuration: NetADConfiguration | Mapping[str, Any],
        weights: Mapping[str, Tensor],
        *,
        backbone: Backbone | None = None,
    ) -> NetAD:
        """A detector from what ``configuration`` and ``weights()`` gave; no text tower is needed.

        Parameters
        ----------
        configuration
            The configuration, or its ``to_dict``.
        weights
            Exactly the tensors of ``weights()``, in any float type.
        backbone
            A vision tower already loaded, to be shared; its fingerprint must be the configuration's. Vision weights
            in ``weights`` are then not used and may be left out.

        Raises
        ------
        BundleError
            Naming the keys that are missing, unexpected or misshapen, or the fingerprints that differ.
        """
        if not isinstance(configuration, NetADConfiguration):
            configuration = NetADConfiguration.from_dict(configuration)
        stored = configuration.backbone.travels and backbone is None
        if backbone is None:
            backbone = Backbone.load(configuration.backbone)
        else:
            backbone.check_fingerprint(configuration.backbone.fingerprint)
            weights = {key: value for key, value in weights.items() if not key.startswith("backbone.")}
        text = torch.zeros(2, backbone.embed_dim)
        findings = torch.zeros(len(configuration.diagnoses), backbone.embed_dim)
        netad = cls(configuration, backbone, text, findings)
        expected = {k: v for k, v in netad.state_dict().items() if stored or not k.startswith("backbone.")}
        check_state(expected, weights, "the bundle (NetAD)")
        netad.load_state_dict(dict(weights), strict=False)
        if stored:
            backbone.check_fingerprint(configuration.backbone.fingerprint)
        return netad

    @property
    def configuration(self) -> NetADConfiguration:
        """What ``restore`` needs beside the weights: memory size and fingerprint are those of now."""
        backbone = self.backbone.configuration.replace(fingerprint=self.backbone.fingerprint())
        return dataclasses.replace(self._configuration, backbone=backbone, memory_tokens=self.memory.tokens)

    @property
    def diagnoses(self) -> tuple[str, ...]:
        """Labels of the fine-grained text features."""
        return self._configuration.diagnoses

    def weights(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """What a bundle stores: tensors on the CPU, contiguous, float32 or float16 (the calibration always float32).

        Vision weights are among them only where nobody else can supply them (``BackboneConfiguration.travels``).
        """
        travels = self.backbone.configuration.travels
        return {
            key: value.detach().to("cpu", torch.float32 if "calibration" in key else dtype).contiguous()
            for key, value in self.state_dict().items()
            if travels or not key.startswith("backbone.")
        }

    @torch.no_grad()
    def forward(self, image: Tensor, *, calibrated: bool = True) -> AnomalyResult:
        """Map and score, without gradient.

        Parameters
        ----------
        image
            ``(b, ro, pe)`` complex or real, any size, in any unit.
        calibrated
            False gives raw scores, which are what calibration is fitted on.

        Raises
        ------
        InputError
            If the image is not ``(b, ro, pe)``.
        """
        features, letterbox = self._features(image)
        with single_precision(image):
            raw = torch.sigmoid(text_logits(features, self.text))
            if self.memory.tokens:
                raw = (raw + self.memory.distance(features)) / 2
            anomaly_map = letterbox.lift(self._on_grid(raw[0].mean(dim=0))[:, None])[:, 0]
            score = self._top(raw[1], letterbox).mean(dim=-1).mean(dim=0)
            if calibrated:
                anomaly_map, score = self._calibrate(anomaly_map, score)
        return AnomalyResult(anomaly_map, score, self._image_features(features), letterbox)

    def anomaly_map(self, image: Tensor) -> Tensor:
        """``(b, ro, pe)`` → ``(b, ro, pe)``: the map alone, for the reconstructor."""
        return self(image).map

    def logits(self, image: Tensor) -> AnomalyLogits:
        """What to train on, with gradient to the adapters and to nothing else; ``image`` as in ``forward``.

        ``sigmoid(image)`` is exactly the zero-shot image score of that level.
        """
        features, letterbox = self._features(image)
        with single_precision(image):
            logits = text_logits(features, self.text)
            pixel = letterbox.lift(self._on_grid(logits[0].transpose(0, 1)))
            top = self._top(logits[1], letterbox)
            level = mean_logit(top)
        return AnomalyLogits(pixel, level.transpose(0, 1), self._image_features(features))

    @torch.no_grad()
    def remember(self, images: Iterable[Tensor], *, size: int = 256) -> None:
        """Add normal images, batches ``(b, ro, pe)``, to the memory; at most ``size`` tokens of each kind are kept."""
        for batch in images:
            features, letterbox = self._features(batch)
            rows, columns = letterbox.tokens(self.backbone.patch)
            features = features.unflatten(3, self.backbone.grid)[:, :, :, rows, columns]
            self.memory.add(features.flatten(2, 4), size)

    def _features(self, image: Tensor) -> tuple[Tensor, Letterbox]:
        """Normalised h of both branches: ``(2, levels, b, rows·columns, embed_dim)``."""
        if image.ndim != 3:
            raise InputError(f"NetAD takes images (b, ro, pe), got {tuple(image.shape)}")
        letterbox = Letterbox((image.shape[1], image.shape[2]), self.backbone.size)
        found: list[Tensor] = []

        def insert(level: int, tokens: Tensor) -> Tensor:
            stream, pixel, whole = self.adapters[level](tokens)
            found.append(torch.stack([pixel, whole]))
            return stream

        self.backbone(letterbox.place(normalise_magnitude(image)), insert)
        return F.normalize(torch.stack(found, dim=1).float(), dim=-1), letterbox

    def _on_grid(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, self.backbone.grid)

    def _top(self, tokens: Tensor, letterbox: Letterbox) -> Tensor:
        """The highest values ``(..., k)`` among the tokens ``(..., n)`` that touch the image."""
        rows, columns = letterbox.tokens(self.backbone.patch)
        inside = self._on_grid(tokens)[..., rows, columns].flatten(-2)
        count = math.ceil(inside.shape[-1] * self._configuration.score_fraction)
        return inside.topk(count, dim=-1).values

    def _calibrate(self, anomaly_map: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        if self._configuration.calibration == "fitted":
            return self.map_calibration(anomaly_map), self.score_calibration(score)
        low = anomaly_map.amin(dim=(1, 2), keepdim=True)
        spread = anomaly_map.amax(dim=(1, 2), keepdim=True) - low
        return (anomaly_map - low) / spread.clamp_min(torch.finfo(spread.dtype).tiny), score

    def _image_features(self, features: Tensor) -> Tensor:
        return F.normalize(features[1].mean(dim=0), dim=-1).unflatten(1, self.backbone.grid)
