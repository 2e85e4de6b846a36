from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from raygseg.engine.process import use_cpu
if sys.argv[1] == "kept":
    use_cpu(2)
    assert torch.get_num_threads() == 2


def step():
    maps = [torch.empty(2**21).fill_(1) for _ in range(24)]  # 8 MiB each
    del maps


for _ in range(10):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again() -> None:
    # Without the fixed threshold glibc sometimes learns by itself to keep the maps, and sometimes does not.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}

    def faults(word: str) -> int:
        command = [sys.executable, "-c", FAULTS, word]
        return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)

    kept, returned = faults("kept"), faults("returned")
    assert kept < 200 and kept < returned / 10
