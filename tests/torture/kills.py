"""Verbs ended at random moments: nothing that was there is lost, nothing half done looks whole, and the next run mends it."""

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
"""Seconds in which what a killed verb had started has to end by itself."""


@dataclass(frozen=True)
class Reference:
    """A verb that was left alone."""

    seconds: float
    facts: Facts
    saved: Path
    """Its output."""


def references(ground: Ground, folder: Path) -> dict[str, Reference]:
    """Of each verb.

    Raises:
        RuntimeError: one fails.
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


def tortured(ground: Ground, whole: dict[str, Reference], cases: int, seed: int) -> Iterator[Case]:
    """So many kills, the verbs in turn."""
    draw = random.Random(seed)
    for number in range(cases):
        verb = VERBS[number % len(VERBS)]
        yield _killed(ground, verb, whole[verb.name], draw, number)


def _killed(ground: Ground, verb: Verb, whole: Reference, draw: random.Random, number: int) -> Case:
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
            wrong = "half an output, under its name"
        if wrong is None and over and not out.exists():
            # Between two renames there is a moment without either; both are then beside it.
            wrong = None if any(place.glob(f".{verb.out}.old.*")) else "the earlier output is gone"
        if wrong is None and status == 0 and verb.facts(out) != whole.facts:
            wrong = "another output than without the signal"
        if wrong is None and status != 0:
            wrong = _mended(verb, whole, place, over)
        return judged("kills", verb.name, ended, f"{details}, status {status}", sent=sent, wrong=wrong)


def _mended(verb: Verb, whole: Reference, place: Path, over: bool) -> str | None:
    """What is wrong after the verb was run once more; None if all is as if it had not been killed."""
    out = place / verb.out
    again = verb.again if over or verb.goes_on or out.exists() else ()
    ended = run(*verb.arguments, *again, folder=place)
    if ended.status != 0:
        return f"run again: {ended.outcome()}: {ended.said[-300:].decode(errors='replace')}"
    if verb.facts(out) != whole.facts:
        return "run again: another output than without the kill"
    return None


def _orphans(leader: int) -> list[int]:
    """What still runs of a session whose leader has ended, after a while."""
    deadline = time.monotonic() + ORPHANS
    while (left := [one for one in session(leader) if one != leader]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
