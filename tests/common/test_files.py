"""Files appear under their names only when they are complete."""

from __future__ import annotations

import errno
import json
import re
import signal
import subprocess
import sys
import threading

import pytest

from pass_recon.common.files import locked, readable_json, remove_abandoned, write_json, written_aside
from pass_recon.types import InputError


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


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    path = tmp_path / "file.txt"
    script = (
        "import os, signal, sys\nfrom pass_recon.common.files import written_aside\n"
        "with written_aside(sys.argv[1]):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    with written_aside(path) as aside:
        remove_abandoned(path.parent, path.name)
        assert list(tmp_path.iterdir()) == [aside]
        remove_abandoned(path.parent)
        assert list(tmp_path.iterdir()) == [aside]


def test_a_file_is_changed_by_one_at_a_time(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("0")

    def count() -> None:
        for _ in range(20):
            with locked(path):
                path.write_text(str(int(path.read_text()) + 1))

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == "60"
    assert list(tmp_path.iterdir()) == [path]
    with (
        locked(path),
        pytest.raises(InputError, match="another process has been writing"),
        locked(path, patience_s=0.0),
    ):
        pass


def test_a_lock_makes_no_file_where_a_link_of_somebody_else_leads(tmp_path):
    (tmp_path / ".out.h5.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"), locked(tmp_path / "out.h5"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_what_cannot_be_written_is_named_as_it_was_asked_for(tmp_path):
    path = tmp_path / "page.html"
    with pytest.raises(OSError, match=re.escape(f"'{path}'")), written_aside(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(IsADirectoryError, match=re.escape(f"'{tmp_path}'")), written_aside(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}*"))
