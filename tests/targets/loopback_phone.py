"""A phone to bench on: a real adb daemon, Debian's `adbd`, isolated in separate namespaces.

The daemon accepts anyone who reaches its port. It therefore runs in a network namespace that only has a loopback, and the
adb server in that namespace listens on a Unix socket. The phone's root folder is this machine's, with a small `/data` and
those parts of `/sys` that describe a phone's cores and heat. No root is needed if users may create namespaces.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from small_dataset import REPOSITORY

STAND_IN = Path(__file__).with_name("benchmark_model_stand_in.py")
PORT = 15555
"""Not adb's default: the server would take port 5555 for an emulator."""
SUITE = "trixie"
"""First Debian release with the package adbd."""

_NAMESPACES = ("-Urnm", "-nm")
"""Options of `unshare` with a user namespace, and without one, for root only."""

# $1: folder, $2: size of the phones' storage, $3: daemon's command, $4: number of phones, $5: Python, $6: its script.
_START = r"""
set -e
ip link set lo up
i=0
while [ $i -lt "$4" ]; do
    P="$1/phone$i"
    mkdir -p "$P"
    mount -t tmpfs tmpfs "$P"
    for d in /* ; do
        [ "$d" != /sys ] && [ "$d" != /data ] || continue
        if [ -L "$d" ]; then cp -P "$d" "$P$d"; elif [ -d "$d" ]; then mkdir -p "$P$d"; mount --rbind "$d" "$P$d"; fi
    done
    mkdir -p "$P/data" "$P/sys"
    mount -t tmpfs -o size="$2" tmpfs "$P/data"
    mkdir -p "$P/data/local/tmp"
    cp -r "$1/sys/." "$P/sys/"
    (
        export ADBD_PORT=$((PORT + i)) HOME=/ PATH="$1/bin:$PATH"
        while :; do
            [ -e "$1/unplugged" ] || chroot "$P" sh -c "$3" >>"$1/adbd$i.log" 2>&1 || true
            sleep 0.05
        done
    ) &
    i=$((i + 1))
done
"$5" "$6" $((PORT + 10)) $((PORT + 11)) &
HOME="$1" ANDROID_ADB_MDNS=0 adb -L "localfilesystem:$1/adb" server nodaemon >"$1/server.log" 2>&1 &
wait
"""

# Two more phones: one whose daemon never answers, and one that never authorizes this computer. A message in adb's protocol
# starts with six numbers: kind, two arguments, length and sum of the data, and the kind's complement.
_ODD = r"""
import socket, struct, sys, threading
def serve(port, answer):
    server = socket.create_server(("127.0.0.1", port))
    while True:
        client = server.accept()[0]
        threading.Thread(target=answer, args=(client,), daemon=True).start()
def silent(client):
    while client.recv(4096):
        pass
def forbidding(client):
    auth, token = int.from_bytes(b"AUTH", "little"), bytes(20)
    while head := client.recv(24, socket.MSG_WAITALL):
        client.recv(struct.unpack("<6I", head)[3], socket.MSG_WAITALL)
        if head[:4] == b"CNXN" or head[4] == 2:  # Answer a connection or a signature with a token to sign.
            client.sendall(struct.pack("<6I", auth, 1, 0, 20, sum(token), auth ^ 0xFFFFFFFF) + token)
threading.Thread(target=serve, args=(int(sys.argv[1]), silent)).start()
serve(int(sys.argv[2]), forbidding)
"""

_GETPROP = """#!/bin/sh
case "$1" in
    ro.product.manufacturer) echo Example ;;
    ro.product.model) echo "Phone One" ;;
    ro.soc.manufacturer) echo Maker ;;
    ro.soc.model) echo SC1 ;;
    ro.build.version.release) echo 16 ;;
    ro.build.version.sdk) echo 36 ;;
esac
"""

