"""Description of the measured machine, without anything that identifies its owner or network."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

from edge_af.artifacts import versions
from edge_af.files import package_data
from edge_af.git import commit_at
from edge_af.typed import Count, Positive

BOARD = Path("/proc/device-tree/model")
CPU_INFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
FEATURES = frozenset(
    (
        *("sse4_1", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"),
        *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
        *(
            "neon",
            "vfpv4",
            "asimd",
            "asimdhp",
            "fphp",
            "asimddp",
            "i8mm",
            "bf16",
            "sve",
            "sve2",
            "svei8mm",
            "sme",
            "sme2",
        ),
    )
)
"""Instruction sets for vector arithmetic on x86-64 and ARM, by the kernel's names."""
PACKAGES = ("numpy", "onnxruntime", "ai-edge-litert", "tflite-runtime")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True)
class Device:
    """A machine and the packages on it."""

    machine: str
    """Architecture, such as `x86_64` or `aarch64`."""
    cpu: str
    """Name of the board (`Raspberry Pi 5 Model B Rev 1.0`) if the firmware has one, else of the processor."""
    cores: Positive
    """Number of cores that this process may use."""
    memory_bytes: Count | None
    kernel: str
    python: str | None
    """Version of Python; None on a phone, which lacks Python."""
    governor: str | None
    """Frequency governor of the first core; None if the kernel does not report it (most virtual machines)."""
    versions: dict[str, str] = field(default_factory=dict)
    features: list[str] | None = None
    """Instruction sets of the processor that matter for inference, by the kernel's names."""
    affinity: list[int] | None = None
    """Numbers of the cores that this process, and so the measured ones, may use."""
    last_level_cache_bytes: Count | None = None
    system: str | None = None
    """Operating system of a phone, such as `Android 16, API 36`."""
    soc: str | None = None
    """Processor of a phone, such as `Google Tensor G3`."""
    core_max_mhz: list[float | None] | None = None
    """Maximum frequency of each core of a phone, by number, which distinguishes big cores from small ones."""
    emulator: str | None = None
    """Emulator, such as `qemu-user 7.2.22 as cortex-a76`, under which nothing is timed; None for a real machine."""

    @property
    def label(self) -> str:
        """A short name to distinguish devices in a table."""
        memory = ""
        if self.memory_bytes:
            small = self.memory_bytes < 2**30
            memory = f", {self.memory_bytes / 2**20:.0f} MiB" if small else f", {self.memory_bytes / 2**30:.0f} GiB"
        return f"{self.cpu}, {self.cores} core{'s' if self.cores != 1 else ''}{memory}"


def this_device() -> Device:
    """Describe the machine that this process runs on."""
    return Device(
        machine=platform.machine(),
        cpu=_text(BOARD) or _cpu_name() or platform.processor() or platform.machine(),
        cores=core_count(),
        memory_bytes=_memory_bytes(),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        governor=_text(GOVERNOR) or None,
        versions={name: found for name, found in versions(*PACKAGES).items() if name != "python"},
        features=cpu_features(),
        affinity=allowed_cores() or None,
        last_level_cache_bytes=_last_level_cache(),
    )


def allowed_cores() -> list[int]:
    """Return the numbers of the cores that this process may use; empty if unknown."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def core_count() -> int:
    """Return the number of cores that this process may use."""
    return len(allowed_cores()) or os.cpu_count() or 1


def project_commit() -> str | None:
    """Return the commit that edge-af runs from, with the suffix `-changed` if files differ; None if unknown."""
    root = package_data().parent
    # An installed package may be inside another project's repository.
    return commit_at(root, trusted=True) if (root / ".git").exists() else None


def cpu_features() -> list[str] | None:
    """Return this processor's instruction sets that matter for inference, by the kernel's names; None if unknown."""
    for line in _text(CPU_INFO).splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return sorted(set(value.split()) & FEATURES)
    return None


def _last_level_cache() -> int | None:
    """Return the size of the first core's last-level cache, in bytes."""
    sizes = []
    for cache in CACHES.glob("index*/size"):
        text = _text(cache)
        if text[:-1].isdigit() and text[-1:] in "KM":
            sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20}[text[-1]])
    return max(sizes, default=None)


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
