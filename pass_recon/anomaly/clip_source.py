"""Where a CLIP comes from: a name with a tag, a local file or folder, or a configuration of our own."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pass_recon.anomaly.checkpoints import is_torchscript, load_strictly, part, read_checkpoint, weights_in_folder
from pass_recon.anomaly.configuration import BackboneConfiguration
from pass_recon.anomaly.vision_tower import SIZE, VisionTower
from pass_recon.types import BundleError, InputError

# open_clip builds both towers at once; this stands in for the text tower where only the vision tower is wanted, so
# that neither its memory nor the transformers package is needed at the scanner.
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
_HUB = "hf-hub:"
_log = logging.getLogger(__name__)

# How a bundle describes `VisionTower`.
_OUR_TOWER = {"timm_model_name": "pass_convolutional_vit", "timm_pool": "", "timm_proj": "linear", "image_size": SIZE}


@dataclass(frozen=True)
class ClipSource:
    """A CLIP found: its configuration, how its inputs are normalised, where its weights lie.

    Attributes
    ----------
    model
        open_clip's model configuration.
    preprocessing
        open_clip's ``preprocess_cfg``: ``mean`` and ``std`` at least.
    weights
        Checkpoint file; None for random weights.
    tokenizer
        Makes the function from texts to tokens.
    described
        A few words for messages.
    """

    model: dict[str, Any]
    preprocessing: dict[str, Any]
    weights: Path | None
    tokenizer: Callable[[], Callable[[Sequence[str]], Tensor]]
    described: str

    def build_visual(self) -> Any:
        """The vision tower alone, with its weights."""
        if self.model["vision_cfg"] == _OUR_TOWER:
            visual: Any = VisionTower(self.model["embed_dim"]).eval()
            visual.preprocess_cfg = self.preprocessing
        else:
            visual = self._build(_NO_TEXT).visual
        if self.weights is not None:
            load_strictly(visual, part(read_checkpoint(self.weights), "visual."), f"{self.weights} (visual)")
        return visual

    def build_clip(self) -> Any:
        """Both towers: open_clip's ``CustomTextCLIP`` with its weights."""
        from open_clip.model import convert_to_custom_text_state_dict

        clip = self._build(self.model["text_cfg"])
        if self.weights is not None:
            state = convert_to_custom_text_state_dict(read_checkpoint(self.weights))
            load_strictly(clip.visual, part(state, "visual."), f"{self.weights} (visual)")
            text = part(state, "text.")
            # Written by transformers before 4.31, constant, and no longer expected.
            text.pop("transformer.embeddings.position_ids", None)
            load_strictly(clip.text, text, f"{self.weights} (text)")
            if "logit_scale" in state:
                clip.logit_scale.data.copy_(state["logit_scale"].reshape(clip.logit_scale.shape))
        return clip

    def _build(self, text: Mapping[str, Any]) -> Any:
        import open_clip

        import pass_recon.anomaly.convolutional_vit  # noqa: F401 - makes timm know ours

        vision = {**self.model["vision_cfg"]}
        if "timm_model_name" in vision:
            vision["timm_model_pretrained"] = False
        text = {**text}
        if "hf_model_name" in text:
            text["hf_model_pretrained"] = False
        try:
            clip = open_clip.CustomTextCLIP(
                embed_dim=self.model["embed_dim"],
                vision_cfg=vision,
                text_cfg=text,
                quick_gelu=bool(self.model.get("quick_gelu", False)),
            )
        except (TypeError, RuntimeError, ValueError, AssertionError) as error:
            raise InputError(f"open_clip cannot build {self.described}: {error}") from error
        except (OSError, ImportError) as error:  # the hub is out of reach, or transformers is not installed
            raise BundleError(_no_text_tower(self.described, text, error)) from error
        open_clip.set_model_preprocess_cfg(clip, self.preprocessing)
        return clip.eval()


def resolve(configuration: BackboneConfiguration) -> ClipSource:
    """Find the architecture, the weights and the tokenizer that a configuration names, downloading if need be.

    Raises
    ------
    InputError
        If the configuration contradicts itself or names what open_clip does not know.
    BundleError
        If a local file or folder is missing or incomplete, or a download failed.
    """
    path = Path(configuration.path) if configuration.path else None
    if configuration.model is not None:
        if configuration.name or configuration.pretrained:
            raise InputError("a backbone has either a model configuration of its own or a name, not both")
        return _own(dict(configuration.model), path, configuration.described)
    if configuration.name.startswith(_HUB):
        return _from_hub(configuration.name)
    if configuration.name:
        return _from_name(configuration, path)
    if path is None:
        raise InputError("a backbone needs a name, a path or a model configuration")
    return _from_folder(path)


def load_clip(configuration: BackboneConfiguration) -> tuple[Any, Callable[[Sequence[str]], Tensor]]:
    """Both towers and the tokenizer, for computing text features and for training a CLIP of our own.

    Returns
    -------
        open_clip's ``CustomTextCLIP`` (``.visual`` is what ``Backbone`` takes) and a function from texts to tokens.
    """
    source = resolve(configuration)
    return source.build_clip(), source.tokenizer()


@torch.no_grad()
def encode_texts(clip: Any, tokenizer: Callable[[Sequence[str]], Tensor], texts: Sequence[str]) -> Tensor:
    """Normalised embeddings ``(texts, embed_dim)``."""
    device = next(clip.text.parameters()).device
    features = clip.text(tokenizer(list(texts)).to(device))
    if isinstance(features, tuple):  # CoCa's text tower also gives its tokens
        features = features[0]
    return F.normalize(features.float(), dim=-1)