_DUMPSYS = """#!/bin/sh
[ "$1" = thermalservice ] || exit 1
cat <<END
IsStatusOverride: false
Thermal Status: $(cat {folder}/thermal)
Cached temperatures:
	Temperature{{mValue=99.5, mType=0, mName=CPU0, mStatus=0}}
HAL Ready: true
Current temperatures from HAL:
	Temperature{{mValue=41.5, mType=0, mName=CPU0, mStatus=0}}
	Temperature{{mValue=43.0, mType=0, mName=CPU1, mStatus=0}}
	Temperature{{mValue=44.0, mType=2, mName=BATTERY, mStatus=0}}
Current cooling devices from HAL:
	CoolingDevice{{mValue=0, mType=2, mName=thermal-cpufreq-0}}
END
"""


def namespaces() -> str | None:
    """Return the option of `unshare` that works here, or None."""
    for option in _NAMESPACES if os.geteuid() == 0 else _NAMESPACES[:1]:
        if subprocess.run(["unshare", option, "ip", "link", "set", "lo", "up"], capture_output=True).returncode == 0:
            return option
    return None


def adbd_command(cache: Path) -> str:
    """Return the command that starts the daemon: the installed one, or one downloaded from apt's mirrors.

    Raises:
        LookupError: there is none; the message says why.
    """
    for name in ("adb", "unshare", "ip"):
        if shutil.which(name) is None:
            raise LookupError(f"no {name} here (Debian: apt install adb util-linux iproute2)")
    if namespaces() is None:
        raise LookupError("this account cannot create network namespaces")
    if (own := shutil.which("adbd")) is not None:
        return f"exec {own}"
    root = cache / "root"
    if not root.is_dir():
        _get_adbd(cache, root)
    loader, libraries = next(root.glob("**/ld-linux-*.so.?")), {path.parent for path in root.glob("**/*.so*")}
    program = next(path for path in root.glob("usr/*bin/adbd"))
    # Its libraries are newer than this machine's, and its child processes must not load them.
    return f"exec {loader} --library-path {':'.join(map(str, sorted(libraries)))} {program}"


