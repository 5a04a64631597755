"""What a process sets for itself before it computes."""

import os
import subprocess
import sys

import pytest

# Minor page faults of large arrays that are made and freed again: one for every 4 kB where the memory is given back.
COUNT_FAULTS = """
import resource, sys
from pass_recon.common.process import prepare_process
if sys.argv[1] == "prepared":
    prepare_process()
import torch
torch.set_num_threads(1)
def work():
    for _ in range(20):
        torch.ones(8 << 20).add_(1)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif("glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="not the GNU C library")
def test_memory_that_was_freed_is_used_again():
    assert faults("prepared") < 0.1 * faults("as it is")
