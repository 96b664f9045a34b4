"""Conditions of the machine during measurements: load, temperature, throttling and other disturbances.

Everything is read from the kernel's files. A Raspberry Pi's firmware reports under-voltage and throttling through `/sys` or,
on systems without that, through its `vcgencmd`.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_af.typed import Amount, Count

THERMAL = Path("/sys/class/thermal")
CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
CPU_INFO = Path("/proc/cpuinfo")
MEMORY_INFO = Path("/proc/meminfo")
PLATFORM = Path("/sys/devices/platform")
PI_THROTTLED = "soc*/*firmware/get_throttled"
"""File below `PLATFORM` with a hexadecimal number like that of `vcgencmd get_throttled`."""

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
"""Bits of the number from Raspberry Pi firmware, as documented for `vcgencmd get_throttled`."""


@dataclass(frozen=True)
class Conditions:
    """Conditions of the machine at one moment. None means unknown."""

    load_average: float | None
    """Average number of runnable processes over the last minute."""
    temperature_c: float | None
    """Temperature of the hottest sensor."""
    throttled: list[str]
    """Reasons why the processor is throttled, or was since boot (`… since boot`)."""
    frequency_mhz: float | None
    """Clock frequency of the first core."""
    governor: str | None
    """Frequency governor of the first core."""
    swap_used_bytes: Count | None
    processor_quota: Amount | None = None
    """Number of processors that control groups (such as a container's) allow this process; None for no limit."""
    thermal_status: str | None = None
    """Android's thermal status: `none`, or from `light` to `shutdown`, which is how much it throttles."""


def conditions() -> Conditions:
    """Return the current conditions of this machine."""
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
        processor_quota=processor_quota(),
    )


def decode_throttled(word: int) -> list[str]:
    """Explain the number from Raspberry Pi firmware; `… since boot` only for conditions that are over."""
    held = [bit for bit in _PI_FLAGS if word >> bit & 1]
    return [_PI_FLAGS[bit] for bit in held if bit < 16 or bit - 16 not in held]


def throttled() -> list[str]:
    """Return why this processor is throttled, or was since boot, from Raspberry Pi firmware; empty elsewhere."""
    text = next(filter(None, map(_text, PLATFORM.glob(PI_THROTTLED))), "")
    if not text and (tool := shutil.which("vcgencmd")):
        try:
            done = subprocess.run(
                [tool, "get_throttled"], capture_output=True, encoding="utf-8", errors="replace", timeout=5
            )
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
    # Unconnected sensors report 0 or less.
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
    """Return the machine's memory figures in bytes, by the kernel's names (`MemAvailable`, `SwapFree` and others)."""
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


def available_memory() -> int | None:
    """Return the bytes that this process can still allocate, from free memory and limits; None if unknown."""
    held = meminfo()
    bounds = list(memory_limits().values())
    if "MemAvailable" in held:
        bounds.append(held["MemAvailable"] + held.get("SwapFree", 0))
    return max(0, min(bounds)) if bounds else None


def memory_limits() -> dict[str, int]:
    """Return the bytes that each memory limit leaves this process, by the limit's name.

    Limits apply to its address space and data (`ulimit -v`, `-d`) and to its control group's memory.
    """
    found = {}
    status = {}
    for line in _text(Path("/proc/self/status")).splitlines():
        name, _, rest = line.partition(":")
        if rest.strip().endswith("kB"):
            status[name] = int(rest.split()[0]) * 1024
    for limit, taken, name in (
        (resource.RLIMIT_AS, "VmSize", "ulimit -v"),
        (resource.RLIMIT_DATA, "VmData", "ulimit -d"),
    ):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY and taken in status:
            found[name] = soft - status[taken]
    if (left := _left_in_group()) is not None:
        found["control group"] = left
    return found


