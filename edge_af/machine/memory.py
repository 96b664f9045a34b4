"""Memory of this process, as counted by the kernel: high-water mark, file-backed and anonymous memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class MemoryReading:
    """Bytes of this process in physical memory. None if the kernel does not report it."""

    peak: int | None
    """Largest amount since the start or the last `reset_peak` (VmHWM)."""
    resident: int | None
    """Current amount (VmRSS)."""
    file_backed: int | None
    """Part of `resident` that is mapped from files, which the kernel can drop and read again (RssFile)."""
    anonymous: int | None
    """Part of `resident` that is allocated, which the kernel cannot drop (RssAnon)."""


def read_memory() -> MemoryReading | None:
    """Return this process's current memory; None on a system without Linux's `/proc`."""
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    # Kernels before 4.5 lack RssFile and RssAnon, and some sandboxes lack VmHWM.
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
    """Reset the high-water mark to the resident memory; return False if the kernel does not allow it."""
    try:
        CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
