"""The `Next:` line at the end of a command: a command that continues from what was written, and runs as printed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import click

from edge_af.console import say

WITHOUT = "without next steps"
"""Object of a click context whose commands suggest nothing, because another command continues."""


def suggest(*words: object) -> None:
    """Print the next command. `words` follow `edge-af`; paths are given as `Path`."""
    if click.get_current_context().find_root().obj == WITHOUT:
        return
    texts = [f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words]
    if all(text.isprintable() for text in texts):  # Other names cannot be printed and pasted.
        say(f"Next: edge-af {shlex.join(texts)}")


def unused(path: Path) -> Path:
    """Return a path where nothing is: `path`, or one with a number."""

    def candidates() -> Iterator[Path]:
        yield path
        for number in count(2):
            yield path.with_name(f"{path.stem}-{number}{path.suffix}")

    return next(one for one in candidates() if not one.exists())
