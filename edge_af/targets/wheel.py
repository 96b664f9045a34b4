"""edge-af as a wheel, made from the installation that runs, and the packages that a board needs beside it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.metadata
import io
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import edge_af
from edge_af.bench.health import PACKAGES_OF
from edge_af.console import say
from edge_af.errors import EdgeAfError
from edge_af.files import write_json
from edge_af.targets.agent import home

PACKAGE = Path(edge_af.__file__).resolve().parent
PINNED = ("numpy", "onnxruntime", "ai-edge-litert")
"""Packages whose version decides what is measured: a target gets those of the workstation where they are to be had."""
OLDEST_GLIBC = 17
"""2.17: the oldest C library that wheels for Linux are built for."""


class NoWheels(EdgeAfError):
    """pip finds no wheels of a package for the machine."""


def build_wheel() -> bytes:
    """A wheel of this installation, edge-af as it is here. The same files give the same bytes."""
    calibration = PACKAGE / "calibration"
    if not calibration.is_dir():  # In the repository they stand beside the package.
        calibration = PACKAGE.parent / "calibration"
    contents = {f"edge_af/{name}": data for name, data in _files(PACKAGE)}
    contents |= {f"edge_af/calibration/{name}": data for name, data in _files(calibration)}
    devices = PACKAGE / "devices"
    if not devices.is_dir():
        devices = PACKAGE.parent / "benchmarks/devices"
    contents |= {f"edge_af/devices/{name}": data for name, data in _files(devices)}
    info = f"edge_af-{edge_af.__version__}.dist-info"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requirements())
    contents[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: edge-af\nVersion: {edge_af.__version__}\nRequires-Python: >=3.11\n{needs}".encode()
    )
    contents[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: edge-af\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    contents[f"{info}/entry_points.txt"] = b"[console_scripts]\nedge-af = edge_af.__main__:main\n"
    record = [f"{name},sha256={_record_hash(data)},{len(data)}\n" for name, data in sorted(contents.items())]
    contents[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in sorted(contents.items()):
            # An entry's own time would make another file of the same contents.
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, data)
    return buffer.getvalue()


def requirements() -> list[str]:
    """What a plain install needs, as `pyproject.toml` or the installed package says it.

    Raises:
        EdgeAfError: edge-af is neither in its repository nor installed.
    """
    source = PACKAGE.parent / "pyproject.toml"
    if source.is_file():
        project = tomllib.loads(source.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == "edge-af":
            return [str(one) for one in project["dependencies"]]
    try:
        return [one for one in importlib.metadata.requires("edge-af") or [] if "extra ==" not in one]
    except importlib.metadata.PackageNotFoundError:
        raise EdgeAfError("edge-af is not installed here, so nothing says what a board needs to run it.") from None


def requirement_groups(*, pinned: bool = False) -> dict[str, list[str]]:
    """The same in groups: `base`, without which nothing runs, and one for each runtime.

    Args:
        pinned: whether what figures depend on is wanted in the very versions that are installed here.
    """
    runtime_of = {package: runtime for runtime, packages in PACKAGES_OF.items() for package in packages}
    groups: dict[str, list[str]] = {"base": []}
    for one in requirements():
        name = re.split(r"[^A-Za-z0-9._-]", one, maxsplit=1)[0].lower()
        if pinned and name in PINNED:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                one = f"{name}=={importlib.metadata.version(name)}"
        groups.setdefault(runtime_of.get(name, "base"), []).append(one)
    return groups


def download_wheels(
    groups: dict[str, list[str]], machine: str, python: tuple[int, int], glibc: str
) -> tuple[dict[str, list[str]], list[Path]]:
    """Have this machine's pip get wheels for another machine; what was got before is kept in `~/.cache/edge-af/wheels`.

    Args:
        groups: as `requirement_groups` gives them.
        machine: the other's architecture, as `uname -m` says it.
        python: its Python's version, such as (3, 11).
        glibc: its C library's version, such as `2.36`.

    Returns:
        the groups for which there are wheels, and the wheels, pip's own among them.

    Raises:
        NoWheels: there are none of a group that must be, or of any runtime.
        EdgeAfError: pip is missing here, or gets nothing.
    """
    version = ".".join(map(str, python))
    newest = int(([*glibc.split("."), "0"])[1]) if glibc.startswith("2.") else OLDEST_GLIBC
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(newest, OLDEST_GLIBC - 1, -1)]
    identity = json.dumps([groups, machine, version, glibc], sort_keys=True)
    folder = home() / "wheels" / hashlib.sha256(identity.encode()).hexdigest()[:16]
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
        if len(found) < 3:
            raise NoWheels(f"no runtime has a wheel for {machine}, Python {version}, glibc {glibc}.")
        del found["pip"]
        write_json(complete, found)
    return json.loads(complete.read_text(encoding="utf-8")), sorted(folder.glob("*.whl"))


def _download(command: list[str], group: str) -> bool:
    """Whether pip got a group's wheels; False where there are none and one can do without."""
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


def _files(folder: Path) -> Iterable[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def _record_hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def sha256_of(data: Any) -> str:
    """SHA-256 of bytes, or of a JSON value's text, as hexadecimal digits."""
    content = data if isinstance(data, bytes) else json.dumps(data, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()
