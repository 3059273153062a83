"""The C library's memory, kept by the process instead of given back to the system after each large tensor.

By default glibc maps every large block anew, and the kernel clears it page by page when it is first written. A training
step allocates the same few hundred blocks over and over: clearing them costs up to half of an attention on a CPU.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
LARGEST = 2**31 - 1  # what the options, of type int, can hold at most


def keep_freed_memory() -> None:
    """Lets freed blocks be used again as they are, where the C library is glibc; does nothing elsewhere.

    Gain: see docs/speed.md. The largest resident memory hardly changes, since what was freed is what is used next.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, LARGEST)
        mallopt(M_TOP_PAD, 64 * 2**20)
