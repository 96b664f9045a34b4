"""What is known of the machine that was measured on: nothing here names its owner or its network."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

from edge_af.artifacts import versions

BOARD = Path("/proc/device-tree/model")
CPU_INFO = Path("/proc/cpuinfo")
PACKAGES = ("numpy", "onnxruntime", "ai-edge-litert", "tflite-runtime")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True)
class Device:
    """A machine and the packages on it."""

    machine: str
    """The architecture, e.g. `x86_64` or `aarch64`."""
    cpu: str
    """The board's name (`Raspberry Pi 5 Model B Rev 1.0`) where the firmware gives one, else the processor's."""
    cores: int
    """That this process may use."""
    memory_bytes: int | None
    kernel: str
    python: str
    governor: str | None
    """How the first core's clock is governed; None where the kernel does not say (most virtual machines)."""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """A short name to tell devices apart in a table."""
        memory = f", {self.memory_bytes / 2**30:.0f} GiB" if self.memory_bytes else ""
        return f"{self.cpu}, {self.cores} core{'s' if self.cores != 1 else ''}{memory}"


def this_device() -> Device:
    """The machine that this process runs on."""
    return Device(
        machine=platform.machine(),
        cpu=_text(BOARD) or _cpu_name() or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        governor=_text(GOVERNOR) or None,
        versions={name: found for name, found in versions(*PACKAGES).items() if name != "python"},
    )


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _cpu_name() -> str:
    for line in _text(CPU_INFO).splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace").strip("\0 \n")
    except OSError:
        return ""
