"""The `adb` binary and the phone it is connected to.

`adb shell` passes its arguments to the phone's shell as one string. So each script here is a constant string, and its
arguments follow it, each quoted, as positional parameters.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_af.errors import EdgeAfError
from edge_af.files import locked, sha256_file

FOLDER = "/data/local/tmp/edge-af"
"""Folder on the phone, in the only place where its shell may both write and run programs."""
KEEP_DAYS = 30
SETTLE_SECONDS = 5.0
"""Time for a phone to be ready after plugging in, when it reports `offline` or `authorizing`, or the adb server started."""
SHORT_SECONDS = 60.0
"""Timeout for quick commands."""
LONG_SECONDS = 1800.0
"""Timeout for copying and hashing files."""

_ENDED = "edge-af-ended"
_STATES = {
    "unauthorized": "it has not allowed this computer. Unlock it and confirm `Allow USB debugging`; if it does not ask,\n"
    "revoke the USB debugging authorizations in its developer options, and plug it in again",
    "authorizing": "it is asking whether to allow this computer. Unlock it and confirm `Allow USB debugging`",
    "offline": "adb sees it, but it does not answer (offline). Plug it in again, or: adb reconnect offline",
    "no permissions": "this account may not use its USB port. On Debian: apt install android-sdk-platform-tools-common,\n"
    "and log in again with the group plugdev; then plug it in again",
    "bootloader": "it is in its bootloader. Start Android: fastboot reboot",
    "recovery": "it is in recovery mode. Start Android: adb reboot",
    "sideload": "it is in recovery mode. Start Android: adb reboot",
}
_NONE = (
    "adb sees no phone. In the phone's settings, tap its build number seven times, switch on USB debugging in the\n"
    "developer options, plug it in, and confirm `Allow USB debugging`; `adb devices` then lists it."
)

# The program of an interrupted measurement may still run. End it only if it was started by edge-af.
_STOP = (
    f"p=$(cat {FOLDER}/run.pid 2>/dev/null) && grep -qF {FOLDER}/files/ /proc/$p/cmdline 2>/dev/null && kill -9 $p; "
    f"rm -f {FOLDER}/run.pid"
)
_RUN = f'cd {FOLDER} && exec sh -c \'echo $$ >run.pid && exec "$@"\' sh "$@"'
_HELD = (
    f"mkdir -p {FOLDER}/files && chmod 700 {FOLDER} && cd {FOLDER}/files || exit 1; rm -f ./*.part; "
    f"find . -type f -mtime +{KEEP_DAYS} -exec rm -f {{}} +; "
    'for f; do [ -f "$f" ] && touch "$f" && sha256sum "$f"; done; echo room; df -k . | tail -n 1'
)
_TAKE = (
    f'cd {FOLDER}/files && case "$(sha256sum <"$1.part")" in "$1"*) chmod 755 "$1.part" && mv -f "$1.part" "$1" ;; '
    '*) rm -f "$1.part"; exit 1 ;; esac'
)


FORM = "adb[:SERIAL]"
# As `adb devices` prints it: letters and digits over USB, address and port or a service name over the network. Over Wi-Fi it
# may contain a space: `adb-13e7-Up (2)._adb-tls-connect._tcp`.
_SERIAL = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.:%\[\]() -]*(?<! )")


@dataclass(frozen=True)
class AdbTarget:
    """An Android phone."""

    serial: str | None = None
    """Serial number as printed by `adb devices`; None for the only phone."""

    @property
    def label(self) -> str:
        """Name in messages: `adb:8A1X0LZ5K`."""
        return f"adb:{self.serial}" if self.serial is not None else "adb"


def parse_adb(text: str) -> AdbTarget:
    """Parse an address `adb[:SERIAL]`.

    Raises:
        EdgeAfError: it has another form.
    """
    if text == "adb":
        return AdbTarget()
    serial = text.removeprefix("adb:")
    if not text.startswith("adb:") or not _SERIAL.fullmatch(serial):
        raise EdgeAfError(
            f"--target {text!r}: {serial!r} is not a serial number as printed by `adb devices`; expected {FORM}."
        )
    return AdbTarget(serial)


class Gone(EdgeAfError):
    """The phone no longer responds."""


@dataclass(frozen=True)
class Ended:
    """Exit code and output of a script on the phone. `status` is None if it timed out and was stopped."""

    status: int | None
    out: str
    err: str


@dataclass(frozen=True)
class File:
    """A file for the phone, identified by its hash."""

    path: Path
    sha256: str
    size: int

    @property
    def place(self) -> str:
        """Path on the phone."""
        return f"{FOLDER}/files/{self.sha256}"


def find_phone(target: AdbTarget) -> Phone:
    """Find the phone of a target.

    Raises:
        EdgeAfError: adb is not installed, the phone is unknown or cannot be used, or several phones need a serial number.
    """
    adb = shutil.which("adb")
    if adb is None:
        raise EdgeAfError(
            "--target adb needs the program `adb`, which is not installed here (Debian: apt install adb; elsewhere:\n"
            "Android's SDK Platform Tools)."
        )
    # adb's own default.
    serial = target.serial or os.environ.get("ANDROID_SERIAL") or None
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        states = _devices(adb)
        named = {one: state for one, state in states.items() if serial in (None, one)}
        settled = named and not set(named.values()) & {"offline", "authorizing", "connecting"}
        if settled or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    listed = ", ".join(f"{one} ({state})" if state != "device" else one for one, state in states.items())
    if serial is not None and serial not in states:
        how = f"Connect it first: adb connect {serial}" if ":" in serial else "Is it plugged in, with USB debugging on?"
        raise EdgeAfError(f"adb:{serial}: adb does not see it; it sees {listed or 'no phone'}.\n{how}")
    if not states:
        raise EdgeAfError(_NONE)
    if len(named) > 1:
        raise EdgeAfError(f"--target adb: there is more than one phone: {listed}.\nName one: --target adb:SERIAL")
    ((serial, state),) = named.items()
    if state != "device":
        reason = next((text for name, text in _STATES.items() if state.startswith(name)), f"its state is {state!r}")
        raise EdgeAfError(f"adb:{serial}: {reason}.")
    return Phone(adb, serial)


def _devices(adb: str) -> dict[str, str]:
    """Return the state of each phone that adb sees, by serial number."""
    done = _call([adb, "devices"], SHORT_SECONDS)
    if done is None or done.returncode:
        said = done.stderr.strip().splitlines()[-1:] if done is not None else ["it timed out"]
        raise EdgeAfError(f"`adb devices` fails: {(said or ['no message'])[0]}")
    rows = [line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line]
    return {row[0].strip(): row[1].strip() for row in rows}


def _call(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str] | None:
    """Run `adb`; None if it timed out. Ctrl-C does not reach it or the server that it may start."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
    except BaseException:
        process.kill()
        process.wait()
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


