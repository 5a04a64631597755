"""Files that are there whole or not at all."""

from __future__ import annotations

import json

import pytest

from pass_recon.common.files import write_json, written_aside


def test_a_file_takes_its_name_at_the_end(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("before")
    with written_aside(target) as aside:
        aside.write_text("after")
        assert target.read_text() == "before"
    assert target.read_text() == "after"
    assert list(tmp_path.iterdir()) == [target]


def test_what_fails_leaves_the_old_file_and_no_trace(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("before")

    def cut_off() -> None:
        with written_aside(target) as aside:
            aside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_off()
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_json_is_for_people_too(tmp_path):
    write_json(tmp_path / "new" / "λ.json", {"λ": [1.5]})
    content = (tmp_path / "new" / "λ.json").read_text(encoding="utf-8")
    assert json.loads(content) == {"λ": [1.5]}
    assert "λ" in content
