"""Prepare edge-af for another machine: an archive of this installation, and its packages."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from shlex import quote
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement

from edge_af.cache import home
from edge_af.console import say
from edge_af.errors import EdgeAfError
from edge_af.files import package_data, sha256_json, write_json

PACKAGES_OF = {"onnxruntime": ("onnxruntime",), "litert": ("ai-edge-litert", "tflite-runtime")}
"""Packages that provide each runtime; the first is the one to install."""
PINNED = ("numpy", "onnxruntime", "ai-edge-litert")
"""Packages whose versions affect measurements: a target gets the workstation's versions where available."""
OLDEST_GLIBC = 17
"""glibc 2.17 is the oldest C library that Linux wheels are built for."""


class NoWheels(EdgeAfError):
    """pip finds no wheel of a package for the machine."""


def is_installed(package: str) -> bool:
    """Return True if a package, by its import name, can be found. It is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # A finder may raise for a package that it does not find.
        return False


def no_wheels(machine: str, bits: int) -> str | None:
    """Return why a 32-bit system cannot install a runtime; None on other systems.

    Package availability as of November 2026, for Python 3.11 and 3.13.
    """
    if bits == 64:
        return None
    if machine in ("aarch64", "arm64", "x86_64"):
        return (
            f"This Python is 32-bit, on a 64-bit kernel ({machine}). onnxruntime, ai-edge-litert and numpy have no "
            "32-bit wheels: install the 64-bit system (Raspberry Pi OS, 64-bit)."
        )
    if machine.startswith("arm"):
        return (
            f"This system is 32-bit ({machine}). onnxruntime and ai-edge-litert have no wheels for it; tflite-runtime "
            "2.14.0 has one for armv7l, for Python 3.11 or older and numpy below 2, and edge-af needs numpy 2. From the "
            "Raspberry Pi 3 and Zero 2 on, install the 64-bit system; older boards cannot run edge-af."
        )
    return (
        f"This system is 32-bit ({machine}). onnxruntime, ai-edge-litert, tflite-runtime and numpy have no wheels for it: "
        "install a 64-bit system, if the processor is one."
    )


def app_archive() -> bytes:
    """Pack this installation's `edge_af` folder into a ZIP archive. The same files always give the same bytes."""
    package, buffer = package_data(), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder, folders, names in os.walk(package, followlinks=True):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(names):
                path = Path(folder, name)
                # A fixed date, because the file's own would change the archive's hash.
                entry = zipfile.ZipInfo(f"edge_af/{path.relative_to(package).as_posix()}", (1980, 1, 1, 0, 0, 0))
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def requirement_groups(*, pinned: bool = False) -> dict[str, list[str]]:
    """Group the requirements of a plain install: `base`, and one optional group for each runtime.

    Args:
        pinned: require the installed versions of the packages in `PINNED`.

    Raises:
        EdgeAfError: edge-af is not installed, so its requirements are unknown.
    """
    try:
        requirements = [Requirement(text) for text in importlib.metadata.requires("edge-af") or []]
    except importlib.metadata.PackageNotFoundError:
        raise EdgeAfError(
            "edge-af is not installed here, so its requirements are unknown. Install it with pip."
        ) from None
    runtime_of = {package: runtime for runtime, packages in PACKAGES_OF.items() for package in packages}
    groups: dict[str, list[str]] = {"base": []}
    for one in requirements:
        if one.marker is not None and "extra" in str(one.marker):
            continue
        text = str(one)
        if pinned and one.name in PINNED:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                text = f"{one.name}=={importlib.metadata.version(one.name)}"
        groups.setdefault(runtime_of.get(one.name, "base"), []).append(text)
    return groups


def install_command(extra: str) -> str:
    """Return a shell command that adds an extra, such as `train`, to this installation.

    edge-af is on no package index, so the command names the checkout or the wheel that it was installed from. If that is gone,
    it names the extra's packages.
    """
    pip = shutil.which("pip")
    command = "pip" if pip and Path(pip).parent == Path(sys.executable).parent else f"{quote(sys.executable)} -m pip"
    try:
        distribution = importlib.metadata.distribution("edge-af")
    except importlib.metadata.PackageNotFoundError:
        return f"{command} install -e {quote(f'{Path(__file__).resolve().parents[1]}[{extra}]')}"
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    source = Path(unquote(urlsplit(origin.get("url", "")).path))
    if origin and source.exists():
        editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
        return f"{command} install {editable}{quote(f'{source}[{extra}]')}"
    needed = [Requirement(text) for text in distribution.requires or []]
    own = [one for one in needed if one.marker and "extra" in str(one.marker) and one.marker.evaluate({"extra": extra})]
    return f"{command} install {' '.join(quote(f'{one.name}{one.specifier}') for one in own)}"


def download_wheels(
    groups: dict[str, list[str]], machine: str, python: tuple[int, int], glibc: str
) -> tuple[dict[str, list[str]], list[Path]]:
    """Download wheels for another machine with this machine's pip, cached in `~/.cache/edge-af/wheels`.

    Args:
        groups: from `requirement_groups`.
        machine: the other machine's architecture, as in `uname -m`.
        python: its Python version, such as (3, 11).
        glibc: its glibc version, such as `2.36`.

    Returns:
        the groups that have wheels, and the wheels, including pip's own.

    Raises:
        NoWheels: `base`, or every runtime, has no wheels.
        EdgeAfError: pip is missing here, or the download failed.
    """
    version = ".".join(map(str, python))
    newest = int(([*glibc.split("."), "0"])[1]) if glibc.startswith("2.") else OLDEST_GLIBC
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(newest, OLDEST_GLIBC - 1, -1)]
    folder = home() / "wheels" / sha256_json([groups, machine, version, glibc])[:16]
    complete = folder / "complete.json"
    if not complete.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", version, "-d", str(folder)]
        command += [part for one in [*platforms, f"manylinux2014_{machine}"] for part in ("--platform", one)]
        found = {}
        for name, wanted in {**groups, "pip": ["pip"]}.items():
            say(f"getting wheels for {machine}, Python {version}: {' '.join(wanted)}")
            if _download([*command, *wanted], name):
                found[name] = wanted
        if len(groups) > 1 and len(found) < 3:
            raise NoWheels(f"no runtime has a wheel for {machine}, Python {version}, glibc {glibc}.")
        del found["pip"]
        write_json(complete, found)
    return json.loads(complete.read_text(encoding="utf-8")), sorted(folder.glob("*.whl"))


def _download(command: list[str], group: str) -> bool:
    """Download a group's wheels; return False if an optional group has none."""
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return True
    lines = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else "no message"
    if "No module named pip" in last:
        raise EdgeAfError(
            f"--offline: {sys.executable} has no pip to get wheels with. Install it, or leave --offline out."
        )
    if "No matching distribution" not in last:
        raise EdgeAfError(f"--offline: pip cannot get the wheels here: {last}")
    if group in PACKAGES_OF:
        return False
    raise NoWheels(f"--offline: pip cannot get the wheels here: {last}")
