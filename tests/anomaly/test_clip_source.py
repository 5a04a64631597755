"""Weights come from the forms in which people have them, and wrong ones are refused with the reason."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.push_to_hf_hub import save_config_for_hf
from safetensors.torch import save_file

from pass_recon.anomaly import Backbone, BackboneConfiguration
from pass_recon.anomaly.clip_source import encode_texts, load_clip, resolve
from pass_recon.types import BundleError, InputError

from .conftest import TINY, TINY_TIMM


@pytest.fixture(scope="module")
def clip() -> Any:
    """open_clip's own model with random weights, in the class that OpenAI's models have."""
    torch.manual_seed(1)
    model = open_clip.CLIP(**TINY).eval()
    with torch.no_grad():
        model.positional_embedding.normal_()
    return model


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny configuration, known to open_clip by a name as its own are."""
    from open_clip import factory

    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-tiny", TINY)
    return "ViT-tiny"


def same_vision(backbone: Backbone, clip: Any) -> bool:
    expected = clip.visual.state_dict()
    return all(torch.equal(value, expected[key]) for key, value in backbone.visual.state_dict().items())


def test_checkpoint_file_by_name(clip: Any, named: str, tmp_path: Path) -> None:
    torch.save(clip.state_dict(), tmp_path / "weights.pt")
    backbone = Backbone.load(BackboneConfiguration(name=named, path=str(tmp_path / "weights.pt")))
    assert same_vision(backbone, clip)
    assert not backbone.configuration.travels


def test_safetensors_file_with_a_configuration_of_our_own(clip: Any, tmp_path: Path) -> None:
    save_file(clip.state_dict(), tmp_path / "weights.safetensors")
    configuration = BackboneConfiguration(model=TINY, path=str(tmp_path / "weights.safetensors"))
    assert same_vision(Backbone.load(configuration), clip)
    assert not configuration.travels


def test_file_of_the_vision_tower_alone(clip: Any, tmp_path: Path) -> None:
    vision = {key: value for key, value in clip.state_dict().items() if key.startswith("visual.")}
    save_file(vision, tmp_path / "vision.safetensors")
    assert same_vision(
        Backbone.load(BackboneConfiguration(model=TINY, path=str(tmp_path / "vision.safetensors"))), clip
    )


