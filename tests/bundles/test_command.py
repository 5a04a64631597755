"""`pass-recon bundle`: what it prints, and its exit codes."""

from __future__ import annotations

import json

import pytest
import torch

from pass_recon.bundles import load_bundle
from pass_recon_cli.main import main


def test_show_and_its_json(saved, capsys):
    assert main(["bundle", "show", str(saved)]) == 0
    shown = capsys.readouterr().out
    assert "tiny: brain t1, 4×, ACS 0.08" in shown
    assert "licence        MIT" in shown
    assert main(["bundle", "show", "--json", str(saved)]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tiny"


def test_verify_reports_every_bundle(saved, capsys):
    assert main(["bundle", "verify", str(saved)]) == 0
    assert "sound; 2 files" in capsys.readouterr().out
    (saved / "sampler.safetensors").unlink()
    assert main(["bundle", "verify", str(saved), str(saved.parent)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "sampler.safetensors is missing" in errors[0]
    assert "has no card.json" in errors[1]


def test_list_shows_what_ships(saved, capsys, monkeypatch):
    monkeypatch.setattr("pass_recon.bundles.store.SHIPPED", saved.parent)
    assert main(["bundle", "list"]) == 0
    assert capsys.readouterr().out.split() == ["tiny", "brain", "t1,", "4×"]


def test_list_of_nothing_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pass_recon.bundles.store.SHIPPED", tmp_path)
    assert main(["bundle", "list"]) == 0
    assert "no bundle came with this package" in capsys.readouterr().out


def test_errors_are_one_sentence(tmp_path, capsys):
    assert main(["bundle", "show", str(tmp_path / "none")]) == 1
    assert "there is no bundle" in capsys.readouterr().err
    weights = tmp_path / "weights.pth"
    torch.save({"lamT1": torch.tensor(0.1)}, weights)
    arguments = ["bundle", "import-published", str(weights), "--population", str(weights), "-o", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "holds no population mask" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_action_is_needed(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["bundle"])
    assert "ACTION" in capsys.readouterr().err


def test_import_published(shared_data, tmp_path, capsys):
    published = shared_data / "published_pass"
    arguments = ["bundle", "import-published", str(published / "acc_line_4.pth"), "-o", str(tmp_path / "published")]
    arguments += ["--population", str(published / "acc_line_4_pre.pth")]
    assert main(arguments) == 0
    assert main(arguments) == 1
    assert "already holds a bundle" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert main(["bundle", "verify", str(tmp_path / "published")]) == 0
    assert load_bundle(tmp_path / "published").netad is None


def test_json(tmp_path, capsys):
    assert main(["bundle", "list", "--json"]) == 0
    names = [one["name"] for one in json.loads(capsys.readouterr().out)]
    assert "brain-t1-4x" in names
    assert main(["bundle", "verify", "brain-t1-4x", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [one["sound"] for one in found] == [True, False]
    assert "card.json" in found[1]["fault"]
