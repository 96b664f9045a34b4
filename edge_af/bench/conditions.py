"""The state the machine is in while it measures: how busy, how hot, slowed down or not, and what is to be said of it.

Everything is read from the kernel's own files; a Raspberry Pi's firmware tells of under-voltage and throttling through
`/sys` or, where that is not there, through its `vcgencmd`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

THERMAL = Path("/sys/class/thermal")
CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
CPU_INFO = Path("/proc/cpuinfo")
MEMORY_INFO = Path("/proc/meminfo")
PLATFORM = Path("/sys/devices/platform")
PI_THROTTLED = "soc*/*firmware/get_throttled"
"""Below `PLATFORM`: a hexadecimal number, as `vcgencmd get_throttled` gives it."""

_PI_FLAGS = {
    0: "under-voltage",
    1: "the clock is capped",
    2: "throttled",
    3: "slowed down by the soft temperature limit",
    16: "under-voltage since boot",
    17: "the clock was capped since boot",
    18: "throttled since boot",
    19: "slowed down by the soft temperature limit since boot",
}
"""Bits of the Raspberry Pi firmware's word, from its documentation of `vcgencmd get_throttled`."""


@dataclass(frozen=True)
class Conditions:
    """The state of the machine at one moment. None is what it does not tell."""

    load_average: float | None
    """Over the last minute: how many processes ran or wanted to."""
    temperature_c: float | None
    """Of the hottest sensor."""
    throttled: list[str]
    """What slows the processor down, or did since boot (`… since boot`), in plain words."""
    frequency_mhz: float | None
    """Of the first core."""
    governor: str | None
    """How the first core's clock is governed."""
    swap_used_bytes: int | None


def conditions() -> Conditions:
    """The state of this machine now."""
    try:
        load_average = round(os.getloadavg()[0], 2)
    except OSError:
        load_average = None
    return Conditions(
        load_average=load_average,
        temperature_c=_temperature(),
        throttled=throttled(),
        frequency_mhz=_frequency(),
        governor=_text(CPUFREQ / "scaling_governor") or None,
        swap_used_bytes=_swap_used(),
    )


def decode_throttled(word: int) -> list[str]:
    """A Raspberry Pi firmware's word in plain words; `… since boot` only for what is not the case now."""
    held = [bit for bit in _PI_FLAGS if word >> bit & 1]
    return [_PI_FLAGS[bit] for bit in held if bit < 16 or bit - 16 not in held]


def throttled() -> list[str]:
    """What slows this processor down now, or did since boot, as a Raspberry Pi's firmware tells it; empty elsewhere."""
    text = next(filter(None, map(_text, PLATFORM.glob(PI_THROTTLED))), "")
    if not text and (tool := shutil.which("vcgencmd")):
        try:
            done = subprocess.run([tool, "get_throttled"], capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return []
        text = done.stdout.strip().rpartition("=")[2]
    try:
        return decode_throttled(int(text, 16))
    except ValueError:
        return []


def _temperature() -> float | None:
    found = []
    for sensor in THERMAL.glob("thermal_zone*/temp"):
        try:
            found.append(int(_text(sensor)) / 1000)
        except ValueError:
            continue
    # Sensors that are not wired up report 0 or less.
    return max((value for value in found if value > 0), default=None)


def _frequency() -> float | None:
    if (text := _text(CPUFREQ / "scaling_cur_freq")).isdigit():
        return int(text) / 1000
    for line in _text(CPU_INFO).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "cpu MHz":
            try:
                return float(value)
            except ValueError:
                return None
    return None


def _swap_used() -> int | None:
    held = meminfo()
    if "SwapTotal" not in held or "SwapFree" not in held:
        return None
    return held["SwapTotal"] - held["SwapFree"]


def meminfo() -> dict[str, int]:
    """The machine's memory in bytes, by the kernel's names (`MemAvailable`, `SwapFree` and others)."""
    found = {}
    for line in _text(MEMORY_INFO).splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[0].isdigit() and words[1] == "kB":
            found[name] = int(words[0]) * 1024
    return found


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace").strip("\0 \n")
    except OSError:
        return ""
