"""Limits: too little disk space, memory or file descriptors, closed streams, odd locales and accounts.

Under each limit, a verb gives its usual output or says why not.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ground import Ground, finish, start
from kills import Reference
from outcome import Case, judged
from verbs import VERBS, Verb, lay_out

Limit = dict[str, object]
"""Arguments of `ground.start`: `preexec_fn`, `stdout`, `stderr`, `environment`, `before`."""


@dataclass(frozen=True)
class Kind:
    """Kind of limit."""

    name: str
    make: Callable[[random.Random, Path], Limit]
    says_nothing: bool = False
    """True if the verb's messages are lost."""
    disk: int = field(default=0)
    """Size in bytes of a file system to run on; 0: the usual one."""


def _limited(what: int, amount: Callable[[random.Random], int]) -> Callable[[random.Random, Path], Limit]:
    def make(draw: random.Random, place: Path) -> Limit:
        most = amount(draw)
        return {"preexec_fn": lambda: resource.setrlimit(what, (most, most))}

    return make


def _environment(**changes: str | None) -> Callable[[random.Random, Path], Limit]:
    def make(draw: random.Random, place: Path) -> Limit:
        wanted = {**os.environ, **changes}
        return {"environment": {name: value for name, value in wanted.items() if value is not None}}

    return make


def _closed(*numbers: int) -> Callable[[random.Random, Path], Limit]:
    def make(draw: random.Random, place: Path) -> Limit:
        return {"preexec_fn": lambda: [os.close(number) for number in numbers]}

    return make


def _full(stream: str) -> Callable[[random.Random, Path], Limit]:
    def make(draw: random.Random, place: Path) -> Limit:
        return {stream: os.open("/dev/full", os.O_WRONLY)}

    return make


def _account(draw: random.Random, place: Path) -> Limit:
    """Run under a user ID without an account, with no rights but the caller's files."""
    return {
        "before": ("unshare", "--user", "--map-user=54321", "--map-group=54321"),
        "environment": {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")},
    }


def _nothing(draw: random.Random, place: Path) -> Limit:
    return {}


def _read_only(draw: random.Random, place: Path) -> Limit:
    (place / "out").mkdir()
    (place / "out").chmod(0o555)
    return _account(draw, place)


KINDS = (
    Kind("largest file", _limited(resource.RLIMIT_FSIZE, lambda draw: int(10 ** draw.uniform(0, 6.5)))),
    Kind("address space", _limited(resource.RLIMIT_AS, lambda draw: int(10 ** draw.uniform(8.5, 10)))),
    Kind("open files", _limited(resource.RLIMIT_NOFILE, lambda draw: draw.randrange(6, 80))),
    Kind("full disk", _nothing, disk=300_000),
    Kind("nearly full disk", _nothing, disk=3_000_000),
    Kind("C locale", _environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")),
    Kind("Latin-1", _environment(LC_ALL="en_US.ISO-8859-1", PYTHONUTF8="0", PYTHONIOENCODING="latin-1")),
    Kind("no home", _environment(HOME=None, XDG_CACHE_HOME=None)),
    Kind("missing home", _environment(HOME="/nowhere", XDG_CACHE_HOME=None)),
    Kind("no account", _account),
    Kind("read-only output folder", _read_only),
    Kind("no temporary folder", _environment(TMPDIR="/nowhere/at/all")),
    Kind("no PATH", _environment(PATH="/nowhere")),
    Kind("dumb terminal", _environment(TERM="dumb", COLUMNS="7", NO_COLOR="1")),
    Kind("closed standard input", _closed(0)),
    Kind("closed standard output", _closed(1), says_nothing=True),
    Kind("closed standard error", _closed(2), says_nothing=True),
    Kind("all streams closed", _closed(0, 1, 2), says_nothing=True),
    Kind("full standard output", _full("stdout"), says_nothing=True),
    Kind("full standard error", _full("stderr"), says_nothing=True),
)


def tortured(ground: Ground, whole: dict[str, Reference], numbers: range) -> Iterator[Case]:
    """Run the cases with these numbers. Each number stands for one pair of all limits with all verbs, shuffled."""
    pairs = [(kind, verb) for kind in KINDS for verb in VERBS]
    random.Random(0).shuffle(pairs)
    for number in numbers:
        kind, verb = pairs[number % len(pairs)]
        yield _limited_run(ground, kind, verb, whole[verb.name], number)


def _limited_run(ground: Ground, kind: Kind, verb: Verb, whole: Reference, number: int) -> Case:
    with tempfile.TemporaryDirectory(prefix="tortured-") as scratch:
        place = Path(scratch)
        mounted = bool(kind.disk) and _mount(place, kind.disk)
        try:
            lay_out(ground, verb, place)
            limit = kind.make(random.Random(number), place)
            process = start(*verb.arguments, folder=place, **limit)  # type: ignore[arg-type]
            for stream in ("stdout", "stderr"):
                if isinstance(limit.get(stream), int):
                    os.close(limit[stream])  # type: ignore[arg-type]
            ended = finish(process)
            out = place / verb.out
            wrong = None
            if kind.disk and not mounted:
                return Case("limits", kind.name, "skipped", None, "only root can mount a small file system")
            if limit.get("before") and b"unshare" in ended.said:
                return Case("limits", kind.name, "skipped", None, ended.said.decode(errors="replace"))
            if ended.status == 0 and verb.facts(out) != whole.facts:
                wrong = "different output than without the limit"
            elif ended.status != 0 and not kind.says_nothing and not ended.said.strip():
                wrong = "no message"
            elif ended.status != 0 and not verb.goes_on and _is_half(verb, out, whole):
                wrong = "partial output under the final name"
            details = f"case {number}: {verb.name} with {kind.name}"
            return judged("limits", kind.name, ended, details, wrong=wrong)
        finally:
            if mounted:
                subprocess.run(["umount", "-l", str(place)], check=True)


def _is_half(verb: Verb, out: Path, whole: Reference) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    return verb.facts(out) not in (whole.facts, verb.failed)


def _mount(place: Path, size: int) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tortured", str(place)]
    return bool(shutil.which("mount")) and subprocess.run(command, capture_output=True).returncode == 0
