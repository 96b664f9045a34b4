"""A process's memory as the kernel keeps it: the high-water mark, and what is mapped from files apart from what is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class MemoryReading:
    """Bytes of this process that are in physical memory."""

    peak: int
    """The most there ever were at once since the start or the last `reset_peak` (VmHWM)."""
    resident: int
    """Now (VmRSS)."""
    file_backed: int
    """Of `resident`: mapped from files, which the kernel can drop and read again (RssFile)."""
    anonymous: int
    """Of `resident`: allocated, which it cannot (RssAnon)."""


def read_memory() -> MemoryReading | None:
    """This process's memory now; None on a system without Linux's `/proc`."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    kilobytes = {
        name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest
    }
    return MemoryReading(
        peak=kilobytes["VmHWM"] * 1024,
        resident=kilobytes["VmRSS"] * 1024,
        file_backed=kilobytes["RssFile"] * 1024,
        anonymous=kilobytes["RssAnon"] * 1024,
    )


def reset_peak() -> bool:
    """Set the high-water mark back to what is resident now; False where the kernel does not allow it."""
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True
