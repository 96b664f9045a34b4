"""Facts that an Android phone reports: system, processor, cores and temperature."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge_af.artifacts import versions
from edge_af.errors import EdgeAfError
from edge_af.machine.conditions import Conditions
from edge_af.machine.device import FEATURES, Device
from edge_af.targets.adb import Phone

_PROPERTIES = (
    *("ro.product.manufacturer", "ro.product.model", "ro.soc.manufacturer", "ro.soc.model", "ro.board.platform"),
    *("ro.build.version.release", "ro.build.version.sdk"),
)
# Each answer follows a line `@@ name`; unknown facts have empty answers.
_FACTS = (
    'for k; do echo "@@ $k"; getprop "$k"; done; '
    "echo '@@ machine'; uname -m; echo '@@ kernel'; uname -sr; echo '@@ taskset'; command -v taskset; "
    "echo '@@ cpuinfo'; cat /proc/cpuinfo; echo '@@ meminfo'; cat /proc/meminfo; "
    "echo '@@ allowed'; grep Cpus_allowed_list: /proc/self/status; "
    "for c in /sys/devices/system/cpu/cpu[0-9]*; do "
    'echo "@@ max ${c##*/cpu}"; cat $c/cpufreq/cpuinfo_max_freq; done'
)
_STATE = (
    "echo '@@ load'; cat /proc/loadavg; echo '@@ meminfo'; cat /proc/meminfo; "
    "echo '@@ frequency'; cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq; "
    "echo '@@ governor'; cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor; "
    "echo '@@ zones'; for z in /sys/class/thermal/thermal_zone*; do cat $z/temp; done; "
    "echo '@@ thermal'; dumpsys thermalservice"
)
THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's thermal states, `PowerManager.THERMAL_STATUS_…`, by number. From `light` on, the phone is throttled."""
_CPU_SENSOR = 0
_SENSOR = re.compile(r"Temperature\{mValue=(-?[0-9]{1,6}(?:\.[0-9]{1,9})?), mType=(-?[0-9]{1,9}),")
_BELIEVED_C = (1.0, 150.0)
"""Plausible range of temperatures; unconnected sensors report values outside it."""


@dataclass(frozen=True)
class PhoneFacts:
    """A phone, and whether its cores can be chosen."""

    device: Device
    has_taskset: bool

    def big(self) -> list[int]:
        """Return all cores except the slowest type, by maximum frequency; all if they are alike or it is unknown."""
        clocks = dict(enumerate(self.device.core_max_mhz or []))
        known = {core: clocks.get(core) for core in self.device.affinity or []}
        slowest = min((clock for clock in known.values() if clock is not None), default=None)
        faster = [core for core, clock in known.items() if clock is not None and clock > (slowest or 0)]
        return faster or list(known)


def facts(phone: Phone) -> PhoneFacts:
    """Return the phone's system, processor and cores, without its serial number."""
    told = _answers(phone.shell(f"{{ {_FACTS}; }} 2>/dev/null", *_PROPERTIES).out)
    clocks = {int(name[4:]): text for name, text in told.items() if re.fullmatch(r"max [0-9]{1,3}", name)}
    allowed = cores_of(told["allowed"].partition(":")[2]) or list(range(max(clocks, default=0) + 1))
    model = _joined(told["ro.product.manufacturer"], told["ro.product.model"])
    soc = _joined(told["ro.soc.manufacturer"], told["ro.soc.model"]) or told["ro.board.platform"]
    release, sdk = told["ro.build.version.release"], told["ro.build.version.sdk"]
    name = model or told["machine"] or "Android"
    features = [line for line in told["cpuinfo"].splitlines() if line.startswith(("Features", "flags"))]
    device = Device(
        machine=told["machine"],
        cpu=f"{name} ({soc})" if soc else name,
        cores=len(allowed),
        memory_bytes=_kilobytes(told["meminfo"], "MemTotal"),
        kernel=told["kernel"],
        python=None,
        governor=None,
        versions={name: found for name, found in versions().items() if name != "python"},
        system=(f"Android {release}" + (f", API {sdk}" if sdk else "")) if release else None,
        soc=soc or None,
        features=sorted(set(features[0].split()) & FEATURES) if features else None,
        affinity=allowed,
        core_max_mhz=[_mhz(clocks[core]) for core in sorted(clocks)] if any(clocks.values()) else None,
    )
    return PhoneFacts(device, bool(told["taskset"]))


