"""A process's memory as the kernel keeps it: the high-water mark, and what is mapped from files apart from what is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class MemoryReading:
    """Bytes of this process that are in physical memory. None is what this kernel does not tell."""

    peak: int | None
    """The most there ever were at once since the start or the last `reset_peak` (VmHWM)."""
    resident: int | None
    """Now (VmRSS)."""
    file_backed: int | None
    """Part of `resident` that is mapped from files; the kernel can drop and read it again (RssFile)."""
    anonymous: int | None
    """Part of `resident` that is allocated; the kernel cannot drop it (RssAnon)."""


def read_memory() -> MemoryReading | None:
    """This process's memory now; None on a system without Linux's `/proc`."""
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    # Kernels before 4.5 lack RssFile and RssAnon, and some sandboxes VmHWM.
    held = {
        name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest
    }
    return MemoryReading(
        peak=held.get("VmHWM"),
        resident=held.get("VmRSS"),
        file_backed=held.get("RssFile"),
        anonymous=held.get("RssAnon"),
    )


def reset_peak() -> bool:
    """Set the high-water mark back to what is resident now; False where the kernel does not allow it."""
    try:
        CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