def test_checkpoint_of_the_training_script(clip: Any, named: str, tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in clip.state_dict().items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": state}, tmp_path / "epoch_3.pt")
    assert same_vision(Backbone.load(BackboneConfiguration(name=named, path=str(tmp_path / "epoch_3.pt"))), clip)


def test_torchscript_archive_as_openai_published(clip: Any, named: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens = torch.zeros(1, 32, dtype=torch.int64)
        traced = torch.jit.trace(clip, (torch.rand(1, 3, 48, 48), tokens), check_trace=False)
        traced.save(str(tmp_path / "archive.pt"))
    configuration = BackboneConfiguration(name=named, path=str(tmp_path / "archive.pt"))
    backbone = Backbone.load(configuration)
    assert same_vision(backbone, clip)
    assert type(backbone.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


@pytest.mark.parametrize("safe", [True, False])
def test_folder_in_the_form_of_the_hub(clip: Any, tmp_path: Path, safe: bool) -> None:
    open_clip.set_model_preprocess_cfg(clip, {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)})
    save_config_for_hf(clip, tmp_path / "open_clip_config.json", TINY)
    if safe:
        save_file(clip.state_dict(), tmp_path / "open_clip_model.safetensors")
    else:
        torch.save(clip.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
        # The same weights under another library's names, as many such repositories hold.
        save_file({"vision_model.x": torch.zeros(1)}, tmp_path / "model.safetensors")
    backbone = Backbone.load(BackboneConfiguration(path=str(tmp_path)))
    assert same_vision(backbone, clip)
    assert backbone.configuration.mean == (0.1, 0.2, 0.3)
    torch.testing.assert_close(backbone.std.flatten(), torch.tensor([0.4, 0.5, 0.6]))


def test_folder_of_a_timm_clip_with_a_text_tower_that_is_not_installed(tmp_path: Path) -> None:
    """BiomedCLIP's form: at the scanner neither its text tower nor the package behind that is needed."""
    clip = open_clip.CustomTextCLIP(**{key: value for key, value in TINY_TIMM.items() if key != "custom_text"}).eval()
    text = {"hf_model_name": "no/such-model", "hf_tokenizer_name": "no/such-model", "context_length": 256}
    config = {"model_cfg": {**TINY_TIMM, "text_cfg": text}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    torch.save(clip.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    backbone = Backbone.load(BackboneConfiguration(path=str(tmp_path), image_size=(192, 160)))
    trunk = backbone.visual.trunk.state_dict()
    expected = clip.visual.trunk.state_dict()
    assert torch.equal(trunk["blocks.0.attn.qkv.weight"], expected["blocks.0.attn.qkv.weight"])
    assert torch.equal(trunk["pos_embed"][:, 0], expected["pos_embed"][:, 0])
    assert trunk["pos_embed"].shape == (1, 12 * 10 + 1, 64)


def test_tag_is_downloaded_with_its_settings(
    clip: Any, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(clip.state_dict(), tmp_path / "weights.pt")
    published = {"url": "https://example.org/weights.pt", "mean": (0.5, 0.5, 0.5), "quick_gelu": True}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: published if tag == "own" else {})
    monkeypatch.setattr(open_clip, "download_pretrained", lambda cfg: str(tmp_path / "weights.pt"))
    source = resolve(BackboneConfiguration(name=named, pretrained="own"))
    assert source.weights == tmp_path / "weights.pt"
    assert source.model["quick_gelu"]
    assert source.preprocessing["mean"] == (0.5, 0.5, 0.5)
    with pytest.raises(InputError, match="knows no weights 'laion' of ViT-tiny"):
        resolve(BackboneConfiguration(name=named, pretrained="laion"))


def test_openai_tag_is_known_and_uses_quick_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "download_pretrained", lambda cfg: "nowhere.safetensors")
    source = resolve(BackboneConfiguration(name="ViT-L-14-336", pretrained="openai"))
    assert source.model["quick_gelu"]
    assert source.model["vision_cfg"]["layers"] == 24
    assert source.preprocessing["mean"] == open_clip.OPENAI_DATASET_MEAN


def test_hub_repository(clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_config_for_hf(clip, tmp_path / "open_clip_config.json", TINY)
    save_file(clip.state_dict(), tmp_path / "weights.safetensors")
    asked: list[str] = []

    def fetch(repository: str, filename: str = "weights.safetensors") -> str:
        asked.append(repository)
        return str(tmp_path / filename)

    monkeypatch.setattr("open_clip.pretrained.download_pretrained_from_hf", fetch)
    assert same_vision(Backbone.load(BackboneConfiguration(name="hf-hub:group/clip")), clip)
    assert asked == ["group/clip", "group/clip"]


def test_failed_download_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(cfg: dict[str, Any]) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    with pytest.raises(BundleError, match="weights of ViT-B-16 openai could not be downloaded: no route"):
        resolve(BackboneConfiguration(name="ViT-B-16", pretrained="openai"))


def test_texts_are_encoded_as_open_clip_does(clip: Any, named: str, tmp_path: Path) -> None:
    torch.save(clip.state_dict(), tmp_path / "weights.pt")
    loaded, tokenizer = load_clip(BackboneConfiguration(name=named, path=str(tmp_path / "weights.pt")))
    texts = ["a normal brain", "a knee with a meniscus tear"]
    with torch.no_grad():
        expected = clip.encode_text(open_clip.SimpleTokenizer(context_length=32)(texts), normalize=True)
    torch.testing.assert_close(encode_texts(loaded, tokenizer, texts), expected)


def test_missing_unexpected_and_misshapen_keys_are_named(clip: Any, tmp_path: Path) -> None:
    state = clip.state_dict()
    del state["visual.ln_post.bias"]
    state["visual.head.weight"] = torch.zeros(1)
    state["visual.class_embedding"] = torch.zeros(7)
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(BundleError) as caught:
        Backbone.load(BackboneConfiguration(model=TINY, path=str(tmp_path / "weights.safetensors")))
    message = str(caught.value)
    assert "missing ln_post.bias" in message
    assert "unexpected head.weight" in message
    assert "class_embedding (7,) instead of (32,)" in message


def test_weights_of_another_model_are_refused(named: str, tmp_path: Path) -> None:
    save_file({"encoder.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(BundleError, match=r"missing class_embedding, .* and \d+ more"):
        Backbone.load(BackboneConfiguration(name=named, path=str(tmp_path / "other.safetensors")))


class _Code:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, (str(Path(os.environ["PYTEST_MARK_FOLDER"])),))


def test_pickle_with_code_is_refused_and_not_run(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "executed"
    monkeypatch.setenv("PYTEST_MARK_FOLDER", str(mark))
    torch.save({"visual.conv1.weight": _Code()}, tmp_path / "weights.pt")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps({"visual.conv1.weight": _Code()}, protocol=2))
    for name in ("weights.pt", "plain.bin"):
        with pytest.raises(BundleError, match="refused: it is a pickle that holds more than tensors"):
            Backbone.load(BackboneConfiguration(name=named, path=str(tmp_path / name)))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "state_dict": {"visual.proj": 5}}, "entries that are no tensors: visual.proj"),
        ([torch.zeros(1)], "no state dict but a list"),
        ({}, "no state dict but a dict"),
    ],
)
def test_files_without_a_state_dict(content: Any, message: str, named: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(BundleError, match=message):
        Backbone.load(BackboneConfiguration(name=named, path=str(tmp_path / "weights.pt")))


def test_truncated_file(clip: Any, named: str, tmp_path: Path) -> None:
    save_file(clip.state_dict(), tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:5000])
    torch.save(clip.state_dict(), tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:5000])
    for name in ("cut.safetensors", "cut.pt"):
        with pytest.raises(BundleError, match=r"cannot be read as weights|refused"):
            Backbone.load(BackboneConfiguration(name=named, path=str(tmp_path / name)))


def test_incomplete_folders(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"open_clip_config.json cannot be read"):
        resolve(BackboneConfiguration(path=str(tmp_path)))
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 3}}))
    with pytest.raises(BundleError, match="lacks vision_cfg, text_cfg"):
        resolve(BackboneConfiguration(path=str(tmp_path)))
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    with pytest.raises(BundleError, match="holds no weights file"):
        resolve(BackboneConfiguration(path=str(tmp_path)))
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).touch()
    with pytest.raises(BundleError, match=r"several weights files, which one\? a.pt, b.pt"):
        resolve(BackboneConfiguration(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        (BackboneConfiguration(), "needs a name, a path or a model configuration"),
        (BackboneConfiguration(name="ViT-X-9"), "knows no model 'ViT-X-9'"),
        (BackboneConfiguration(name="ViT-B-16"), "knows no weights '' of ViT-B-16; known are openai"),
        (BackboneConfiguration(name="ViT-B-16", pretrained="openai", path="x.pt"), "both a tag"),
        (BackboneConfiguration(name="ViT-B-16", model=TINY), "not both"),
        (BackboneConfiguration(path="weights.pt"), "for a weights file give its name too"),
        (BackboneConfiguration(name="ViT-B-16", path="nowhere.pt"), "no weights file at nowhere.pt"),
        (BackboneConfiguration(model={**TINY, "vision_cfg": {"depth": 3}}), "open_clip cannot build.*depth"),
    ],
)
def test_contradictions_are_refused(configuration: BackboneConfiguration, message: str) -> None:
    with pytest.raises((InputError, BundleError), match=message):
        Backbone.load(configuration)


