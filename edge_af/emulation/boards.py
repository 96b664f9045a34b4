"""Emulated boards: the real aarch64 wheels under qemu-user, which emulates the board's processor.

Scores and instruction counts are those of the board. Time is not: nothing measured here is a latency.

| file | contents |
|---|---|
| `setup.py` | downloads QEMU, an arm64 Debian and the wheels, once |
| `counts.py` | builds the plugin, and counts the instructions of an inference |
| `guest.py` | the program under QEMU |
| `plugin.c` | counts instructions and memory accesses |
| `latency_model.py` | latency from counts, published latencies and bandwidth |
| `backend.py` | `edge-af bench --target emulated:BOARD` |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from edge_af.errors import EdgeAfError
from edge_af.files import package_data, read_yaml

BOARDS = {
    "pi5": "raspberry-pi-5",
    "pi4": "raspberry-pi-4b",
    "pi3": "raspberry-pi-3b-plus",
    "zero2w": "raspberry-pi-zero-2-w",
}
"""Short names of the profiles in `benchmarks/devices`."""

SCHEME = "emulated:"
FORM = f"{SCHEME}{'|'.join(BOARDS)}[:MEMORY]"

# Part, variant and revision of each core, as in MIDR_EL1.
_PARTS = {"Cortex-A53": (0xD03, 0, 4), "Cortex-A72": (0xD08, 0, 3), "Cortex-A76": (0xD0B, 4, 1)}
_FEATURES = {
    "asimd": "fp asimd evtstrm crc32 cpuid",
    "asimddp": "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
}
_UNITS = {"mib": 2**20, "gib": 2**30, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True)
class Profile:
    """Published facts about a board, from `benchmarks/devices`. Ranges go from the lowest to the highest figure."""

    name: str
    cores: int
    core: str
    clock_ghz: list[float]
    memory_bytes: list[int]
    features: list[str]
    last_level_cache_bytes: int
    read_gb_per_s_one_core: list[float]


@dataclass(frozen=True)
class Board:
    """A board to emulate."""

    key: str
    """Name on the command line: `pi5`."""
    memory_bytes: int
    """Limit on the guest's address space."""
    profile: Profile
    processor: str | None = None
    """A processor other than the board's, by QEMU's name, for tests of a mismatch."""

    @property
    def cpu(self) -> str:
        """QEMU's name for the processor."""
        return self.processor or self.profile.core.lower()

    @property
    def label(self) -> str:
        """Name in messages: `emulated:pi5`, or `emulated:pi5:512MiB` with less memory than the largest model."""
        less = "" if self.memory_bytes == max(self.profile.memory_bytes) else f":{self.memory_bytes / 2**20:g}MiB"
        return f"{SCHEME}{self.key}{less}"

    def cpuinfo(self) -> str:
        """Return the text of `/proc/cpuinfo` on the board, from which the runtimes choose their kernels."""
        part, variant, revision = _PARTS[self.profile.core]
        features = _FEATURES["asimddp" if "asimddp" in self.profile.features else "asimd"]
        blocks = [
            f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU variant\t: {variant:#x}\nCPU part\t: {part:#x}\nCPU revision\t: {revision}\n"
            for core in range(self.profile.cores)
        ]
        return "\n".join([*blocks, f"Model\t\t: {self.profile.name}\n"])


def parse_emulated(text: str) -> Board:
    """Parse `emulated:BOARD[:MEMORY]`; without MEMORY, the board has as much as its largest model.

    Raises:
        EdgeAfError: it has another form.
    """
    key, _, memory = text.removeprefix(SCHEME).partition(":")
    if not text.startswith(SCHEME) or key not in BOARDS:
        raise EdgeAfError(f"--target {text!r}: expected {FORM}.")
    profile = read_profile(BOARDS[key])
    found = re.fullmatch(r"(\d{1,6})(MiB|GiB|MB|GB)", memory, re.IGNORECASE)
    if memory and (found is None or int(found[1]) == 0):
        raise EdgeAfError(f"--target {text!r}: {memory!r} is not an amount of memory, such as 512MiB or 2GB.")
    amount = int(found[1]) * _UNITS[found[2].lower()] if found is not None else max(profile.memory_bytes)
    if amount <= LEAST_MEMORY:
        raise EdgeAfError(f"--target {text!r}: Python and a runtime alone take more than {memory}.")
    return Board(key, amount, profile)


LEAST_MEMORY = 128 * 2**20
"""Memory that Python, numpy and a runtime take without a network."""


def read_profile(name: str) -> Profile:
    """Read a profile from the package data or, in the repository, from `benchmarks/devices`."""
    fields = Profile.__dataclass_fields__
    value: dict[str, Any] = read_yaml(package_data("devices", f"{name}.yaml"), "device profile")
    return Profile(**{field: value[field] for field in fields})
