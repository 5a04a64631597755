"""Bundles on disk: what is saved comes back, and nothing else ever does."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pass_recon import load_bundle
from pass_recon.bundles import bundle_folder, read_card, save_bundle, shipped_bundles
from pass_recon.types import BundleError
from tests.bundles.conftest import small_bundle


def _rewrite_card(folder: Path, **changes: Any) -> None:
    path = folder / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _replace_file(folder: Path, name: str, content: bytes) -> None:
    """Change a file and its hash, as somebody would who knows the format."""
    (folder / name).write_bytes(content)
    files = json.loads((folder / "card.json").read_text())["files"]
    files[name]["sha256"] = hashlib.sha256(content).hexdigest()
    _rewrite_card(folder, files=files)


def _replace_tensors(folder: Path, name: str, **changes: torch.Tensor | None) -> None:
    tensors = {**safetensors.torch.load_file(folder / name), **changes}
    kept = {key: value for key, value in tensors.items() if value is not None}
    _replace_file(folder, name, safetensors.torch.save(kept))


def _states_agree(one: torch.nn.Module, other: torch.nn.Module, tolerance: float = 0.0) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=tolerance, atol=tolerance, msg=name)


def test_what_is_saved_comes_back(bundle, saved):
    loaded = load_bundle(saved)
    for field in ("name", "anatomy", "contrast", "acceleration", "acs_fraction"):
        assert getattr(loaded, field) == getattr(bundle, field)
    assert loaded.reconstructor.config == bundle.reconstructor.config
    assert loaded.sampler.config == bundle.sampler.config
    _states_agree(loaded.reconstructor, bundle.reconstructor)
    _states_agree(loaded.sampler, bundle.sampler)
    assert loaded.netad is None
    assert loaded.card["metrics"] == {"psnr": [40.0, 39.0, 41.0]}
    assert loaded.card["licence"] == "MIT"
    assert loaded.card["software"]["torch"] == torch.__version__


def test_a_loaded_bundle_keeps_no_activations(saved):
    loaded = load_bundle(str(saved))
    assert not loaded.reconstructor.training
    image = torch.randn(1, 12, 20, dtype=torch.complex64)
    maps = torch.full((1, 2, 12, 20), 0.5**0.5, dtype=torch.complex64)
    result, _ = loaded.reconstructor(maps * image[:, None], maps, torch.ones(20, dtype=torch.bool))
    assert not result.requires_grad
    assert not loaded.sampler(image).requires_grad


def test_saving_what_was_loaded_changes_nothing(saved, tmp_path):
    again = save_bundle(load_bundle(saved), tmp_path / "again")
    for path in saved.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_a_detector_travels_with_the_bundle(tiny_netad, tmp_path):
    folder = save_bundle(small_bundle(tiny_netad), tmp_path / "whole")
    loaded = load_bundle(folder)
    image = torch.rand(1, 40, 44)
    torch.testing.assert_close(loaded.netad.anomaly_map(image), tiny_netad.anomaly_map(image))
    assert {path.name for path in folder.iterdir()} == {
        "card.json",
        "reconstructor.safetensors",
        "sampler.safetensors",
        "netad.safetensors",
        "backbone.safetensors",
    }


def test_half_precision_halves_the_size_and_keeps_the_sampler(tiny_netad, tmp_path):
    bundle = small_bundle(tiny_netad)
    whole = save_bundle(bundle, tmp_path / "whole")
    half = save_bundle(bundle, tmp_path / "half", half=True)
    for name in ("reconstructor.safetensors", "backbone.safetensors"):
        assert (half / name).stat().st_size < 0.65 * (whole / name).stat().st_size
    loaded = load_bundle(half)
    assert next(loaded.reconstructor.parameters()).dtype == torch.float32
    _states_agree(loaded.sampler, bundle.sampler)
    _states_agree(loaded.reconstructor, bundle.reconstructor, 1e-3)


def test_bundles_can_share_files(tiny_netad, tmp_path):
    first, second = small_bundle(tiny_netad), small_bundle(tiny_netad)
    for name, bundle in (("one", first), ("two", second)):
        save_bundle(bundle, tmp_path / name, shared=("backbone",))
    common = list((tmp_path / "common").iterdir())
    assert [path.name.split("-")[0] for path in common] == ["backbone"]
    _states_agree(load_bundle(tmp_path / "two").reconstructor, second.reconstructor)
    assert load_bundle(tmp_path / "one").netad is not None
    common[0].unlink()
    with pytest.raises(BundleError, match=r"backbone-\w+\.safetensors is missing"):
        load_bundle(tmp_path / "one")


def test_a_bundle_moves_between_devices_as_a_whole(bundle):
    assert bundle.to("meta") is bundle
    parameters = [*bundle.reconstructor.parameters(), *bundle.sampler.parameters()]
    assert {parameter.device.type for parameter in parameters} == {"meta"}


# Refusals: each names the file or the key, and why.


@pytest.mark.parametrize("name", ["reconstructor.safetensors", "sampler.safetensors"])
def test_a_changed_byte_is_found(saved, name):
    content = bytearray((saved / name).read_bytes())
    content[-1] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} is not the file that card.json describes"):
        load_bundle(saved)


def test_a_missing_file_is_named(saved):
    (saved / "sampler.safetensors").unlink()
    with pytest.raises(BundleError, match=r"sampler\.safetensors is missing"):
        load_bundle(saved)


@pytest.mark.parametrize("name", ["more.safetensors", "weights.pth", "model.PKL"])
def test_an_unlisted_file_is_named(saved, name):
    (saved / name).write_bytes(b"")
    with pytest.raises(BundleError, match=f"does not list: {name}"):
        load_bundle(saved)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"denoiser_parameter": None}, "missing denoiser_parameter"),
        ({"extra": torch.zeros(2)}, "unexpected extra"),
        ({"denoiser_parameter": torch.zeros(3)}, r"denoiser_parameter \(3,\) instead of \(\)"),
        ({"denoiser_parameter": torch.tensor(float("nan"))}, "denoiser_parameter holds NaN"),
        ({"denoiser_parameter": torch.tensor(1)}, "denoiser_parameter is torch.int64"),
    ],
)
def test_wrong_weights_are_named(saved, changes, words):
    _replace_tensors(saved, "reconstructor.safetensors", **changes)
    with pytest.raises(BundleError, match=words):
        load_bundle(saved)


def test_a_pickle_in_disguise_is_not_executed(saved, tmp_path):
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    _replace_file(saved, "sampler.safetensors", pickle.dumps(Bomb()))
    with pytest.raises(BundleError, match=r"sampler\.safetensors is no safetensors file"):
        load_bundle(saved)
    assert not (tmp_path / "executed").exists()


def test_a_pickle_given_as_a_bundle_is_refused(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(BundleError, match=r"is a file.*[Pp]ickles are never loaded.*import-published"):
        load_bundle(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [("../reconstructor.safetensors", "lies outside the bundle"), ("reconstructor.pt", "no safetensors file")],
)
def test_a_card_names_only_its_own_safetensors(saved, name, words):
    files = read_card(saved)["files"]
    _rewrite_card(saved, files={**files, name: files["reconstructor.safetensors"]})
    with pytest.raises(BundleError, match=words):
        load_bundle(saved)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 2}, "format version 2; this version of pass_recon reads 1"),
        ({"format": "zip"}, "not the card of a bundle"),
        ({"colour": "blue"}, "unknown colour"),
        ({"anatomy": 3}, "anatomy must be str"),
        ({"acceleration": 0.5}, "acceleration must be at least 1"),
        ({"files": {"a.safetensors": {"sha256": "0"}}}, "must hold exactly component, sha256, bytes, shared"),
        ({"configuration": {}}, "configuration must have exactly"),
        (
            {"configuration": {"reconstructor": {"steps": 3}, "sampler": {}, "netad": None}},
            "no setting steps, only",
        ),
        ({"configuration": {"reconstructor": {}, "sampler": [], "netad": None}}, "SamplerConfig must be a table"),
    ],
)
def test_a_wrong_card_is_explained(saved, changes, words):
    _rewrite_card(saved, **changes)
    with pytest.raises(BundleError, match=words):
        load_bundle(saved)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": NaN}', "\N{SNOWMAN}"])
def test_a_card_that_is_no_card(saved, text):
    (saved / "card.json").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=r"card\.json"):
        load_bundle(saved)


def test_a_missing_name_in_the_card_is_named(saved):
    card = read_card(saved)
    del card["contrast"]
    (saved / "card.json").write_text(json.dumps(card))
    with pytest.raises(BundleError, match="missing contrast"):
        load_bundle(saved)


def test_what_does_not_exist_is_said_with_what_does(tmp_path):
    with pytest.raises(BundleError, match=f"no bundle 'brain-t9-4x': shipped are {', '.join(shipped_bundles())}"):
        load_bundle("brain-t9-4x")
    with pytest.raises(BundleError, match=r"has no card\.json"):
        load_bundle(tmp_path)


def test_shipped_bundles_are_found_by_name(saved, monkeypatch):
    monkeypatch.setattr("pass_recon.bundles.store.SHIPPED", saved.parent)
    assert shipped_bundles() == ("tiny",)
    assert bundle_folder("tiny") == saved
    assert load_bundle("tiny").name == "tiny"


# Saving.


def test_a_bundle_is_replaced_only_on_request(bundle, saved):
    with pytest.raises(BundleError, match="already holds a bundle"):
        save_bundle(bundle, saved)
    other = dataclasses.replace(small_bundle(), name="other")
    save_bundle(other, saved, overwrite=True)
    assert load_bundle(saved).name == "other"
    assert [path.name for path in saved.parent.iterdir()] == ["tiny"]


def test_foreign_folders_are_left_alone(bundle, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="is no bundle; it is left alone"):
        save_bundle(bundle, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_empty_folder_is_as_good_as_none(bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    assert load_bundle(save_bundle(bundle, tmp_path / "empty")).name == "tiny"


def test_a_failure_leaves_the_old_bundle_and_no_rubbish(saved, monkeypatch):
    def full(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            save_bundle(small_bundle(), saved, overwrite=True)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["tiny"]


def test_metrics_that_are_no_numbers_are_not_written(bundle, tmp_path):
    bundle.card["metrics"] = {"psnr": float("nan")}
    with pytest.raises(BundleError, match="cannot be written as JSON"):
        save_bundle(bundle, tmp_path / "bad")
    assert not list(tmp_path.iterdir())


def test_a_copied_bundle_is_the_same_bundle(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "elsewhere" / "copy")
    assert load_bundle(tmp_path / "elsewhere" / "copy").name == "tiny"