class Phone:
    """A connected phone."""

    def __init__(self, adb: str, serial: str) -> None:
        self._adb, self.serial = adb, serial

    @property
    def label(self) -> str:
        """Name in messages."""
        return AdbTarget(self.serial).label

    def shell(self, script: str, *words: str, seconds: float = SHORT_SECONDS) -> Ended:
        """Run a script in the phone's shell, with `words` as positional parameters, which may contain any characters.

        Raises:
            Gone: the phone no longer responds.
        """
        # A marker line with the exit code shows that the script ended rather than the connection. Old phones return no status.
        line = f"{shlex.join(['sh', '-c', script, 'sh', *words])}; s=$?; echo; echo {_ENDED} $s"
        done = _call([self._adb, "-s", self.serial, "shell", "-T", line], seconds)
        if done is None:
            self._check_there()
            return Ended(None, "", "")
        out, mark, status = done.stdout.replace("\r\n", "\n").rpartition(f"\n{_ENDED} ")
        if not mark or not status.strip().isdigit():
            said = done.stderr.strip().splitlines()[-1:]
            raise self._gone(said[0] if said else "the connection broke")
        return Ended(int(status), out, done.stderr)

    def run(self, command: Sequence[str], seconds: float) -> Ended:
        """Run a program on the phone. It has ended when this returns or raises, unless the phone no longer responds.

        Raises:
            Gone: the phone no longer responds.
        """
        try:
            ended = self.shell(_RUN, *command, seconds=seconds)
        except BaseException:
            with contextlib.suppress(EdgeAfError):
                self.stop()
            raise
        if ended.status is None:
            self.stop()
        return ended

    def stop(self) -> None:
        """End a program left by `run`, possibly from an earlier bench with a broken connection."""
        self.shell(_STOP)

    def lacking(self, files: Sequence[File]) -> list[File]:
        """List the files that the phone lacks, each once. Existing files are hashed again: storage loses bits.

        Raises:
            Gone: the phone no longer responds.
            EdgeAfError: they do not fit into its storage.
        """
        held = self.shell(_HELD, *(file.sha256 for file in files), seconds=LONG_SECONDS)
        said, _, room = held.out.partition("room\n")
        if held.status:
            raise EdgeAfError(f"{self.label}: cannot write to {FOLDER}: {_last(held)}")
        there = {words[1] for words in map(str.split, said.splitlines()) if len(words) == 2 and words[0] == words[1]}
        lacking = list({file.sha256: file for file in files if file.sha256 not in there}.values())
        needed, fields = sum(file.size for file in lacking), room.split()
        if len(fields) >= 4 and fields[-3].isdigit() and int(fields[-3]) * 1024 < needed:
            raise self._full(needed, int(fields[-3]) * 1024)
        return lacking

    def push(self, file: File) -> None:
        """Copy a file to the phone and verify it; on an error, nothing is left of it.

        Raises:
            Gone: the phone no longer responds.
            EdgeAfError: its storage is full, or the file does not arrive intact.
        """
        part = f"{file.place}.part"
        done = _call([self._adb, "-s", self.serial, "push", str(file.path), part], LONG_SECONDS)
        if done is None or done.returncode:
            self._check_there()
            text = f"{done.stdout}\n{done.stderr}" if done is not None else "it timed out"
            self.shell('rm -f "$1"', part)
            if "No space left" in text:
                raise self._full(file.size, None)
            raise EdgeAfError(f"{self.label}: cannot copy {file.path.name}: {text.strip().splitlines()[-1]}")
        took = self.shell(_TAKE, file.sha256, seconds=LONG_SECONDS)
        if took.status != 0:
            raise EdgeAfError(f"{self.label}: {file.path.name} arrived damaged: {_last(took)}")

    def pull(self, place: str, path: Path) -> None:
        """Copy a file from the phone to `path` and verify it.

        Raises:
            Gone: the phone no longer responds.
            EdgeAfError: the file does not exist, or does not arrive intact.
        """
        told = self.shell('sha256sum <"$1"', place)
        if told.status != 0:
            raise EdgeAfError(f"{self.label}: there is no {place}")
        done = _call([self._adb, "-s", self.serial, "pull", place, str(path)], LONG_SECONDS)
        if done is None or done.returncode:
            self._check_there()
            text = f"{done.stdout}\n{done.stderr}" if done is not None else "it timed out"
            raise EdgeAfError(f"{self.label}: cannot copy {place} from there: {text.strip().splitlines()[-1]}")
        if sha256_file(path) != told.out.split()[0]:
            raise EdgeAfError(f"{self.label}: {place} arrived damaged. Try another cable or port.")

    def _full(self, needed: int, free: int | None) -> EdgeAfError:
        room = f"{free / 1e6:,.0f} MB are free there" if free is not None else "its storage is full"
        return EdgeAfError(
            f"{self.label}: {needed / 1e6:,.1f} MB do not fit into {FOLDER}: {room}.\n"
            f"Free some space. To remove files of earlier benches: adb shell rm -r {FOLDER}"
        )

    def _check_there(self) -> None:
        state = _devices(self._adb).get(self.serial)
        if state != "device":
            raise self._gone(f"its state is {state!r}" if state else "adb no longer sees it")

    def _gone(self, why: str) -> Gone:
        return Gone(
            f"{self.label}: it no longer responds: unplugged, switched off or restarted ({why}).\n"
            "Once it is back, the same command continues from there."
        )


def _last(ended: Ended) -> str:
    lines = [line.strip() for line in (ended.err or ended.out).splitlines() if line.strip()]
    return lines[-1] if lines else f"status {ended.status}"


@contextlib.contextmanager
def alone(phone: Phone) -> Iterator[None]:
    """Lock the phone for one bench of this account.

    Raises:
        EdgeAfError: another bench holds the lock.
    """
    # Hash the serial number: it is private, and may contain characters that file names may not.
    name = hashlib.sha256(phone.serial.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"edge-af-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise EdgeAfError(f"{folder}: not owned by this account. Remove it, or set TMPDIR to another folder.")
    with locked(folder / f"adb-{name}.lock", f"{phone.label}: another bench is using it. Wait for it, or stop it."):
        yield
