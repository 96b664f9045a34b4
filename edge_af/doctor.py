"""Health check of this machine: import and run each runtime in its own process.

A wheel built for a newer processor ends its process by SIGILL. So this module imports neither a runtime nor numpy, and
works with a broken installation.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_af.bench.process import EMPTY, run_worker
from edge_af.machine.conditions import Conditions, available_memory, conditions, memory_limits
from edge_af.machine.device import Device, this_device
from edge_af.packages import PACKAGES_OF, is_installed, no_wheels
from edge_af.records.results import CRASHED, DOES_NOT_FIT, FAILED, MISSING_RUNTIME, OK, TIMEOUT, Method
from edge_af.subprocesses import environment, signal_in_words

SCHEMA_VERSION = 1
FILES_OF = {"onnxruntime": ".onnx", "litert": ".tflite"}

NEEDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "train": ("train", ("torch", "safetensors")),
    "data prepare": ("train", ("tensorflow",)),
    "export": ("export", ("torch", "safetensors", "onnx")),
}
"""Verb -> the extra that it needs, and the packages it imports. `export` runs its files in both runtimes."""

RUNS_FILES = ("bench", "eval", "predict")
"""Verbs that only need a runtime."""


@dataclass(frozen=True)
class RuntimeCheck:
    """Outcome of importing a runtime and running a layer of 1,152 inputs and one output in it."""

    runtime: str
    package: str | None
    """Installed package, one of `PACKAGES_OF`; None if none is installed."""
    version: str | None
    status: str
    """As the status of a results row: `ok`, `missing-runtime`, `crashed`, `timeout`, `failed`, `does-not-fit`."""
    reason: str | None
    advice: str | None
    """Advice for the user."""


@dataclass(frozen=True)
class VerbCheck:
    """Outcome of checking a verb."""

    verb: str
    works: bool
    reason: str | None
    extra: str | None
    """The missing extra, such as `train`; None if none is missing."""


@dataclass(frozen=True)
class Health:
    """State of this machine: device, runtimes and verbs."""

    device: Device
    conditions: Conditions
    bits: int
    """Word size of this Python, which can be 32 on a 64-bit kernel."""
    page_bytes: int
    """Size of a memory page in bytes."""
    available_memory_bytes: int | None
    memory_limits: dict[str, int]
    """Bytes that each memory limit leaves this process."""
    runtimes: list[RuntimeCheck]
    verbs: list[VerbCheck]
    remarks: list[str] = field(default_factory=list)
    """Remarks about measuring on this machine."""

    @property
    def runs(self) -> bool:
        """True if at least one runtime works."""
        return any(check.status == OK for check in self.runtimes)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object that `edge-af doctor --json` prints."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}


def check_health(timeout_seconds: float = 120.0, on_step: Callable[[str], None] = lambda step: None) -> Health:
    """Examine this machine, each check in a process limited to `timeout_seconds`; `on_step` gets each check's name."""
    device, state = this_device(), conditions()
    on_step("numpy")
    numpy = try_import(("numpy",), timeout_seconds)
    runtimes = []
    for runtime in EMPTY:
        on_step(runtime)
        runtimes.append(_check_runtime(runtime, device, numpy, timeout_seconds))
    bits, page = struct.calcsize("P") * 8, os.sysconf("SC_PAGE_SIZE")
    return Health(
        device=device,
        conditions=state,
        bits=bits,
        page_bytes=page,
        available_memory_bytes=available_memory(),
        memory_limits=memory_limits(),
        runtimes=runtimes,
        verbs=[*_runtime_verbs(runtimes), *_verbs(runtimes, timeout_seconds, on_step)],
        remarks=remarks(device, state, bits, page, libc=platform.libc_ver()[0]),
    )


