"""Files appear under their names only when they are complete."""

from __future__ import annotations

import json

import pytest

from pass_recon.common.files import readable_json, write_json, written_aside


def test_a_file_takes_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "file.txt"
    with written_aside(path) as aside:
        aside.write_text("half")
        assert not path.exists()
        assert aside.parent == path.parent
    assert path.read_text() == "half"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), written_aside(path) as aside:
        aside.write_text("new \udc80", encoding="utf-8")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_for_everybody_to_read(tmp_path):
    write_json(tmp_path / "new" / "values.json", {"σ": 0.5})
    assert "σ" in (tmp_path / "new" / "values.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "new" / "values.json").read_text(encoding="utf-8")) == {"σ": 0.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "new" / "values.json", float("nan"))
    assert json.loads((tmp_path / "new" / "values.json").read_text(encoding="utf-8")) == {"σ": 0.5}


def test_what_fits_stands_on_one_line():
    values = {
        "short": [1, 2, {"a": None}],
        "words": ["word"] * 20,
        "long": {"first": "x" * 30, "second": [0.5] * 12},
        "empty": {},
    }
    text = readable_json(values, width=50)
    assert json.loads(text) == values
    assert '  "short": [1, 2, {"a": null}],\n' in text
    assert max(len(line) for line in text.splitlines()) <= 50
