"""What the machine is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

REUSE = """
import resource
import torch
from serkit.machine import keep_freed_memory

if {keep}:
    keep_freed_memory()
for _ in range(20):  # until the heap has settled
    torch.ones(16 * 2**20)  # 64 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(16 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def n_faults(*, keep: bool) -> int:
    """Count the pages that twenty large tensors, one after the other, ask the kernel for."""
    code = REUSE.format(keep=keep)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(ended.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only the C library of Linux can be told")
def test_freed_memory_is_kept_for_the_next_large_tensor():
    assert n_faults(keep=True) < n_faults(keep=False) / 10