def try_import(packages: Sequence[str], timeout_seconds: float) -> str | None:
    """Return why these packages cannot be imported in a separate process; None if they can."""
    for package in packages:  # Finding a package is free; importing some takes seconds.
        if not is_installed(package):
            return f"{package} is not installed"
    # -P: a file in the working directory must not shadow a package.
    command = [sys.executable, "-P", "-c", "; ".join(f"import {package}" for package in packages)]
    try:
        done = subprocess.run(
            command,
            env=environment(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_seconds,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"importing {', '.join(packages)} did not end within {timeout_seconds:g} s"
    except OSError as error:
        return f"cannot start a process to try it in: {error}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    last = lines[-1][:200] if lines else ""
    if done.returncode < 0:
        name, meaning = signal_in_words(-done.returncode, last)
        return f"{name} while importing {', '.join(packages)}: {meaning}"
    return f"cannot be imported: {last or 'no message'}" if done.returncode else None


def _check_runtime(runtime: str, device: Device, numpy: str | None, timeout_seconds: float) -> RuntimeCheck:
    installed = next((name for name in PACKAGES_OF[runtime] if name in device.versions), None)
    version = device.versions[installed] if installed else None
    name = f"{installed} {version}" if installed else PACKAGES_OF[runtime][0]
    if numpy is not None:
        absent = MISSING_RUNTIME if numpy.endswith("is not installed") else FAILED
        status, reason = (CRASHED if numpy.startswith("SIG") else absent), f"it needs numpy: {numpy}"
        name = f"numpy {device.versions.get('numpy', '')}".strip()
    else:
        from edge_af.bench.worker import Job

        method = Method(inferences=1, warm_up=0, timeout_seconds=timeout_seconds)
        found = run_worker(Job(str(EMPTY[runtime]), runtime, 1, None, 0.5, method))
        status, reason = found["status"], found["reason"]
    advice = _advice(status, reason or "", name, runtime, device.machine)
    return RuntimeCheck(runtime, installed, version, status, reason, advice)


def _advice(status: str, reason: str, name: str, runtime: str, machine: str) -> str | None:
    """Return advice on a runtime that does not run; `name` is its package and version."""
    package, _, version = name.partition(" ")
    other = next(suffix for known, suffix in FILES_OF.items() if known != runtime)
    another = f"install another version of it (pip install '{package}!={version}'), or use {other} files"
    if status == OK:
        if package == "tflite-runtime":
            return "Its successor is several times as fast and runs 4-bit files too: pip install ai-edge-litert"
        return None
    if package == "tflite-runtime" and "numpy" in reason:
        return "Install its successor, which is several times as fast and runs with numpy 2: pip install ai-edge-litert"
    if (wheels := no_wheels(machine, struct.calcsize("P") * 8)) and status in (MISSING_RUNTIME, FAILED):
        return wheels
    if "GLIBC" in reason:
        return f"This system's C library is older than {name} needs. Install an older version of it, or a newer system."
    if "ELF load command" in reason or "page-aligned" in reason:
        return f"{name} was built for smaller pages of memory than this kernel's: {another}."
    if "cannot open shared object file" in reason:
        return f"{name} needs a library of the system that is missing: install the one that the message names."
    if "SIGILL" in reason:
        return f"{name} was built for a newer processor than this {machine}: {another}."
    if status == CRASHED:
        return (
            f"Reinstall it (pip install --force-reinstall --no-cache-dir {package}). Where it crashes again: {another}."
        )
    if status == TIMEOUT:
        return "Give it longer (--timeout), or see what else keeps this machine busy."
    if status == DOES_NOT_FIT:
        return "Free memory, raise the limit on it, or add swap."
    if status == MISSING_RUNTIME and not version:
        return f"Install it with: pip install {package}"
    return f"Reinstall it: pip install --force-reinstall {package}"


def _runtime_verbs(runtimes: Sequence[RuntimeCheck]) -> list[VerbCheck]:
    working = [check.runtime for check in runtimes if check.status == OK]
    reason = None
    if not working:
        reason = "no runtime works"
    elif len(working) < len(runtimes):
        reason = f"for {' and '.join(FILES_OF[name] for name in working)} files only"
    return [VerbCheck(verb, bool(working), reason, None) for verb in RUNS_FILES]


def _verbs(runtimes: Sequence[RuntimeCheck], timeout_seconds: float, on_step: Callable[[str], None]) -> list[VerbCheck]:
    found = []
    for verb, (extra, packages) in NEEDS.items():
        on_step(verb)
        reason = try_import(packages, timeout_seconds)
        absent = reason is not None and reason.endswith("is not installed")
        broken = [check.runtime for check in runtimes if check.status != OK]
        if reason is None and verb == "export" and broken:
            reason = f"it runs what it made, and {' and '.join(broken)} does not work"
        found.append(VerbCheck(verb, reason is None, reason, extra if absent else None))
    return found


def remarks(device: Device, state: Conditions, bits: int, page_bytes: int, libc: str) -> list[str]:
    """List remarks about measuring on a machine."""
    found = []
    features = set(device.features or ())
    if (wheels := no_wheels(device.machine, bits)) is not None:
        found.append(wheels)
    if libc != "glibc":
        found.append(
            f"The C library is not glibc ({libc or 'not known'}): onnxruntime's and LiteRT's wheels for Linux need glibc. "
            "On Alpine or in Termux, run a Debian in a container or under proot."
        )
    if page_bytes > 4096:
        found.append(
            f"Pages of memory are {page_bytes // 1024} KiB (Raspberry Pi OS's kernel for the Pi 5 has 16): a library built for "
            "pages of 4 KiB alone does not load. The 64-bit ARM wheels of numpy, onnxruntime and LiteRT are built for 64 KiB "
            "and load. Whatever is mapped takes whole pages, so peak memory is a little higher than on a kernel with 4 KiB "
            "(on a Pi 5: kernel=kernel8.img in /boot/firmware/config.txt)."
        )
    if device.machine in ("aarch64", "arm64") and features and "asimddp" not in features:
        found.append(
            "The processor has no dot-product instruction (asimddp), as a Raspberry Pi 4 and older: INT8 gains less "
            "speed over FP32 than on a Pi 5. Its gain in memory is the same."
        )
    if device.machine == "x86_64" and features and not features & {"avx512_vnni", "avx_vnni"}:
        found.append(
            "The processor has no VNNI: integer kernels gain about half the speed over FP32 that they gain where it has. "
            "ONNX Runtime multiplies INT8 with U8U8 kernels here, whose sums are exact as they are elsewhere."
        )
    if state.governor not in (None, "performance"):
        found.append(
            f"The clock follows the load (governor {state.governor}): the first inferences are slower. To measure: "
            "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        )
    if state.processor_quota is not None:
        found.append(
            f"A processor quota allows this process {state.processor_quota:g} processors' time: whatever needs more stands "
            "still for the rest of each period, and latencies have long tails. To measure, lift it (docker --cpus, "
            "Kubernetes' limits.cpu) and bind the process to cores instead (docker --cpuset-cpus)."
        )
    if state.throttled:
        found.append(
            f"The firmware reports: {', '.join(state.throttled)}. Under-voltage wants a stronger power supply, "
            "throttling a heat sink or a fan; until then latencies are not to be published."
        )
    return found
