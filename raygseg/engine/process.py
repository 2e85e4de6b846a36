"""How a process that computes on the CPU is set up."""

from __future__ import annotations

import ctypes
import platform

import torch

from raygseg.data.object_store import expect_outages

# Names and numbers of glibc's mallopt(3).
_ARENA_MAX, _MMAP_MAX, _TOP_PAD, _TRIM_THRESHOLD = -8, -4, -2, -1
_KEPT_BYTES = 2**31 - 1


def use_cpu(threads: int) -> None:
    """Give torch its threads, and keep freed memory for the next tensor instead of returning it.

    glibc hands large blocks back to the system at once, so that every feature map costs page faults
    when it is written first: about a tenth of a small GAN's step. Elsewhere than on glibc only the
    threads are set.
    """
    torch.set_num_threads(threads)
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TOP_PAD, 2**26), (_TRIM_THRESHOLD, _KEPT_BYTES)):
            mallopt(parameter, value)


def set_up_worker(threads: int) -> None:
    """`use_cpu` in a Ray worker, which also waits for a store that is away: its driver has reached it."""
    use_cpu(threads)
    expect_outages()
