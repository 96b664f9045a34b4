"""Pairs: two processes of a verb with the same output, one a little later.

At least one of them writes the usual output; the other does too, or is refused.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ground import Ground, finish, start
from kills import Reference
from outcome import GOOD, Case
from verbs import VERBS, lay_out


def tortured(ground: Ground, whole: dict[str, Reference], numbers: range) -> Iterator[Case]:
    """Run the pairs with these numbers, one verb after the other."""
    for number in numbers:
        draw = random.Random(number)
        verb = VERBS[number % len(VERBS)]
        between = draw.choice((0.0, 0.0, draw.uniform(0, whole[verb.name].seconds)))
        with tempfile.TemporaryDirectory(prefix="tortured-") as scratch:
            place = Path(scratch)
            lay_out(ground, verb, place)
            one = start(*verb.arguments, folder=place)
            time.sleep(between)
            two = start(*verb.arguments, folder=place)
            ends = [finish(one), finish(two)]
            outcomes = sorted(end.outcome() for end in ends)
            fault = next((outcome for outcome in outcomes if outcome not in GOOD), None)
            if fault is None and not set(outcomes) <= {"done", "refused"}:
                fault = f"{outcomes[0]}, {outcomes[1]}"
            if fault is None and "done" not in outcomes:
                fault = "no output"
            if fault is None and verb.facts(place / verb.out) != whole[verb.name].facts:
                fault = "different output than of one process"
            said = b"\n".join(end.said[-300:] for end in ends).decode(errors="backslashreplace") if fault else ""
            details = f"case {number}: {between:.2f} s apart\n{said}".strip()
            yield Case("pairs", verb.name, " and ".join(outcomes), fault, details)
