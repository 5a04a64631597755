"""The Open Recon package: its label is what a console takes, and what it sends is what the server takes."""

from __future__ import annotations

import base64
import copy
import json
import subprocess

import pytest

import pass_recon_cli.main as command_line
from gadgets.openrecon import LABEL, check, metadata
from gadgets.protocol.parameters import known_and_unknown, parameters_in
from gadgets.server.configuration import parse, takes_properties
from pass_recon.types import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("openrecon") / "new" / "folder"
    assert command_line.main(["openrecon", "-o", str(out), "--vendor", "Site1"]) == 0
    return out


def label_in(dockerfile: str) -> dict:
    (line,) = [line for line in dockerfile.splitlines() if line.startswith("LABEL")]
    name, _, value = line.removeprefix("LABEL ").partition("=")
    assert name.strip('"') == LABEL
    return json.loads(base64.b64decode(value.strip('"')))


def test_the_label_in_the_dockerfile_follows_the_rules(folder):
    told = label_in((folder / "Dockerfile").read_text())
    check(told)
    assert told == json.loads((folder / "label.json").read_text())
    assert len(told["parameters"]) <= 14
    assert sum(one["id"] == "config" for one in told["parameters"]) == 1
    assert told["reconstruction"]["port"] == 9002
    assert "9002" in (folder / "start.sh").read_text()


def test_what_the_console_sends_by_default_is_what_the_server_takes(folder):
    told = json.loads((folder / "label.json").read_text())
    defaults = {one["id"]: one["default"] for one in told["parameters"]}
    as_strings = {name: str(value) for name, value in defaults.items()}
    for sent in (defaults, as_strings):
        parameters = parameters_in(json.dumps({"version": "1.1.0", "parameters": sent}))
        known, unknown = known_and_unknown(parameters)
        assert unknown == []
        assert {"bundle", "acceleration", "mode", "anomaly"} <= set(known)
    choices = [one for one in told["parameters"] if one["type"] == "choice" and one["id"] != "config"]
    assert choices
    for one in choices:
        for value in one["values"]:
            known_and_unknown({one["id"]: value["id"]})  # none is refused


def test_the_configuration_is_there_under_the_name_that_the_console_sends(folder):
    told = json.loads((folder / "label.json").read_text())
    (config,) = [one for one in told["parameters"] if one["id"] == "config"]
    assert takes_properties(parse((folder / f"{config['default']}.xml").read_bytes()))


def test_scripts_are_scripts_and_the_readme_is_a_pdf(folder):
    for name in ("start.sh", "build.sh"):
        subprocess.run(["sh", "-n", str(folder / name)], check=True, timeout=10)
        assert (folder / name).stat().st_mode & 0o100
    (pdf,) = folder.glob("OpenRecon_Site1_PASS_V*.pdf")
    assert pdf.read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made: made["parameters"].extend(copy.deepcopy(made["parameters"]) * 2), "there may be 14"),
        (lambda made: made["parameters"][1].update(id="plan_images"), "letters and digits"),
        (lambda made: made["parameters"].pop(0), "exactly one choice named 'config'"),
        (lambda made: made["general"].update(version="0.1"), "X.Y.Z"),
        (lambda made: made["reconstruction"]["transfer_protocol"].update(version="1.4.2"), "1.4.1"),
        (lambda made: made["parameters"][1].update(default=3), "is no string"),
        (lambda made: made["reconstruction"].update(emitter="both"), "emitter"),
    ],
)
def test_what_a_console_would_refuse_is_refused_here(change, said):
    made = metadata("1.2.3", "Site1", 0, 8192)
    change(made)
    with pytest.raises(InputError, match=said):
        check(made)


def test_a_vendor_with_blanks_is_said(tmp_path, capsys):
    assert command_line.main(["openrecon", "-o", str(tmp_path / "x"), "--vendor", "My Hospital"]) == 1
    assert "letters and digits" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
