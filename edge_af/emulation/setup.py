"""Set up emulation once in `~/.cache/edge-af/emulated`: QEMU, Python and libraries of an arm64 Debian, and aarch64 wheels.

The wheels are those of a plain install of edge-af on a Raspberry Pi. apt downloads the packages from the machine's configured
mirror, with its state in the new folder, and they are unpacked, not installed. So no root is needed, the system does not
change, and the setup needs no emulation. QEMU comes from Debian 12 on every system: later builds have no plugins, and
counts are comparable within one version.

The folder `systems/KEY` is built under a temporary name and renamed once it is complete and has been tested, so an interrupted
setup leaves none. KEY depends on the requested packages, so another version of a runtime gets another folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_af.cache import home
from edge_af.console import say
from edge_af.emulation.boards import LEAST_MEMORY, Board, parse_emulated
from edge_af.errors import EdgeAfError
from edge_af.files import (
    explain_os_errors,
    files_below,
    locked,
    package_data,
    read_json,
    replace_folder,
    sha256_json,
    write_atomic,
    write_json,
)
from edge_af.packages import PINNED, download_wheels, requirement_groups
from edge_af.typed import Mismatch, built

SUITE = "bookworm"
PYTHON = (3, 11)
GLIBC = "2.36"
"""glibc version of that suite."""
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
GUEST_PACKAGES = ("python3.11", "libstdc++6", "libgomp1", "zlib1g")
HOST_PACKAGES = ("qemu-user",)
TOOLS = {"apt-get": "apt", "dpkg-deb": "dpkg", "tar": "tar", "setarch": "util-linux", "env": "coreutils"}
DEBIAN_OF_MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}
SETUP = "edge-af targets setup emulated"

# The guest gets only these variables, because the counts of a process depend slightly on where its stack begins.
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}


@dataclass(frozen=True)
class System:
    """An installed emulated system."""

    folder: Path
    qemu: str
    """Version of QEMU, such as `7.2.22`."""
    python: str
    versions: dict[str, str]
    """Versions of the packages in the guest."""

    @property
    def python_path(self) -> str:
        """The guest's PYTHONPATH. Its own packages come first: those beside an installed edge_af are for this processor."""
        return f"{self.folder / 'packages'}:{package_data().parent}"

    def command(
        self,
        board: Board,
        arguments: Sequence[str],
        *,
        plugin: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Return the command that runs the guest's Python on the board's processor, with this package and the guest's wheels.

        Addresses are the same in every process (`setarch -R`), if the system permits it.
        """
        environment = {**_ENVIRONMENT, "PYTHONPATH": self.python_path, **(variables or {})}
        line = ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]
        line += ["setarch", "-R"] if _can_fix_addresses() else []
        line += [*qemu_command(self.folder), "-L", str(board_folder(self.folder, board)), "-cpu", board.cpu]
        line += ["-R", hex(board.memory_bytes)]
        line += ["-plugin", str(plugin)] if plugin is not None else []
        return [*line, str(self.folder / "root/usr/bin/python3.11"), "-P", "-s", *arguments]


def cache_folder() -> Path:
    """Return the folder of everything that belongs to emulation."""
    return home() / "emulated"


def find_system() -> System:
    """Find the installed emulated system.

    Raises:
        EdgeAfError: emulation is not set up for the installed versions.
    """
    folder = _folder(_identity())
    marker = folder / "system.json"
    if not marker.is_file():
        older = any((cache_folder() / "systems").glob("*/system.json"))
        why = "is set up for other versions than those installed here" if older else "is not set up"
        raise EdgeAfError(f"emulation {why}. Set it up once, without root: {SETUP}")
    return _read(folder)


def setup_emulated(mirror: str | None = None) -> tuple[System, bool]:
    """Set up emulation unless it is installed.

    Args:
        mirror: URL of a Debian mirror; the one of this machine's apt when None.

    Returns:
        the system, and whether it was already installed.

    Raises:
        EdgeAfError: it cannot be set up; says what is missing and how to get it.
    """
    identity = _identity()
    folder = _folder(identity)
    if (folder / "system.json").is_file():
        return _read(folder), True
    machine = _check_tools()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / ".lock", "another process is setting up emulation; waiting for it …", wait=True):
        if (folder / "system.json").is_file():  # Set up by another process meanwhile.
            return _read(folder), True
        for leftover in folder.parent.glob(".*.stage"):
            shutil.rmtree(leftover, ignore_errors=True)
        stage = folder.with_name(f".{folder.name}.stage")
        try:
            with explain_os_errors(stage):
                _make(stage, identity, machine, mirror)
                replace_folder(stage, folder, files_below(folder))
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    return _read(folder), False


def _make(stage: Path, identity: dict[str, Any], machine: str, mirror: str | None) -> None:
    source = mirror or own_mirror()
    if not KEYRING.is_file():
        raise EdgeAfError(
            f"{KEYRING} is missing; it verifies Debian's packages: sudo apt install debian-archive-keyring"
        )
    stage.mkdir(parents=True)
    say("downloading an arm64 Debian for the guest …")
    _unpack("arm64", GUEST_PACKAGES, source, stage / "root", stage / "apt")
    say("downloading QEMU …")
    _unpack(machine, HOST_PACKAGES, source, stage / "qemu", stage / "apt")
    shutil.rmtree(stage / "apt")
    _install_wheels(identity["requirements"], stage / "packages")
    version = re.search(r"version ([\d.]+)", _output([*qemu_command(stage), "--version"], "QEMU does not start"))
    system = System(stage, version[1] if version else "unknown", "", {})
    # This also compiles the packages' modules before the first run.
    code = (
        "import json, platform, numpy, onnxruntime, ai_edge_litert.interpreter, click, yaml\n"
        "from importlib.metadata import version\n"
        f"print(json.dumps([platform.python_version(), {{name: version(name) for name in {PINNED!r}}}]))"
    )
    say("testing it …")
    board = parse_emulated("emulated:pi4")
    line = system.command(board, ["-c", code])
    python, versions = json.loads(_output(line, "the guest does not run").splitlines()[-1])
    write_json(
        stage / "system.json", {"identity": identity, "qemu": system.qemu, "python": python, "versions": versions}
    )


def own_mirror() -> str:
    """Return the Debian mirror that this machine's apt is configured for.

    Raises:
        EdgeAfError: apt is configured for another system, or for no mirror.
    """
    with contextlib.suppress(OSError):
        system = platform.freedesktop_os_release()
    if system.get("ID") != "debian":
        raise EdgeAfError(
            f"the guest's packages come from a Debian mirror, but this is {system.get('PRETTY_NAME', platform.system())}.\n"
            f"Name one: {SETUP} --mirror URL (and: sudo apt install debian-archive-keyring)"
        )
    state = cache_folder() / "apt"
    (state / "lists/partial").mkdir(parents=True, exist_ok=True)
    said = _output(
        ["apt-get", "-o", f"Dir::State={state}", "--print-uris", "update"], "cannot get the mirror from apt-get"
    )
    suites = (system.get("VERSION_CODENAME", SUITE), SUITE, "stable", "oldstable", "testing", "unstable", "sid")
    for address, suite in re.findall(r"^'([^']+?)/dists/([^/']+)/InRelease'", said, re.MULTILINE):
        if suite in suites:
            return str(address)
    raise EdgeAfError(f"apt on this machine has no Debian mirror in its sources. Name one: {SETUP} --mirror URL")


def _unpack(architecture: str, packages: Sequence[str], mirror: str, root: Path, apt: Path) -> None:
    """Download packages with their dependencies and unpack them to `root`, which has a merged `/usr` as in Debian."""
    folder = apt / architecture
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(
        f"deb [arch={architecture} signed-by={KEYRING}] {mirror} {SUITE} main\n", encoding="utf-8"
    )
    options = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        # As root, apt would switch to a user who may not read this folder.
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    command = ["apt-get", "-qq", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    failure = f"apt-get cannot get packages for {architecture} from {mirror}"
    _output([*command, "update"], failure)
    _output([*command, "-y", "--no-install-recommends", "--download-only", "install", *packages], failure)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted((folder / "cache/archives").glob("*.deb")):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as tar:
            excluded = [f"--exclude=./usr/share/{name}" for name in ("doc", "man", "locale")]
            unpack = ["tar", "-x", "-C", str(root), "--keep-directory-symlink", "--no-same-owner", *excluded]
            done = subprocess.run(unpack, stdin=tar.stdout, capture_output=True, encoding="utf-8", errors="replace")
        if done.returncode or tar.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise EdgeAfError(f"{package.name} cannot be unpacked: {last}")


def guest_packages(requirement: str) -> Path:
    """Return a folder with one more package for the guest's PYTHONPATH, downloaded on first use.

    Raises:
        EdgeAfError: it has no wheel for the guest, or cannot be downloaded.
    """
    folder = cache_folder() / "more" / sha256_json([requirement, PYTHON, GLIBC])[:16]
    with locked(folder.with_name(f".{folder.name}.lock"), f"another process is getting {requirement} …", wait=True):
        if not folder.is_dir():
            stage = folder.with_name(f".{folder.name}.stage")
            shutil.rmtree(stage, ignore_errors=True)
            _install_wheels({"base": [requirement]}, stage)
            stage.rename(folder)
    return folder


def _install_wheels(groups: dict[str, list[str]], folder: Path) -> None:
    try:
        _, wheels = download_wheels(groups, "aarch64", PYTHON, GLIBC)
    except EdgeAfError as error:
        raise EdgeAfError(str(error).removeprefix("--offline: ").replace(", or leave --offline out", "")) from None
    say("unpacking the wheels …")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-index",
    ]
    command += ["--no-deps", "--no-compile", "--only-binary=:all:", "--implementation", "cp", "--target", str(folder)]
    command += ["--python-version", ".".join(map(str, PYTHON))]
    newest = int(GLIBC.partition(".")[2])
    command += [part for minor in range(newest, 16, -1) for part in ("--platform", f"manylinux_2_{minor}_aarch64")]
    command += ["--platform", "manylinux2014_aarch64"]
    _output(
        [*command, *(str(one) for one in wheels if not one.name.startswith("pip-"))], "pip cannot unpack the wheels"
    )


def qemu_command(folder: Path) -> list[str]:
    """Return the command for QEMU with its own loader and libraries, so that it runs on any Linux."""
    library = next((folder / "qemu/usr/lib").glob("*-linux-gnu"))
    loader = next(iter(sorted(library.glob("ld-linux-*.so.*"))))
    return [str(loader), "--library-path", str(library), str(folder / "qemu/usr/bin/qemu-aarch64")]


def board_folder(system: Path, board: Board) -> Path:
    """Return the guest's root folder for a board: links to the common one, and the board's `/proc` and `/sys` files."""
    left = board.memory_bytes - LEAST_MEMORY
    files = {
        "proc/cpuinfo": board.cpuinfo(),
        "proc/meminfo": "".join(
            f"{name + ':':<16}{amount // 1024:>8} kB\n"
            for name, amount in (("MemTotal", board.memory_bytes), ("MemFree", left), ("MemAvailable", left), ("SwapFree", 0))
        ),
        **{f"sys/devices/system/cpu/{name}": f"0-{board.profile.cores - 1}\n" for name in ("possible", "present", "online")},
    }  # fmt: skip
    folder = system / "boards" / f"{board.key}-{sha256_json(files)[:12]}"
    for name in ("usr", "bin", "sbin", "lib", "lib64", "etc"):
        link = folder / name
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                link.symlink_to(os.path.relpath(system / "root" / name, folder))
    for name, text in files.items():
        if not (folder / name).is_file():
            write_atomic(folder / name, text)
    return folder


def _identity() -> dict[str, Any]:
    """List everything that the folder's contents depend on."""
    return {
        "layout": 1,
        "suite": SUITE,
        "machine": platform.machine(),
        "packages": [*GUEST_PACKAGES, *HOST_PACKAGES],
        "requirements": requirement_groups(pinned=True),
    }


def _folder(identity: dict[str, Any]) -> Path:
    return cache_folder() / "systems" / sha256_json(identity)[:16]


def _read(folder: Path) -> System:
    path = folder / "system.json"
    value = read_json(path, "mark of what was set up")
    try:
        mark = built(_Mark, value, unknown=True)
    except Mismatch as error:
        raise EdgeAfError(f"{path}: damaged ({error}). Remove {folder} and set up emulation again.") from None
    return System(folder, mark.qemu, mark.python, mark.versions)


@dataclass(frozen=True)
class _Mark:
    """Record of an installed system, as in `system.json`."""

    qemu: str
    python: str
    versions: dict[str, str]


def _check_tools() -> str:
    """Check for the needed programs and return Debian's name for this machine's architecture."""
    machine = DEBIAN_OF_MACHINE.get(platform.machine())
    if platform.system() != "Linux" or machine is None:
        raise EdgeAfError(
            f"emulation needs Linux on x86-64 or 64-bit ARM, but this is {platform.system()} on {platform.machine()}."
        )
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if {"apt-get", "dpkg-deb"} & set(missing):
        raise EdgeAfError(
            f"this machine has no {' and no '.join(missing)} to get the guest's packages with: it needs Debian or a "
            "derived system.\nIn a container: Debian 12, with apt, python3-venv and gcc."
        )
    if missing:
        raise EdgeAfError(f"this machine has no {missing[0]}: sudo apt install {TOOLS[missing[0]]}")
    return machine


def _can_fix_addresses() -> bool:
    """Return True if `setarch -R` works. Containers may forbid it; counts of vector instructions do not depend on it."""
    return subprocess.run(["setarch", "-R", "true"], capture_output=True).returncode == 0


def _output(command: list[str], failure: str) -> str:
    """Return the output of a command.

    Raises:
        EdgeAfError: it fails; the message is `failure` and its error line.
    """
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL, env=environment
    )
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        last = next(
            (line for line in lines if line.startswith(("E: ", "ERROR: "))), lines[-1] if lines else "no message"
        )
        raise EdgeAfError(f"{failure}: {last}")
    return done.stdout
