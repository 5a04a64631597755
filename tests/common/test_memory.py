"""Sizes in words, and what is refused because it does not fit."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pass_recon.common import memory
from pass_recon.types import InputError


@pytest.mark.parametrize(("text", "size"), [("8G", 8 << 30), ("1.5 GiB", 3 << 29), ("500m", 500 << 20), ("4096", 4096)])
def test_sizes_in_words(text, size):
    assert memory.bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "8X", "-1G", "0", "much"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="is not an amount of memory"):
        memory.bytes_of(text)


def test_a_slice_that_needs_more_than_there_may_be_is_refused_with_the_figure(monkeypatch):
    monkeypatch.setenv(memory.VARIABLE, str(1 << 30))
    monkeypatch.setattr(memory, "_taken", lambda: 0)  # by the suite: whatever the tests before have loaded
    memory.refuse_slice("slice 3", 8, 320, 320, held=0)
    with pytest.raises(InputError, match=r"64 coils on 512 by 512 needs about 1\.9 GB .* 1\.1 GB are allowed"):
        memory.refuse_slice("slice 3", 64, 512, 512, held=0)
    with pytest.raises(InputError, match=r"with 1\.0 GB of slices that are not over"):
        memory.refuse_slice("slice 3", 8, 320, 320, held=10**9)


def test_a_process_that_asks_for_more_is_refused_by_the_system():
    script = (
        "from pass_recon.common import memory\nimport numpy\n"
        "memory.keep_to(memory.bytes_of('1G'))\nnumpy.ones(1 << 28)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "MemoryError" in done.stderr
