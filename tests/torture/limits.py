"""Too little of everything: disk, memory, handles, streams, language, home, account, place. A verb works, or says why not."""

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
"""What is handed to the process: `preexec_fn`, streams, `environment`."""


@dataclass(frozen=True)
class Kind:
    """A kind of limit."""

    name: str
    make: Callable[[random.Random, Path], Limit]
    says_nothing: bool = False
    """Whether what the verb says goes nowhere."""
    disk: int = field(default=0)
    """Bytes of a file system of its own that the folder is on; 0: none."""


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
    """Of a number that no account has; it owns what the caller owns, and has no other rights."""
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
    Kind("disk", _nothing, disk=300_000),
    Kind("disk, not quite", _nothing, disk=3_000_000),
    Kind("C locale", _environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")),
    Kind("Latin-1", _environment(LC_ALL="en_US.ISO-8859-1", PYTHONUTF8="0", PYTHONIOENCODING="latin-1")),
    Kind("no home", _environment(HOME=None, XDG_CACHE_HOME=None)),
    Kind("a home that is not there", _environment(HOME="/nowhere", XDG_CACHE_HOME=None)),
    Kind("no account", _account),
    Kind("a folder that is read only", _read_only),
    Kind("no place for temporary files", _environment(TMPDIR="/nowhere/at/all")),
    Kind("no PATH", _environment(PATH="/nowhere")),
    Kind("a dumb terminal", _environment(TERM="dumb", COLUMNS="7", NO_COLOR="1")),
    Kind("closed input", _closed(0)),
    Kind("closed output", _closed(1), says_nothing=True),
    Kind("closed error", _closed(2), says_nothing=True),
    Kind("all streams closed", _closed(0, 1, 2), says_nothing=True),
    Kind("full output", _full("stdout"), says_nothing=True),
    Kind("full error", _full("stderr"), says_nothing=True),
)


def tortured(ground: Ground, whole: dict[str, Reference], cases: int, seed: int) -> Iterator[Case]:
    """So many verbs under limits, all pairs in turn."""
    draw = random.Random(seed)
    pairs = [(kind, verb) for kind in KINDS for verb in VERBS]
    draw.shuffle(pairs)
    for number in range(cases):
        kind, verb = pairs[number % len(pairs)]
        yield _limited_run(ground, kind, verb, whole[verb.name], draw, number)


def _limited_run(ground: Ground, kind: Kind, verb: Verb, whole: Reference, draw: random.Random, number: int) -> Case:
    with tempfile.TemporaryDirectory(prefix="tortured-") as scratch:
        place = Path(scratch)
        mounted = bool(kind.disk) and _mount(place, kind.disk)
        try:
            lay_out(ground, verb, place)
            limit = kind.make(draw, place)
            process = start(*verb.arguments, folder=place, **limit)  # type: ignore[arg-type]
            for stream in ("stdout", "stderr"):
                if isinstance(limit.get(stream), int):
                    os.close(limit[stream])  # type: ignore[arg-type]
            ended = finish(process)
            out = place / verb.out
            wrong = None
            if kind.disk and not mounted:
                return Case(
                    "limits", kind.name, "left out", None, "no file system could be made for it: this takes root"
                )
            if limit.get("before") and b"unshare" in ended.said:
                return Case("limits", kind.name, "left out", None, ended.said.decode(errors="replace"))
            if ended.status == 0 and verb.facts(out) != whole.facts:
                wrong = "done, and another output than without the limit"
            elif ended.status != 0 and not kind.says_nothing and not ended.said.strip():
                wrong = "not a word of why"
            elif ended.status != 0 and not verb.goes_on and _is_half(verb, out, whole):
                wrong = "half an output, under its name"
            details = f"case {number}: {verb.name} with {kind.name}"
            return judged("limits", f"{kind.name}", ended, details, wrong=wrong)
        finally:
            if mounted:
                subprocess.run(["umount", "-l", str(place)], check=True)


def _is_half(verb: Verb, out: Path, whole: Reference) -> bool:
    return out.exists() and not (out.is_dir() and not any(out.iterdir())) and verb.facts(out) != whole.facts


def _mount(place: Path, size: int) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tortured", str(place)]
    return bool(shutil.which("mount")) and subprocess.run(command, capture_output=True).returncode == 0