def state(phone: Phone) -> Conditions:
    """Return the phone's current load and temperature."""
    told = _answers(phone.shell(f"{{ {_STATE}; }} 2>/dev/null").out)
    load = re.match(r"[0-9]{1,6}\.[0-9]{1,3} ", told["load"])
    status = re.search(r"Thermal Status: ([0-9]{1,3})\b", told["thermal"])
    thermal = THERMAL_STATUS[min(int(status[1]), len(THERMAL_STATUS) - 1)] if status else None
    total, free = (_kilobytes(told["meminfo"], name) for name in ("SwapTotal", "SwapFree"))
    return Conditions(
        load_average=float(load[0]) if load else None,
        temperature_c=_temperature(told["thermal"], told["zones"]),
        throttled=[f"Android's thermal status is {thermal}"] if thermal not in (None, "none") else [],
        frequency_mhz=_mhz(told["frequency"]),
        governor=told["governor"] or None,
        swap_used_bytes=total - free if total is not None and free is not None else None,
        thermal_status=thermal,
    )


def _temperature(thermal: str, zones: str) -> float | None:
    """Return the hottest processor sensor of Android's thermal service, or else the kernel's hottest zone."""
    current = thermal.partition("Current temperatures")[2] or thermal
    found = [float(value) for value, kind in _SENSOR.findall(current) if int(kind) == _CPU_SENSOR]
    # Zones report thousandths of a degree.
    found = _believed(found) or _believed(
        [int(text) / 1e3 for text in zones.split() if re.fullmatch(r"-?[0-9]{1,9}", text)]
    )
    return max(found, default=None)


def _believed(values: list[float]) -> list[float]:
    return [value for value in values if _BELIEVED_C[0] <= value <= _BELIEVED_C[1]]


def cores_of(text: str) -> list[int]:
    """Parse a list of cores in the kernel's format, `0-3,7`; empty if it is invalid."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.strip().partition("-")
        if not re.fullmatch(r"[0-9]{1,4}(-[0-9]{1,4})?", part.strip()):
            return []
        found |= set(range(int(first), int(last or first) + 1))
    return sorted(found)


def chosen_cores(text: str, found: PhoneFacts, label: str) -> list[int]:
    """Return the cores that `--cores big` or `--cores 4-7` means on this phone.

    Raises:
        EdgeAfError: it is not a list of cores, the phone lacks one of them, or has no `taskset`.
    """
    there = found.device.affinity or []
    chosen = found.big() if text == "big" else cores_of(text)
    if not chosen:
        raise EdgeAfError(f"--cores {text!r}: expected big, or a list of cores such as 4-7 or 0,1.")
    if lacking := sorted(set(chosen) - set(there)):
        raise EdgeAfError(f"--cores {text}: {label} has no core {lacking[0]}; it has {', '.join(map(str, there))}.")
    if not found.has_taskset:
        raise EdgeAfError(f"--cores {text}: {label} has no `taskset`. Leave out --cores.")
    return chosen


def _answers(text: str) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("@@ "):
            name = line[3:]
            found[name] = []
        elif name:
            found[name].append(line)
    return _Told({name: "\n".join(lines).strip() for name, lines in found.items()})


class _Told(dict[str, str]):
    """Answers by name; empty for missing ones."""

    def __missing__(self, name: str) -> str:
        return ""


def _joined(maker: str, name: str) -> str:
    """Join maker and name without repetition: `Google Pixel 8`, not `Google Google Pixel 8`."""
    return name if name.lower().startswith(maker.lower()) else f"{maker} {name}".strip()


def _mhz(text: str) -> float | None:
    return int(text) / 1000 if re.fullmatch(r"[0-9]{1,12}", text) else None


def _kilobytes(text: str, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+([0-9]{{1,15}}) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
