"""Make glibc keep freed memory.

It returns large blocks to the system, so each training step would fault its activations and gradients in again, page by
page: up to a fifth of the time for networks of the paper's size, on two cores.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
"""Parameters of mallopt(3)."""


def keep_freed_memory() -> None:
    """Keep freed memory in this process, for all threads together. Does nothing without glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1)):
        mallopt(parameter, value)