def test_configuration_survives_json() -> None:
    configuration = BackboneConfiguration(model=TINY, image_size=(64, 32), mean=(0.5, 0.5, 0.5), fingerprint="ab")
    restored = BackboneConfiguration.from_dict(json.loads(json.dumps(configuration.to_dict())))
    assert restored == configuration
    assert BackboneConfiguration(name="ViT-B-16", pretrained="openai").to_dict() == {
        "name": "ViT-B-16",
        "pretrained": "openai",
    }
    with pytest.raises(BundleError, match="no setting tag, only fingerprint"):
        BackboneConfiguration.from_dict({"name": "ViT-B-16", "tag": "openai"})


def test_a_file_is_normalised_as_its_architecture_was_published(tmp_path: Path) -> None:
    """SigLIP's inputs have a mean of 0.5; OpenAI's would shift every image, without a word."""
    file = tmp_path / "open_clip_pytorch_model.bin"
    file.touch()
    found = resolve(BackboneConfiguration(name="ViT-B-16-SigLIP", path=str(file))).preprocessing
    assert (tuple(found["mean"]), tuple(found["std"])) == ((0.5,) * 3, (0.5,) * 3)
    found = resolve(BackboneConfiguration(name="ViT-B-32", path=str(file))).preprocessing
    assert tuple(found["mean"]) == open_clip.OPENAI_DATASET_MEAN


def test_the_configuration_beside_a_file_decides(named: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.touch()
    config = {"model_cfg": TINY, "preprocess_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert resolve(BackboneConfiguration(name=named, path=str(file))).preprocessing["mean"] == [0.1] * 3


def test_an_architecture_published_in_two_ways_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mine.pt").touch()
    found = resolve(BackboneConfiguration(name="ViT-L-14", path=str(tmp_path / "mine.pt"))).preprocessing
    assert tuple(found["mean"]) == open_clip.OPENAI_DATASET_MEAN
    assert "open_clip_config.json" in caplog.text


def hub_folder(folder: Path, *, with_text_configuration: bool) -> Path:
    """A folder as downloaded from the hub, whose text tower is a BERT of another repository."""
    text = {"hf_model_name": "nobody/bert", "hf_tokenizer_name": "nobody/bert", "context_length": 8,
            "hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}  # fmt: skip
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 4, "head_width": 16}
    config = {"model_cfg": {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.save({"visual.nothing": torch.zeros(1)}, folder / "open_clip_pytorch_model.bin")
    if with_text_configuration:
        bert = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                "intermediate_size": 64, "vocab_size": 30}  # fmt: skip
        (folder / "config.json").write_text(json.dumps(bert))
    return folder


def test_a_downloaded_folder_needs_no_hub(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    folder = hub_folder(tmp_path, with_text_configuration=True)
    with pytest.raises(BundleError, match="do not fit the model"):  # so it came as far as the weights
        load_clip(BackboneConfiguration(path=str(folder)))


def test_a_text_tower_that_is_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", _no_hub)
    folder = hub_folder(tmp_path, with_text_configuration=False)
    with pytest.raises(BundleError, match="hf_model_name"):
        load_clip(BackboneConfiguration(path=str(folder)))


def _no_hub(*_arguments: object, **_options: object) -> None:
    raise OSError("no route to the hub")