def _get_adbd(cache: Path, root: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise LookupError("no adbd here, and no apt to download it")
    told = _said("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages")
    mirrors = {line.split()[0] for line in told.splitlines() if line.split()[-1:] != [] and "/debian/" in line}
    if not mirrors:
        raise LookupError("no adbd here, and apt is not configured with a Debian mirror")
    shutil.rmtree(cache, ignore_errors=True)
    for name in ("lists/partial", "archives/partial", "stage"):
        (cache / name).mkdir(parents=True)
    (cache / "status").touch()
    (cache / "sources.list").write_text("".join(f"deb {mirror} {SUITE} main\n" for mirror in sorted(mirrors)))
    apt = ["apt-get", "-qq", "-y", "-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1"]
    apt += ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20"]
    places = {"State": cache, "State::lists": cache / "lists", "State::status": cache / "status", "Cache": cache}
    places |= {"Etc::sourcelist": cache / "sources.list", "Etc::sourceparts": "/dev/null"}
    apt += [word for name, place in places.items() for word in ("-o", f"Dir::{name}={place}")]
    _said(*apt, "update")
    _said(*apt, "--no-install-recommends", "--download-only", "install", "adbd")
    packages = list((cache / "archives").glob("*.deb"))
    if not any(path.name.startswith("adbd_") for path in packages):
        raise LookupError(f"no adbd here, and apt's mirrors have none in {SUITE}")
    for path in packages:
        _said("dpkg-deb", "-x", str(path), str(cache / "stage"))
    for name in ("archives", "lists"):
        shutil.rmtree(cache / name)
    (cache / "stage").rename(root)


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        raise LookupError(f"no adbd here, and the download fails: `{' '.join(command[-2:])}` does not end") from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise LookupError(f"no adbd here, and the download fails: `{' '.join(command[-2:])}`: {' '.join(last)}")
    return done.stdout


class LoopbackPhone:
    """One or two phones, and the adb server that sees them."""

    def __init__(self, adbd: str, *, phones: int = 1, storage: str = "256m") -> None:
        # The path of a Unix socket may have at most about 100 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="edge-af-phone-", dir="/tmp"))
        self.count = phones
        self._describe()
        option = namespaces()
        assert option is not None
        self._space = subprocess.Popen(
            [
                "unshare",
                option,
                "--kill-child",
                "--fork",
                "--pid",
                "--mount-proc",
                "sh",
                "-c",
                _START,
                "sh",
                str(self.folder),
                storage,
                adbd,
                str(phones),
                sys.executable,
                str(self.folder / "odd.py"),
            ],
            env={**os.environ, "PORT": str(PORT), "PYTHONPATH": "", "ANDROID_SERIAL": ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "space.log").open("w"),
            start_new_session=True,
        )
        self.serials = [f"127.0.0.1:{PORT + index}" for index in range(phones)]
        self.silent, self.forbidding = f"127.0.0.1:{PORT + 10}", f"127.0.0.1:{PORT + 11}"
        for serial in self.serials:
            self.connect(serial)

    def _describe(self) -> None:
        """Write the contents of the phone's `/sys`, `getprop` and `dumpsys`. Core 0 is small, the others are big."""
        tools = self.folder / "bin"
        tools.mkdir()
        (self.folder / "thermal").write_text("0\n")
        (self.folder / "odd.py").write_text(_ODD)
        for name, text in (("getprop", _GETPROP), ("dumpsys", _DUMPSYS.format(folder=self.folder))):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        cpus = self.folder / "sys/devices/system/cpu"
        for core in range(os.cpu_count() or 1):
            folder = cpus / f"cpu{core}/cpufreq"
            folder.mkdir(parents=True)
            (folder / "cpuinfo_max_freq").write_text("2850000\n" if core else "1800000\n")
            (folder / "scaling_governor").write_text("schedutil\n")
        for name in ("possible", "present", "online"):
            (cpus / name).write_text(f"0-{(os.cpu_count() or 1) - 1}\n")

    @property
    def environment(self) -> dict[str, str]:
        """Environment for `edge-af` and `adb` on this machine."""
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if name != "ANDROID_SERIAL"}
        return {
            **kept,
            "ADB_SERVER_SOCKET": f"localfilesystem:{self.folder / 'adb'}",
            "HOME": str(self.folder),
            "TMPDIR": str(temporary),
            "PYTHONPATH": str(REPOSITORY),
        }

    def adb(self, *arguments: str) -> str:
        """Run the real adb and return its output."""
        done = subprocess.run(["adb", *arguments], env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    def connect(self, serial: str) -> None:
        """Connect the server to a phone."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._space.poll() is None, (self.folder / "space.log").read_text()
            if (self.folder / "adb").exists():
                self.adb("connect", serial)
                if f"{serial}\tdevice" in self.adb("devices"):
                    return
            time.sleep(0.1)
        raise AssertionError([path.read_text()[-1000:] for path in self.folder.glob("*.log")])

    def plug(self) -> None:
        """Start the daemons again."""
        (self.folder / "unplugged").unlink()
        for serial in self.serials:
            self.adb("disconnect", serial)
            self.connect(serial)

    def unplug(self) -> None:
        """Kill every phone's daemon."""
        (self.folder / "unplugged").touch()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
                environ = (process / "environ").read_bytes()
            except OSError:
                continue
            if words[-2:-1] and words[-2].endswith(b"/adbd") and f"PATH={self.folder}/bin:".encode() in environ:
                os.kill(int(process.name), signal.SIGKILL)

    def stop(self) -> None:
        """Stop everything and delete the folder."""
        self._space.kill()
        self._space.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def program(self, text: str | None = None) -> Path:
        """Write a `benchmark_model` for this phone: the stand-in, or a shell script with this text."""
        path = self.folder / ("benchmark_model" if text is None else "other_model")
        path.write_text(f"#!{sys.executable}\n{STAND_IN.read_text()}" if text is None else f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def command(self, *arguments: object, where: tuple[object, ...] = ("--target", "adb")) -> list[str]:
        """Return the command of a bench on this phone, or on the target in `where`."""
        return [sys.executable, "-m", "edge_af", "bench", *map(str, (*arguments, *where))]

    def client_environment(self) -> dict[str, str]:
        """Return the environment; `Started` expects the interface of a board."""
        return self.environment

    def bench(
        self, *arguments: object, where: tuple[object, ...] = ("--target", "adb")
    ) -> subprocess.CompletedProcess[str]:
        """Run `edge-af bench … --target adb`."""
        done = subprocess.run(
            self.command(*arguments, where=where), env=self.environment, capture_output=True, text=True, timeout=600
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done