def _own(model: dict[str, Any], path: Path | None, described: str) -> ClipSource:
    _require(model, described)
    context = model["text_cfg"].get("context_length", 77)
    return ClipSource(model, _openai_preprocessing(), path, lambda: _simple_tokenizer(context), described)


def _from_name(configuration: BackboneConfiguration, path: Path | None) -> ClipSource:
    import open_clip

    name, tag = configuration.name, configuration.pretrained
    model = open_clip.get_model_config(name)
    if model is None:
        raise InputError(f"open_clip knows no model {name!r}; it lists those it knows with open_clip.list_models()")
    preprocessing, weights = _openai_preprocessing() if path is None else _preprocessing_of_file(name, path), path
    if path is not None and tag:
        raise InputError(f"{name} has both a tag ({tag}) and a file ({path}), which one?")
    if path is None and tag != "random":
        published = open_clip.get_pretrained_cfg(name, tag)
        if not published:
            known = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
            raise InputError(f"open_clip knows no weights {tag!r} of {name}; known are {known}; else give a path")
        weights = _download(lambda: open_clip.download_pretrained(published), f"{name} {tag}")
        preprocessing.update({key: published[key] for key in ("mean", "std") if key in published})
        if published.get("quick_gelu", tag == "openai"):
            model["quick_gelu"] = True
    elif path is not None and is_torchscript(path):
        model["quick_gelu"] = True  # only OpenAI published such archives, and trained with QuickGELU
    return ClipSource(model, preprocessing, weights, lambda: open_clip.get_tokenizer(name), configuration.described)


def _from_hub(name: str) -> ClipSource:
    import open_clip
    from open_clip.pretrained import download_pretrained_from_hf

    repository = name.removeprefix(_HUB)
    config = _download(lambda: download_pretrained_from_hf(repository, filename="open_clip_config.json"), name)
    weights = _download(lambda: download_pretrained_from_hf(repository), name)
    model, preprocessing = _read_config(config)
    return ClipSource(model, preprocessing, weights, lambda: open_clip.get_tokenizer(name), name)


def _from_folder(folder: Path) -> ClipSource:
    if not folder.is_dir():
        raise BundleError(f"{folder} is no folder with open_clip_config.json; for a weights file give its name too")
    model, preprocessing = _read_config(folder / "open_clip_config.json")
    if "hf_model_name" in model["text_cfg"] and _describes_a_text_tower(folder / "config.json"):
        model["text_cfg"] = {**model["text_cfg"], "hf_model_name": str(folder)}

    def tokenizer() -> Callable[[Sequence[str]], Tensor]:
        import open_clip.tokenizer

        text = model["text_cfg"]
        context = text.get("context_length", 77)
        if not text.get("hf_tokenizer_name"):
            return _simple_tokenizer(context)
        local = folder if list(folder.glob("tokenizer*")) else text["hf_tokenizer_name"]
        return open_clip.tokenizer.HFTokenizer(
            str(local), context_length=context, **(text.get("tokenizer_kwargs") or {})
        )

    return ClipSource(model, preprocessing, weights_in_folder(folder), tokenizer, str(folder))


def _read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    model = config.get("model_cfg", config)
    _require(model, str(path))
    return model, {**_openai_preprocessing(), **config.get("preprocess_cfg", {})}


def _preprocessing_of_file(name: str, path: Path) -> dict[str, Any]:
    """How inputs of weights from a file are normalised: as the configuration beside it says, else open_clip's table.

    Where the table has several ways for one architecture, it is the most frequent one, and the log says so.
    """
    import open_clip

    beside = path.with_name("open_clip_config.json")
    if beside.is_file():
        return _read_config(beside)[1]
    published = (open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name))
    ways = Counter((tuple(known["mean"]), tuple(known["std"])) for known in published if {"mean", "std"} <= set(known))
    if not ways:
        return _openai_preprocessing()
    (mean, std), _ = ways.most_common(1)[0]
    if len(ways) > 1:
        _log.warning("%s: taken to be trained on inputs of mean %s; other weights of %s were trained on others. An "
                     "open_clip_config.json beside the file decides", path, mean, name)  # fmt: skip
    return {"mean": mean, "std": std}


def _describes_a_text_tower(path: Path) -> bool:
    """Whether a file is the configuration of a language model, as transformers writes it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "model_type" in found and "text_config" not in found


def _no_text_tower(described: str, text: Mapping[str, Any], error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"the text tower of {described} needs the package transformers: pip install 'pass-gadgetron[clip]'"
    name = text.get("hf_model_name")
    return (
        f"the text tower of {described} is {name!r} of a hub that cannot be reached: put the config.json of {name} "
        f"into the folder, or make the entry hf_model_name of its open_clip_config.json a local folder"
    )


def _require(model: Mapping[str, Any], described: str) -> None:
    if missing := [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in model]:
        raise BundleError(f"the model configuration in {described} lacks {', '.join(missing)}")


def _download(fetch: Callable[[], str], described: str) -> Path:
    try:
        return Path(fetch())
    except Exception as error:  # whatever the network and the hub raise, the user gets one sentence
        raise BundleError(f"the weights of {described} could not be downloaded: {error}") from error


def _simple_tokenizer(context_length: int) -> Callable[[Sequence[str]], Tensor]:
    import open_clip

    return open_clip.SimpleTokenizer(context_length=context_length)


def _openai_preprocessing() -> dict[str, Any]:
    """open_clip's ``OPENAI_DATASET_MEAN`` and ``OPENAI_DATASET_STD``, without the time that its import takes."""
    return {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
