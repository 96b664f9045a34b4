"""Kills: a verb receives a signal at a random moment.

Earlier outputs survive, no partial output stands under the final name, and running the verb again gives the same output.
"""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ground import Ground, finish, run, session, start
from outcome import Case, judged
from verbs import VERBS, Facts, Verb, lay_out, put_back

SIGNALS = (*[signal.SIGKILL] * 6, signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ORPHANS = 10.0
"""Seconds that the children of a killed verb have to exit."""


@dataclass(frozen=True)
class Reference:
    """Undisturbed run of a verb."""

    seconds: float
    facts: Facts
    saved: Path
    """Copy of the output."""


def references(ground: Ground, folder: Path) -> dict[str, Reference]:
    """Run each verb undisturbed.

    Raises:
        RuntimeError: a verb fails.
    """
    found = {}
    for verb in VERBS:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            place = Path(scratch)
            lay_out(ground, verb, place)
            began = time.monotonic()
            ended = run(*verb.arguments, folder=place)
            if ended.status != 0:
                raise RuntimeError(f"{verb.name}: {ended.said.decode(errors='replace')}")
            seconds = time.monotonic() - began
            saved = folder / f"whole {verb.name}"
            put_back(place / verb.out, saved)
            found[verb.name] = Reference(seconds, verb.facts(place / verb.out), saved)
    return found


def tortured(ground: Ground, whole: dict[str, Reference], numbers: range) -> Iterator[Case]:
    """Run the kills with these numbers, one verb after the other."""
    for number in numbers:
        verb = VERBS[number % len(VERBS)]
        yield _killed(ground, verb, whole[verb.name], number)


def _killed(ground: Ground, verb: Verb, whole: Reference, number: int) -> Case:
    draw = random.Random(number)
    sent = draw.choice(SIGNALS)
    after = draw.uniform(0, 1.1) * whole.seconds
    over = bool(verb.again) and not verb.goes_on and draw.random() < 0.5
    details = f"case {number}: {sent.name} after {after:.2f} s{', over an earlier output' if over else ''}"
    with tempfile.TemporaryDirectory(prefix="tortured-") as scratch:
        place = Path(scratch)
        lay_out(ground, verb, place)
        if over:
            put_back(whole.saved, place / verb.out)
        arguments = (*verb.arguments, *(verb.again if over else ()))
        process = start(*arguments, folder=place)
        time.sleep(after)
        process.send_signal(sent)
        status = process.wait(timeout=120)
        orphans = _orphans(process.pid)
        ended = finish(process)
        wrong = f"left running: {orphans}" if orphans else None
        out = place / verb.out
        if wrong is None and (over or not verb.goes_on) and out.exists() and verb.facts(out) != whole.facts:
            wrong = "partial output under the final name"
        if wrong is None and over and not out.exists():
            # Between two renames neither name exists; the earlier output is then in a hidden file beside it.
            wrong = None if any(place.glob(f".{verb.out}.old.*")) else "the earlier output is gone"
        if wrong is None and status == 0 and verb.facts(out) != whole.facts:
            wrong = "different output than without the signal"
        if wrong is None and status != 0:
            wrong = _mended(verb, whole, place, over)
        return judged("kills", verb.name, ended, f"{details}, status {status}", sent=sent, wrong=wrong)


def _mended(verb: Verb, whole: Reference, place: Path, over: bool) -> str | None:
    """Run the verb once more; return what is wrong with the result, or None."""
    out = place / verb.out
    again = verb.again if over or verb.goes_on or out.exists() else ()
    ended = run(*verb.arguments, *again, folder=place)
    if ended.status != 0:
        return f"run again: {ended.outcome()}: {ended.said[-300:].decode(errors='replace')}"
    if verb.facts(out) != whole.facts:
        return "run again: different output than without the kill"
    return None


def _orphans(leader: int) -> list[int]:
    """Return the processes of a session that outlive its leader by `ORPHANS` seconds."""
    deadline = time.monotonic() + ORPHANS
    while (left := [one for one in session(leader) if one != leader]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