def _groups(controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield this process's control groups, from its own to the root, each with True if it is of version 2.

    Args:
        controller: version 1 controller, such as `memory`; version 2 has one tree for all.
    """
    for line in _text(OWN_GROUPS).splitlines():
        number, kinds, path = [*line.split(":", 2), "", ""][:3]
        unified = number == "0" and not kinds
        if not unified and controller not in kinds.split(","):
            continue
        base = CGROUPS if unified else CGROUPS / controller
        # In a container, the path may be the host's, of which only the last folder is visible, as `base`.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for count in range(len(parts), -1, -1):
            folder = base.joinpath(*parts[:count])
            if folder.is_dir():
                yield folder, unified


def _left_in_group() -> int | None:
    """Return the bytes that the memory limits of this process's control groups leave it; None for no limit."""
    found = []
    for folder, unified in _groups("memory"):
        limit, usage = (
            ("memory.max", "memory.current") if unified else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        most, now = _text(folder / limit), _text(folder / usage)
        # Version 1 reports a number near 2^63 for no limit.
        if most.isdigit() and now.isdigit() and int(most) < 2**60:
            found.append(int(most) - int(now) + _counts(folder / "memory.stat").get("inactive_file", 0))
    return min(found, default=None)


def processor_quota() -> float | None:
    """Return the number of processors that this process's control groups allow; None for no limit."""
    found = []
    for folder, unified in _groups("cpu"):
        if unified:
            words = _text(folder / "cpu.max").split()
        else:
            words = [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            found.append(round(int(words[0]) / int(words[1]), 3))
    return min(found, default=None)


def _quota_periods() -> int:
    """Count the periods so far in which this process's control groups were throttled by their processor quota."""
    return sum(_counts(folder / "cpu.stat").get("nr_throttled", 0) for folder, _ in _groups("cpu"))


def _counts(path: Path) -> dict[str, int]:
    """Read a file of lines with a name and a number."""
    lines = (line.split() for line in _text(path).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}


@dataclass(frozen=True)
class Activity:
    """Monotonic counters of the machine's activity at one moment."""

    seconds: float
    busy: float
    """Busy seconds, summed over all cores and processes."""
    stolen: float
    """Seconds that the host took from a virtual machine's cores."""
    own: float
    """Processor seconds of this process and of the children it has waited for."""
    swapped: int
    """Pages swapped in and out."""
    killed: int
    """Number of processes that the kernel's out-of-memory killer ended."""
    quota_periods: int = 0
    """Periods in which this process's control groups were throttled by their processor quota."""

    @staticmethod
    def now() -> Activity:
        ticks = [int(word) for word in _text(Path("/proc/stat")).partition("\n")[0].split()[1:9] if word.isdigit()]
        user, nice, system, _, _, irq, soft, steal = ticks if len(ticks) == 8 else [0] * 8
        counts = _counts(Path("/proc/vmstat"))
        per_second = os.sysconf("SC_CLK_TCK")
        return Activity(
            seconds=time.monotonic(),
            busy=(user + nice + system + irq + soft) / per_second,
            stolen=steal / per_second,
            own=sum(os.times()[:4]),
            swapped=counts.get("pswpin", 0) + counts.get("pswpout", 0),
            killed=counts.get("oom_kill", 0),
            quota_periods=_quota_periods(),
        )


def remarks(before: Activity, after: Activity, cores: int) -> dict[str, float]:
    """Return the disturbances of a measurement between two moments, each with its amount."""
    took = max(after.seconds - before.seconds, 1e-3)
    others = max(0.0, (after.busy - before.busy) - (after.own - before.own)) / took
    stolen = (after.stolen - before.stolen) / (took * cores)
    found = {}
    # Services on a quiet machine sometimes use a tenth of a core.
    if others > 0.15:
        found["The machine was busy: other processes used up to {:.1f} of its cores"] = others
    if stolen > 0.03:
        found["The host of this virtual machine took up to {:.0%} of its processor time away"] = stolen
    if after.swapped - before.swapped > 64:
        found["The machine was swapping ({:.0f} pages)"] = float(after.swapped - before.swapped)
    if (periods := after.quota_periods - before.quota_periods) > 0:
        found[
            f"A processor quota of {processor_quota() or 0:g} processors held the measurement up in {{:.0f}} periods"
        ] = float(periods)
    if now := [flag for flag in throttled() if "since boot" not in flag]:
        found[f"The processor was slowed down ({', '.join(now)})"] = 1.0
    return found
